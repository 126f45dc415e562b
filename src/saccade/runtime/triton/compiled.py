"""What a compiled kernel is to those who launch it, however it came to be.

Two kinds: `launching` runs machine code on a device, `interpreted` runs the text on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from saccade.runtime.triton.resources import Resources
from saccade.runtime.triton.target import Target

__all__ = ["Compiled"]


class Compiled(Protocol):
    """A kernel that can be launched, any number of times and from any thread.

    Attributes:
        name: The function.
        source: The file that holds its text.
        target: What it was compiled for.
    """

    name: str
    source: Path
    target: Target

    def launch(self, grid: int, arguments: Sequence[object], device: torch.device) -> None:
        """Start the kernel on the current stream of a device, and do not wait for it.

        Args:
            grid: How many programs run, from 0 on; program n finds n in `tl.program_id(0)`.
            arguments: A value for each parameter, in the order of the signature: tensors (or None, a null
                pointer) for pointers, what `tensor_descriptor` made for descriptors, numbers for the rest. As
                divisible as the kernel was compiled for: nothing is checked here.
            device: Where the tensors are; it need not be the current device.

        Raises:
            ArgumentError: The grid has more programs than a launch takes, 2³¹ − 1.
            OutOfResourcesError: At the first launch: the device has less memory for a block than is needed.
        """

    def is_loaded(self, device: torch.device) -> bool:
        """Tell whether a launch on a device finds the kernel there; the first loads it."""

    @property
    def resources(self) -> Resources | None:
        """What a block and its threads use; None for an interpreted kernel, which uses none of a device."""
