"""What a rule sees of a traced value: an expression, a type, a shape.

A value with axes is an expression with free AXIS variables, counted from the right (the last axis is 0) so
that broadcasting and indexing from the left leave them alone. Invariant: an axis of extent n is read only
with 0 <= index < n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import READS, Expr, axis, cast, const, substitute

if TYPE_CHECKING:
    from saccade.tracing.recorder import Recorder

__all__ = ["ZERO", "Number", "Operand", "Shape", "Value", "broadcast", "broadcast_shapes", "has_axes"]

Number: TypeAlias = bool | int | float
Shape: TypeAlias = tuple[int, ...]

ZERO = const(0, DType.INT64)

_FIRST_AXIS_BIT = 1 << len(READS)


class Value:
    """An expression that stands for a tensor, without the operators a user sees (`proxy.Proxy` adds them)."""

    __slots__ = ("expr", "recorder", "shape", "stored")

    def __init__(self, expr: Expr, stored: DType, shape: Shape, recorder: Recorder) -> None:
        self.expr = expr  # of type stored.value_type
        self.stored = stored  # the type torch would give it: decides promotion, not precision
        self.shape = shape
        self.recorder = recorder

    def derive(self, expr: Expr, stored: DType, shape: Shape = ()) -> Value:
        """Another value of the same trace."""
        return type(self)(expr, stored, shape, self.recorder)

    def of_type(self, stored: DType) -> Expr:
        """The expression as an operand of an operation computed in `stored`: widened, never rounded."""
        if stored is self.stored:
            return self.expr
        value_type = stored.value_type
        return self.expr if self.expr.dtype is value_type else cast(self.expr, value_type)


Operand: TypeAlias = Value | Tensor | Number


def has_axes(expr: Expr) -> bool:
    """Whether any axis is free in `expr`."""
    return expr.reads >= _FIRST_AXIS_BIT


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that all of `shapes` broadcast to, aligned at the right.

    Example:
        >>> broadcast_shapes((3, 1), (), (4,))
        (3, 4)
    """
    result: list[int] = []  # from the right
    for shape in shapes:
        for k, size in enumerate(reversed(shape)):
            if k == len(result):
                result.append(size)
            elif result[k] == 1:
                result[k] = size
            elif size not in (1, result[k]):
                raise TraceError(
                    f"operands must broadcast against each other; got shapes {', '.join(map(str, shapes))}; "
                    "index or reduce them to shapes that agree"
                )
    return tuple(reversed(result))


def broadcast(expr: Expr, shape: Shape, target: Shape) -> Expr:
    """`expr` of `shape` as an expression of `target`: axes of extent 1 that widen are read at 0."""
    if shape == target or not shape:
        return expr
    rank, wide = len(shape), len(target)
    widened = {axis(k): ZERO for k in range(rank) if shape[rank - 1 - k] == 1 and target[wide - 1 - k] != 1}
    return substitute(expr, widened) if widened else expr
