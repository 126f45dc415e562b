"""What the engine would compile and launch on a GPU, found out without one.

The engine itself takes the call, on CPU tensors that it is told are on a GPU: it chooses kernels, makes
tables and arguments, and launches. Instead of compiling, what was to be compiled is written down; a launch
holds the arguments against what the kernel's signature promises of them, and computes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade import flex_attention
from saccade.backends.triton import backend, backward, call, kernels
from saccade.runtime.triton import Device, Resources, Target, compile_kernel

__all__ = ["Recorded", "record", "resources_of"]

_MULTIPROCESSORS = 132

_TYPES = {
    "*i1": torch.bool,
    "*u8": torch.uint8,
    "*i8": torch.int8,
    "*i16": torch.int16,
    "*i32": torch.int32,
    "*i64": torch.int64,
    "*fp16": torch.float16,
    "*bf16": torch.bfloat16,
    "*fp32": torch.float32,
    "*fp64": torch.float64,
}


@dataclass(frozen=True, eq=False)
class Recorded:
    """What was to be compiled, and how it was launched.

    Attributes:
        text: The module.
        name: The kernel in it.
        signature: The parameters' types.
        divisible: What parameters are multiples of.
        options: Target, warps, stages and the mods' text.
        grids: How many programs each launch had.
    """

    text: str
    name: str
    signature: Mapping[str, str]
    divisible: Mapping[str, int]
    options: dict[str, Any]
    grids: list[int]

    def is_loaded(self, device: torch.device) -> bool:
        """There is nothing to load."""
        return True

    def launch(self, grid: int, arguments: Sequence[object], device: torch.device) -> None:
        """Hold arguments against the signature."""
        assert 0 < grid < 2**31
        for (name, type_), value in zip(self.signature.items(), arguments, strict=True):
            _check(name, type_, value, self.divisible.get(name, 1))
            if name.startswith("sum") and name.endswith("_index"):
                assert isinstance(value, Tensor)
                value.zero_()  # the host adds up at these indices
        self.grids.append(grid)


def record(
    target: str, leaves: Sequence[Tensor], *, backward_too: bool = True, **options: Any
) -> list[Recorded]:
    """Return what a call and its backward compile on a GPU, in the order in which it is first needed.

    Args:
        target: The architecture, as "cuda:90".
        leaves: Query, key and value, on the CPU.
        backward_too: Whether the output is differentiated.
        options: The call's.
    """
    found: list[Recorded] = []

    def written_down(text: str, name: str, signature: Any, divisible: Any, **others: Any) -> Recorded:
        found.append(Recorded(text, name, signature, divisible, others, []))
        return found[-1]

    parsed = Target.parse(target)
    device = Device(parsed, _MULTIPROCESSORS, parsed.shared_limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "is_available", lambda _: None)
        for module in (backend, call, backward):
            patch.setattr(module, "describe_device", lambda _: device)
        patch.setattr(kernels, "compile_kernel", written_down)
        _forget()
        try:
            out = flex_attention(*leaves[:3], enable_gqa=True, backend="triton", **options)
            if backward_too:
                out.backward(torch.zeros_like(out))  # type: ignore[union-attr]
        finally:
            _forget()
    assert all(each.grids for each in found), "what is compiled is launched"
    return found


def resources_of(recorded: Recorded) -> Resources:
    """Compile what was written down, as if nothing had been compiled before; return what it uses."""
    with tempfile.TemporaryDirectory() as room, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SACCADE_CACHE_DIR", f"{room}/saccade")
        patch.setenv("TRITON_CACHE_DIR", f"{room}/triton")
        found = compile_kernel(
            recorded.text, recorded.name, recorded.signature, recorded.divisible, **recorded.options
        ).resources
    assert found is not None, "it is compiled, not interpreted"
    return found


def _forget() -> None:
    """Let no problem keep a device that is none, or a kernel that computes nothing."""
    kernels.KERNELS.clear()
    backend._made_ready.cache_clear()
    backend._backward_made_ready.cache_clear()


def _check(name: str, type_: str, value: object, divisible: int) -> None:
    if type_.startswith("*"):
        if value is None:
            return
        assert isinstance(value, Tensor), name
        assert value.dtype is _TYPES[type_], f"{name} is {value.dtype}, and its type {type_}"
        assert value.data_ptr() % divisible == 0, f"{name} is not on {divisible} bytes"
    elif type_.startswith("i"):
        assert isinstance(value, int), name
        bits = int(type_[1:])
        assert -(2 ** (bits - 1)) <= value < 2 ** (bits - 1), f"{name}={value} in {type_}"
        assert value % divisible == 0, f"{name}={value} is no multiple of {divisible}"
    elif type_.startswith("fp"):
        assert isinstance(value, float | int), name
    else:
        assert type_.startswith("tensordesc"), type_
