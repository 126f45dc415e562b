"""Which devices triton can use here, and what they are.

Everything is asked of triton's active driver, so that nothing names a vendor: whatever triton drives is a
device, and torch's name of its type is `device.type`. Invariant: asking whether a device can be used raises
nothing and compiles nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, final

import torch

from saccade.errors import UnsupportedError
from saccade.runtime.triton.installed import is_interpreted, missing_package, triton_package
from saccade.runtime.triton.target import Target

__all__ = [
    "INTERPRETER",
    "Device",
    "current_target",
    "describe_device",
    "device_index",
    "is_available",
    "on_device",
]

Driver: TypeAlias = Any
"""Triton's driver of a kind of device, which is not typed."""

_UNSERVED = frozenset({"hpu", "ipu", "lazy", "meta", "mps", "vulkan", "xla"})
"""Torch's types of devices that no backend of triton compiles for. Any other is asked of triton's driver."""

INTERPRETER = Target("interpreter", 0, 32)
"""What kernels are 'compiled' for where triton interprets them."""


@final
@dataclass(frozen=True)
class Device:
    """What an accelerator is to kernels.

    Attributes:
        target: What to compile for.
        multiprocessors: How many blocks can run at the same time, at least.
        shared_limit: Bytes of shared memory that one block may use; None where there is no limit.
    """

    target: Target
    multiprocessors: int
    shared_limit: int | None


def is_available(device_type: str) -> str | None:
    """Tell why triton cannot run kernels on a type of device here; None if it can.

    Under the interpreter every device that holds data is one: tensors are moved to the CPU and back.

    Args:
        device_type: Torch's name, as in `tensor.device.type`: `cuda` for NVIDIA and AMD, `cpu`, `mps`.

    Returns:
        A clause about "it", what needs triton: "it needs the package triton, which is not installed: ...".
        The package and its drivers are looked at only for devices that triton serves somewhere.
    """
    if device_type in _UNSERVED and (device_type == "meta" or not is_interpreted()):
        return f"it has no kernels for {device_type} devices"
    if device_type == "cpu" and not is_interpreted():
        # Known without importing triton.
        return (
            "it runs on accelerators, and on the CPU only in triton's interpreter: set TRITON_INTERPRET=1 "
            "before the process starts"
        )
    missing = missing_package()
    if missing is not None or is_interpreted():
        return missing
    return _driver_is_missing(device_type)


def describe_device(device: torch.device) -> Device:
    """Return what a device is, found out once; without an index it is the current one of its type.

    Raises:
        UnsupportedError: Triton cannot run kernels there, with the reason of `is_available`.
    """
    reason = is_available(device.type)
    if reason is not None:
        raise UnsupportedError(f"triton cannot be used with device={str(device)!r}: {reason}.")
    if is_interpreted():
        return Device(INTERPRETER, 1, None)
    return _describe(device_index(device))


def current_target(device: torch.device) -> Target:
    """Return what to compile for so that it runs on a device; `INTERPRETER` where triton interprets.

    Raises:
        UnsupportedError: As `describe_device`.
    """
    return describe_device(device).target


def device_index(device: torch.device) -> int:
    """Return the number of a device among those of its type; the current one if it has none of its own."""
    index: int | None = device.index
    if index is None:
        index = active_driver().get_current_device()
        assert index is not None
    return index


@contextmanager
def on_device(index: int) -> Iterator[None]:
    """Make a device the current one meanwhile."""
    driver = active_driver()
    before = driver.get_current_device()
    if before != index:
        driver.set_current_device(index)
    try:
        yield
    finally:
        if before != index:
            driver.set_current_device(before)


def active_driver() -> Driver:
    """Return triton's driver; there must be one."""
    return triton_package().runtime.driver.active


@cache
def _driver_is_missing(device_type: str) -> str | None:
    try:
        driven = active_driver().get_active_torch_device().type
    except Exception as fault:  # no active driver, or whatever building one met: no C compiler
        needed = f"it needs a driver of triton's for {device_type} devices"
        active = _active_backends()
        if len(active) == 1:
            return f"{needed}, and that of {active[0]} does not start here ({_first_line(fault)})"
        return f"{needed}, and triton finds {'several: ' + ', '.join(active) if active else 'none here'}"
    if driven != device_type:
        return f"it needs a driver of triton's for {device_type} devices, and here triton drives {driven}"
    return None


def _active_backends() -> list[str]:
    """The names of triton's backends that find their devices here, or stumble over it."""
    found = []
    for name, backend in triton_package().backends.backends.items():
        try:
            if backend.driver.is_active():
                found.append(name)
        except Exception:  # whatever a driver meets that looks for its devices; the caller tells of it
            found.append(name)
    return found


@cache
def _describe(index: int) -> Device:
    driver = active_driver()
    with on_device(index):
        found = driver.get_current_target()
        properties = driver.utils.get_device_properties(index)
    return Device(
        Target(found.backend, found.arch, found.warp_size),
        properties["multiprocessor_count"],
        properties["max_shared_mem"],
    )


def _first_line(fault: Exception) -> str:
    return (str(fault) or type(fault).__name__).splitlines()[0]
