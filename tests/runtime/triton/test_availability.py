"""Whether triton can be used is told with its reason, and nobody pays for triton who does not use it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runtime.triton.kernels import run_script
from saccade.errors import ArgumentError, UnsupportedError
from saccade.runtime.triton import Device, Target, describe_device, devices, is_available, timing

ASKED = """
import sys
import saccade
from saccade.runtime.triton import is_available, is_interpreted
print(is_available("cpu"), is_interpreted())
print("triton" in sys.modules)
"""

ABSENT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    missing = "triton"

    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.missing)

sys.meta_path.insert(0, Absent())

from saccade.errors import MissingPackageError
from saccade.runtime.triton import Target, compile_kernel, is_available, is_interpreted
from saccade.runtime.triton.installed import missing_package

print(is_available("cuda"))
print(is_interpreted())
try:
    compile_kernel("", "f", {}, {}, target=Target.parse("cuda:80"), warps=4, stages=1)
except MissingPackageError as fault:
    print(fault)
missing_package.cache_clear()
Absent.missing = "libtriton"
print(is_available("cuda"))
"""


def test_nothing_happens_before_triton_is_needed(tmp_path: Path) -> None:
    reason, imported = run_script(ASKED, tmp_path).splitlines()
    assert reason == (
        "it runs on accelerators, and on the CPU only in triton's interpreter: set TRITON_INTERPRET=1 before "
        "the process starts False"
    )
    assert imported == "False"
    assert list(tmp_path.iterdir()) == []


def test_without_triton_the_reason_is_how_to_install_it(tmp_path: Path) -> None:
    reason, interpreted, fault, broken = run_script(ABSENT, tmp_path).splitlines()
    assert reason == "it needs the package triton, which is not installed: pip install 'saccade[gpu]'"
    assert interpreted == "False"
    assert fault == f"saccade.runtime.triton was asked for a kernel; {reason}."
    # A triton that is there and lacks a part of itself is another matter.
    assert broken == (
        "it needs the package triton, which is installed but cannot be imported: No module named 'triton'"
    )


class FakeDriver:
    """Drives devices of type `cuda`, of which number 3 is the current one."""

    current = 3
    utils = SimpleNamespace(
        get_device_properties=lambda index: {"multiprocessor_count": 100 + index, "max_shared_mem": 232_448}
    )

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", self.current)

    def get_current_device(self) -> int:
        return self.current

    def set_current_device(self, index: int) -> None:
        self.current = index

    def get_current_target(self) -> SimpleNamespace:
        return SimpleNamespace(backend="cuda", arch=80 + 10 * (self.current == 1), warp_size=32)

    def get_device_interface(self) -> SimpleNamespace:
        return SimpleNamespace(Event=FakeEvent)


class FakeEvent:
    """The n-th pair of events is n milliseconds apart, but the second, which is an hour."""

    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        FakeEvent.made += 1
        self.number = FakeEvent.made
        self.recorded = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.recorded
        assert end.recorded
        assert end.number == self.number + 1
        return 3.6e6 if end.number == 4 else end.number / 2


