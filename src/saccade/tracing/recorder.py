"""What one trace collects: the captured tensors and the run-time numbers, each by slot.

A tensor gets one slot, however often it is used; a number gets one slot a use, in the order of use, so that
two mods that differ only in their numbers have one structure.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from saccade.errors import ControlFlowError, TraceError
from saccade.ir.axes import separate_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, load, number, walk
from saccade.ir.ops import REDUCTIONS
from saccade.ir.structure import CaptureType
from saccade.tracing.dtypes import stored_dtype
from saccade.tracing.value import Number, Value

__all__ = ["AXES", "BOUND_AXES", "Recorder", "describe", "plain_number", "static_int"]

BOUND_AXES = 64
"""Axes below are free axes of values (torch allows 64); those from here on are bound by a reduction."""

AXES = tuple(axis(k) for k in reversed(range(BOUND_AXES)))
_CAPTURE_TYPES = {
    (stored, rank): CaptureType(stored, rank) for stored in DType for rank in range(BOUND_AXES + 1)
}
_SPECIALISED = frozenset({0, 1, -1, math.inf, -math.inf})


class Recorder:
    """The mutable state of one trace; nothing outlives it.

    Args:
        face: The class of the values it makes: the one with the user's operators.
        device: What `.device` of a traced value answers.
    """

    __slots__ = ("backward", "captures", "device", "face", "number_types", "numbers", "reductions")

    def __init__(self, face: type[Value], device: torch.device) -> None:
        self.face = face
        self.device = device
        self.captures: list[Tensor] = []
        self.numbers: list[int | float] = []
        self.number_types: list[DType] = []
        self.reductions = 0  # reductions so far, each with an axis of its own
        self.backward = False  # inside the backward of a custom autograd.Function

    def number(self, value: Number, dtype: DType) -> Expr:
        """A Python number as an operand of type `dtype`: a run-time slot, or a constant of the chosen few."""
        if dtype is DType.BOOL:
            return const(bool(value), dtype)
        if isinstance(value, (bool, int, float)):  # not a symbol, whose value would become a guard
            if value in _SPECIALISED or value != value:
                return const(value, dtype)
            if dtype is DType.INT64 and not -(2**63) <= value < 2**63:
                raise TraceError(f"an integer in a mod must fit 64 bits; got {value}; write it as a float")
        self.numbers.append(value if dtype is DType.INT64 else torch.sym_float(value))  # type: ignore[no-untyped-call]
        self.number_types.append(dtype)
        return number(len(self.numbers) - 1, dtype)

    def slot(self, tensor: Tensor) -> int:
        """The slot of a captured tensor."""
        for slot, known in enumerate(self.captures):
            if known is tensor:
                return slot
        if tensor.layout is not torch.strided:
            raise TraceError(
                f"a mod reads dense tensors; got layout={tensor.layout}; convert it with .to_dense()"
            )
        self.captures.append(tensor)
        return len(self.captures) - 1

    def capture_types(self) -> tuple[CaptureType, ...]:
        """What code may depend on of each captured tensor."""
        return tuple([_CAPTURE_TYPES[stored_dtype(tensor.dtype), tensor.dim()] for tensor in self.captures])

    def lift(self, operand: Value | Tensor) -> Value:
        """A captured tensor as a value with all its axes; a value as it is."""
        if isinstance(operand, Value):
            return operand
        if not isinstance(operand, Tensor):
            raise TraceError(
                f"an operand in a mod is a traced value, a tensor or a number; got {describe(operand)}; "
                "make a tensor of it with torch.as_tensor(...)"
            )
        stored = stored_dtype(operand.dtype)
        shape = tuple(operand.shape)
        indices = AXES[BOUND_AXES - len(shape) :]
        return self.face(load(self.slot(operand), indices, stored.value_type), stored, shape, self)

    def fresh_axis(self) -> int:
        """An axis that no other reduction of this trace binds."""
        self.reductions += 1
        return BOUND_AXES + self.reductions - 1

    def with_own_axes(self, root: Expr) -> Expr:
        """An expression of another trace, its reductions binding axes of this one."""
        if not any(node.op in REDUCTIONS for node in walk(root)):
            return root
        own = separate_axes(root, taken=range(BOUND_AXES + self.reductions))
        self.reductions += sum(node.op in REDUCTIONS for node in walk(own))
        return own


def plain_number(operand: object) -> object:
    """A numpy scalar as the Python number torch takes it for; anything else as it is."""
    return operand.item() if isinstance(operand, np.generic) else operand


def describe(operand: object) -> str:
    """An object that does not belong in a mod, for a message."""
    return f"{type(operand).__name__} {operand!r:.60}"


def static_int(value: object, what: str) -> int:
    """An argument that must be a Python integer because a shape depends on it."""
    if isinstance(value, Value):
        raise ControlFlowError(
            f"{what} must be a Python integer, because shapes depend on it; got a traced value"
        )
    return int(value)  # type: ignore[call-overload, no-any-return]
