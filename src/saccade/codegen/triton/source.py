"""What the Triton code generator gives back: a module's text, and what a caller must know to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.codegen.triton.parameters import Parameter

__all__ = ["CapturedSum", "TritonSource"]


@final
@dataclass(frozen=True)
class CapturedSum:
    """One contribution to the gradient of a captured tensor, as a kernel gives it back.

    Attributes:
        slot: The capture.
        way: How it comes back.
        value: The parameter of its values, float32; where the way is not kept, of the gradient itself, dense
            and zeroed before.
        index: The parameter of the flat indices into the gradient, int64; "" where the way is not kept.
    """

    slot: int
    way: CaptureWay
    value: str
    index: str = ""


@final
@dataclass(frozen=True)
class TritonSource:
    """A kernel as text.

    Attributes:
        text: A whole Python module.
        name: The `@triton.jit` function in it.
        parameters: Its parameters in order; constants are in the text.
        warps: Warps of a program.
        stages: Stages of pipelined loops.
        sums: In the kernels of gradients, how captured gradients come back.
    """

    text: str
    name: str
    parameters: tuple[Parameter, ...]
    warps: int
    stages: int
    sums: tuple[CapturedSum, ...] = ()