@pytest.fixture
def _driven(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")
    driver = FakeDriver()
    for module in (devices, timing):
        monkeypatch.setattr(module, "active_driver", lambda: driver)
    devices._driver_is_missing.cache_clear()
    devices._describe.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    devices._driver_is_missing.cache_clear()
    devices._describe.cache_clear()


@pytest.mark.usefixtures("_driven")
class TestADriver:
    def test_its_devices_are_described(self) -> None:
        assert is_available("cuda") is None
        assert describe_device(torch.device("cuda", 1)) == Device(Target("cuda", 90, 32), 101, 232_448)
        assert describe_device(torch.device("cuda")) == Device(Target("cuda", 80, 32), 103, 232_448)

    def test_other_devices_are_not_its_own(self) -> None:
        assert is_available("xpu") == (
            "it needs a driver of triton's for xpu devices, and here triton drives cuda"
        )
        expected = (
            "triton cannot be used with device='xpu': it needs a driver of triton's for xpu devices, and here"
        )
        with pytest.raises(UnsupportedError, match=re.escape(expected)):
            describe_device(torch.device("xpu"))

    def test_time_is_the_devices_and_a_median(self) -> None:
        FakeEvent.made = 0
        runs: list[int] = []
        seconds = timing.median_seconds(
            lambda: runs.append(devices.active_driver().current),
            torch.device("cuda", 1),
            repeats=5,
            warm_up=2,
        )
        assert seconds == pytest.approx(4e-3)
        assert runs == [3, 3, 1, 1, 1, 1, 1]
        assert devices.active_driver().current == 3


def finds(answer: bool | None) -> SimpleNamespace:
    """A backend of triton's that finds its devices, or not, or stumbles."""

    def is_active() -> bool:
        if answer is None:
            raise OSError("no such library")
        return answer

    return SimpleNamespace(driver=SimpleNamespace(is_active=is_active))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"amd": False, "nvidia": False}, "triton finds none here"),
        ({"amd": True, "nvidia": True}, "triton finds several: amd, nvidia"),
        ({"amd": False, "nvidia": True}, "that of nvidia does not start here (there is no C compiler)"),
        ({"amd": False, "nvidia": None}, "that of nvidia does not start here (there is no C compiler)"),
    ],
)
def test_a_driver_that_does_not_start_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool | None], told: str
) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

    def broken() -> object:
        raise RuntimeError("there is no C compiler\nand more of it")

    monkeypatch.setattr(devices, "active_driver", broken)
    monkeypatch.setattr(triton.backends, "backends", {name: finds(one) for name, one in found.items()})
    devices._driver_is_missing.cache_clear()
    assert is_available("cuda") == f"it needs a driver of triton's for cuda devices, and {told}"


@pytest.mark.parametrize("device", ["mps", "hpu", "meta"])
def test_devices_that_triton_serves_nowhere_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    def asked() -> str:
        raise AssertionError("triton was looked for")

    monkeypatch.setattr(devices, "missing_package", asked)
    monkeypatch.setattr(devices, "is_interpreted", lambda: False)
    assert is_available(device) == f"it has no kernels for {device} devices"


def test_the_interpreter_serves_every_device_that_holds_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "missing_package", lambda: None)
    monkeypatch.setattr(devices, "is_interpreted", lambda: True)
    assert is_available("mps") is None
    assert is_available("meta") == "it has no kernels for meta devices"


def test_on_the_cpu_the_wall_clock_is_read() -> None:
    import time

    runs: list[float] = []

    def work() -> None:
        runs.append(1)
        time.sleep(0.002)

    seconds = timing.median_seconds(work, torch.device("cpu"), repeats=3, warm_up=1)
    assert 0.002 <= seconds < 0.5
    assert len(runs) == 4


class TestTargets:
    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("cuda:80", Target("cuda", 80, 32)),
            ("cuda:100", Target("cuda", 100, 32)),
            ("hip:gfx942", Target("hip", "gfx942", 64)),
            ("hip:gfx1100", Target("hip", "gfx1100", 32)),
        ],
    )
    def test_a_name_is_read_and_told(self, name: str, target: Target) -> None:
        assert Target.parse(name) == target
        assert target.name == name

    @pytest.mark.parametrize("name", ["cuda", "cuda:", "cuda:9.0", "", ":90"])
    def test_another_name_is_refused(self, name: str) -> None:
        expected = f"must be backend and architecture, as 'cuda:90' or 'hip:gfx942', but name={name!r}"
        with pytest.raises(ArgumentError, match=re.escape(expected)):
            Target.parse(name)

    @pytest.mark.parametrize(
        ("name", "kib", "described"),
        [("cuda:80", 163, False), ("cuda:90", 227, True), ("cuda:100", 227, True), ("hip:gfx942", 64, False)],
    )
    def test_limits(self, name: str, kib: int, described: bool) -> None:
        target = Target.parse(name)
        assert target.shared_limit == kib << 10
        assert target.has_descriptors == described

    def test_an_unknown_architecture_has_no_table(self) -> None:
        assert Target.parse("cuda:999").shared_limit is None
