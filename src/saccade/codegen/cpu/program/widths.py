"""The types that a program's values have in lanes, and the conversions at the borders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from saccade.codegen.cpu.emitter import BOOL, F32, F64, I32, I64, Emitter, Type, Value
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.widths import IntegerWidths
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["Widths"]

_ELEMENT: dict[DType, Type] = {DType.BOOL: BOOL, DType.FLOAT32: F32, DType.FLOAT64: F64}


@final
class Widths:
    """The types that the values of a program have in lanes.

    Args:
        numbers: The number of each node in `walk` order.
        facts: What is proven of them.
    """

    def __init__(self, numbers: Mapping[Expr, int], facts: ProgramFacts) -> None:
        self._integers = IntegerWidths(numbers, facts)

    def element(self, node: Expr) -> Type:
        """Return the type of a node's value in a lane."""
        if node.dtype is DType.INT64:
            return I64 if self._integers.is_wide(node) else I32
        return _ELEMENT[node.dtype]

    def computed(self, node: Expr) -> Type:
        """Return the type that a node with INT64 arguments is computed in."""
        if node.op is Op.CAST and not node.dtype.is_int:
            return self.element(node.args[0])
        return I64 if self._integers.is_computed_wide(node) else I32

    def arguments(self, e: Emitter, node: Expr, values: list[Value]) -> list[Value]:
        """Return the values of a node's arguments, integers in the width it is computed in."""
        type_ = self.computed(node)
        return [
            e.resized(value, type_) if arg.dtype is DType.INT64 else value
            for arg, value in zip(node.args, values, strict=True)
        ]
