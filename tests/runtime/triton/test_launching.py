"""A launch finds device, stream and hooks as they are now, and loads machine code once a device.

The driver is a stand-in that notes what it is asked: what a kernel computes is tested by the interpreter, and
on a device where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

import triton

from runtime.triton.kernels import AXPY, AXPY_SIGNATURE, DESCRIBED, DESCRIBED_SIGNATURE
from saccade.errors import ArgumentError, OutOfResourcesError
from saccade.runtime.triton import (
    Target,
    compile_kernel,
    current_target,
    devices,
    launching,
    tensor_descriptor,
)
from saccade.runtime.triton.launching import DeviceKernel

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


class FakeDriver:
    """Two devices; device 0 is the current one, and stream s of device i is 100 * i + s."""

    def __init__(self) -> None:
        self.current = 0
        self.stream = 7

    def get_current_device(self) -> int:
        return self.current

    def set_current_device(self, index: int) -> None:
        self.current = index

    def get_current_stream(self, index: int) -> int:
        return 100 * index + self.stream

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class FakeKernel:
    """Notes its launches; loads as a device would, when `run` is first asked for."""

    packed_metadata = (4, 1, 0)

    def __init__(self, driver: FakeDriver, scratch: int = 0) -> None:
        self.driver = driver
        self.metadata = SimpleNamespace(global_scratch_size=scratch, shared=0)
        self.loads: list[int] = []
        self.launches: list[tuple[Any, ...]] = []
        self.function: str | None = None
        self.fault: Exception | None = None

    @property
    def run(self) -> Any:
        if self.fault is not None:
            raise self.fault
        self.loads.append(self.driver.current)
        self.function = f"function of {self.driver.current}"
        return self.started

    def started(self, *launch: Any) -> None:
        self.launches.append((self.driver.current, *launch))

    def launch_metadata(self, grid: tuple[int, int, int], stream: int, *arguments: Any) -> Any:
        return ("metadata", grid, stream, arguments)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    for module in (devices, launching):
        monkeypatch.setattr(module, "active_driver", lambda: fake)
    return fake


@pytest.fixture
def fake(driver: FakeDriver) -> FakeKernel:
    return FakeKernel(driver)


def kernel_of(fake: FakeKernel) -> DeviceKernel:
    return DeviceKernel("axpy", Path("axpy.py"), Target.parse("cuda:90"), fake)


def test_a_launch_goes_to_the_current_stream(fake: FakeKernel, driver: FakeDriver) -> None:
    kernel = kernel_of(fake)
    kernel.launch(5, ["a", 1, 2.0], FIRST)
    driver.stream = 8
    kernel.launch(6, ["b"], FIRST)
    assert fake.loads == [0]
    assert fake.launches == [
        (0, 5, 1, 1, 7, "function of 0", (4, 1, 0), None, None, None, "a", 1, 2.0),
        (0, 6, 1, 1, 8, "function of 0", (4, 1, 0), None, None, None, "b"),
    ]
    assert repr(kernel) == "<DeviceKernel axpy for cuda:90>"


def test_each_device_loads_its_own(fake: FakeKernel, driver: FakeDriver) -> None:
    kernel = kernel_of(fake)
    for device, loaded in ((SECOND, False), (FIRST, False), (SECOND, True)):
        assert kernel.is_loaded(device) is loaded
        kernel.launch(1, [], device)
        assert kernel.is_loaded(device)
        assert driver.current == 0
    assert fake.loads == [1, 0]
    assert [(on, stream, function) for on, _, _, _, stream, function, *_ in fake.launches] == [
        (1, 107, "function of 1"),
        (0, 7, "function of 0"),
        (1, 107, "function of 1"),
    ]


def test_a_device_without_a_number_is_the_current_one(fake: FakeKernel, driver: FakeDriver) -> None:
    kernel = kernel_of(fake)
    kernel.launch(1, [], torch.device("cuda"))
    driver.current = 1
    kernel.launch(1, [], torch.device("cuda"))
    assert [launch[0] for launch in fake.launches] == [0, 1]


def test_the_device_is_restored_when_a_launch_fails(fake: FakeKernel, driver: FakeDriver) -> None:
    kernel = kernel_of(fake)
    kernel.launch(1, [], SECOND)

    def broken(*launch: Any) -> None:
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    fake.started = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        kernel_of(fake).launch(1, [], SECOND)
    assert driver.current == 0


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    """What triton's launch hooks are told."""
    told: list[Any] = []
    hooks = triton.knobs.runtime
    hooks.launch_enter_hook.add(told.append)
    yield told
    hooks.launch_enter_hook.remove(told.append)


