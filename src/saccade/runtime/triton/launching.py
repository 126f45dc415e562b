"""Machine code on a device: loaded at its first launch there, then started with little work a launch.

Owns the way from a compiled kernel to the driver: one loaded module a device, the current stream, the current
device, triton's launch hooks and its scratch memory. Knows nothing of what the arguments mean.
"""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import torch

from saccade.errors import ArgumentError, OutOfResourcesError
from saccade.runtime.fork import renew_in_child
from saccade.runtime.triton.devices import active_driver, device_index, on_device
from saccade.runtime.triton.installed import triton_package
from saccade.runtime.triton.resources import Resources, TritonKernel, read_resources
from saccade.runtime.triton.target import Target

__all__ = ["MAX_PROGRAMS", "DeviceKernel"]

MAX_PROGRAMS = 2**31 - 1
"""The most programs of one launch, in the first dimension of a grid."""

Launcher: TypeAlias = Callable[[int, Sequence[object]], None]


@final
class DeviceKernel:
    """A `Compiled` kernel of machine code."""

    def __init__(self, name: str, source: Path, target: Target, kernel: TritonKernel) -> None:
        self.name = name
        self.source = source
        self.target = target
        self._kernel = kernel  # as it was compiled; what a device loads is a copy
        self._launchers: dict[int | None, Launcher] = {}
        self._resources: Resources | None = None
        self._lock = threading.Lock()
        renew_in_child(self)

    def __repr__(self) -> str:
        return f"<DeviceKernel {self.name} for {self.target.name}>"

    def launch(self, grid: int, arguments: Sequence[object], device: torch.device) -> None:
        """Start the kernel on the current stream of a device: see `Compiled.launch`."""
        launcher = self._launchers.get(device.index)
        if launcher is None:
            launcher = self._launcher(device)
        launcher(grid, arguments)

    def is_loaded(self, device: torch.device) -> bool:
        """Tell whether a launch on a device finds the kernel there; the first loads it."""
        return device_index(device) in self._launchers

    @property
    def resources(self) -> Resources:
        """What a block and its threads use."""
        if self._resources is None:
            self._resources = read_resources(self._kernel, self.target)
        return self._resources

    def renew(self) -> None:
        """In a forked child: what was loaded belongs to the parent's context."""
        self._launchers = {}
        self._lock = threading.Lock()

    def _launcher(self, device: torch.device) -> Launcher:
        """The launcher of a device, loaded once; one for the current device is not kept as "current"."""
        index = device_index(device)
        with self._lock:
            launcher = self._launchers.get(index)
            if launcher is None:
                with on_device(index):
                    launcher = self._launchers[index] = self._load(index)
            return launcher

    def _load(self, index: int) -> Launcher:
        kernel = copy.copy(self._kernel)
        errors = triton_package().runtime.errors
        try:
            run = kernel.run
        except errors.OutOfResources as fault:
            raise OutOfResourcesError(
                f"kernel {self.name!r} needs {fault.required} of {fault.name}, and device {index} has "
                f"{fault.limit}; choose a smaller tile or fewer stages.",
                resource=fault.name,
                required=fault.required,
                limit=fault.limit,
            ) from None
        if getattr(kernel.metadata, "global_scratch_size", 0):
            run = _with_scratch(run, active_driver().get_active_torch_device().type, index)
        return _launcher_of(kernel, run, index)


def _launcher_of(kernel: TritonKernel, run: Callable[..., None], index: int) -> Launcher:
    """What is the same for every launch is found once; a launch then reads only what may have changed."""
    driver = active_driver()
    current_device, current_stream = driver.get_current_device, driver.get_current_stream
    hooks = triton_package().knobs.runtime
    function, packed = kernel.function, kernel.packed_metadata

    def launch(grid: int, arguments: Sequence[object]) -> None:
        if grid > MAX_PROGRAMS:
            raise ArgumentError(
                f"a launch takes at most {MAX_PROGRAMS} programs, but grid={grid}; use larger tiles, "
                "or fewer batches and heads at once."
            )
        if current_device() != index:
            with on_device(index):
                launch(grid, arguments)
            return
        stream = current_stream(index)
        enter, leave = hooks.launch_enter_hook, hooks.launch_exit_hook
        if _is_set(enter) or _is_set(leave):
            metadata = kernel.launch_metadata((grid, 1, 1), stream, *arguments)
            run(grid, 1, 1, stream, function, packed, metadata, enter, leave, *arguments)
        else:
            run(grid, 1, 1, stream, function, packed, None, None, None, *arguments)

    return launch


def _is_set(hook: Any) -> bool:
    """Whether a hook has someone to call: it is None, a function, or a chain that may be empty."""
    return bool(getattr(hook, "calls", hook))


def _with_scratch(run: Callable[..., None], device_type: str, index: int) -> Callable[..., None]:
    """Lend triton the device memory that a kernel needs while it runs, from torch's allocator.

    Torch gives it to nobody else before the work of the current stream is done.
    """
    device = torch.device(device_type, index)

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int8, device=device)

    def lent(*launch: Any) -> None:
        triton_package().set_allocator(allocate)
        run(*launch)

    # The allocator is a context variable; a user's own stays as it is.
    return lambda *launch: contextvars.copy_context().run(lent, *launch)