def test_profilers_hear_of_launches(fake: FakeKernel, heard: list[Any]) -> None:
    kernel_of(fake).launch(3, ["a"], FIRST)
    (launch,) = fake.launches
    metadata, enter, leave = launch[7:10]
    assert metadata == ("metadata", (3, 1, 1), 7, ("a",))
    enter(metadata)
    assert heard == [metadata]
    assert leave is triton.knobs.runtime.launch_exit_hook


def test_scratch_memory_is_lent_for_the_launch_alone(driver: FakeDriver) -> None:
    fake = FakeKernel(driver, scratch=64)
    lent: list[torch.Tensor] = []
    allocator = triton.runtime._allocation._allocator
    fake.started = lambda *launch: lent.append(allocator.get()(640, 128, 7))  # type: ignore[method-assign]
    before = allocator.get()
    # The stand-in has its memory on the CPU, where there is no second device.
    driver.get_active_torch_device = lambda: torch.device("meta")  # type: ignore[method-assign]
    kernel_of(fake).launch(10, [], FIRST)
    assert [(memory.numel(), memory.dtype) for memory in lent] == [(640, torch.int8)]
    assert allocator.get() is before


def test_a_grid_has_an_end(fake: FakeKernel) -> None:
    expected = "a launch takes at most 2147483647 programs, but grid=2147483648; use larger tiles"
    with pytest.raises(ArgumentError, match=re.escape(expected)):
        kernel_of(fake).launch(2**31, [], FIRST)
    assert fake.launches == []


def test_a_device_that_is_too_small_is_told(fake: FakeKernel) -> None:
    fake.fault = triton.runtime.errors.OutOfResources(200_000, 101_376, "shared memory")
    expected = "kernel 'axpy' needs 200000 of shared memory, and device 1 has 101376; choose a smaller tile"
    with pytest.raises(OutOfResourcesError, match=re.escape(expected)) as caught:
        kernel_of(fake).launch(1, [], SECOND)
    assert (caught.value.resource, caught.value.required, caught.value.limit) == (
        "shared memory",
        200_000,
        101_376,
    )


def test_a_forked_child_loads_anew(fake: FakeKernel) -> None:
    kernel = kernel_of(fake)
    kernel.launch(1, [], FIRST)
    kernel.renew()
    kernel.launch(1, [], FIRST)
    assert fake.loads == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
class TestOnADevice:
    def test_numbers_pointers_and_ends(self) -> None:
        device = torch.device("cuda", 0)
        kernel = compile_kernel(
            AXPY, "axpy", AXPY_SIGNATURE, {}, target=current_target(device), warps=1, stages=1
        )
        x, y = torch.randn(2, 100, device=device)
        out = torch.full((128,), 9.0, device=device)
        kernel.launch(4, [out, x, y, 100, 0.5, 3 << 32], device)
        torch.testing.assert_close(out[:100], x * 0.5 + y + 3)
        assert out[100:].eq(9.0).all()

    def test_a_described_tile(self) -> None:
        device = torch.device("cuda", 0)
        kernel = compile_kernel(
            DESCRIBED, "described", DESCRIBED_SIGNATURE, {}, target=current_target(device), warps=4, stages=1
        )
        base = torch.randn(2, 1, 40, 16, device=device).half()
        tiles = tensor_descriptor(base, base.shape, base.stride(), [1, 1, 16, 16])
        out = torch.empty(16, 16, device=device)
        kernel.launch(1, [out, tiles, 32], device)
        rows = torch.zeros(16, 16, device=device)
        rows[:8] = base[1, 0, 32:].float()
        torch.testing.assert_close(out, rows @ rows.T, atol=1e-4, rtol=1e-4)
