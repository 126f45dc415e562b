"""Which integers run in lanes of 32 bits, and the conversions at the borders.

An INT64 node proven to fit 32 bits has them. What is computed modulo 2**n (sums, products, bits) then needs
no more of its arguments; everything else is computed in the width of its widest argument, and cut after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from saccade.codegen.cpu.emitter import BOOL, F32, F64, I32, I64, Emitter, Type, Value
from saccade.codegen.cpu.program.facts import ProgramFacts
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["Widths"]

_MODULAR = frozenset(
    {Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.AND, Op.OR, Op.XOR, Op.NOT, Op.WHERE, Op.CAST, Op.SUM, Op.SHL}
)
"""Ops whose low bits depend on the low bits of their arguments alone (SHL: of what is shifted)."""

_ELEMENT: dict[DType, Type] = {DType.BOOL: BOOL, DType.FLOAT32: F32, DType.FLOAT64: F64}


@final
class Widths:
    """The types that the values of a program have in lanes.

    Args:
        numbers: The number of each node in `walk` order.
        facts: What is proven of them.
    """

    def __init__(self, numbers: Mapping[Expr, int], facts: ProgramFacts) -> None:
        self._narrow = frozenset(node for node, number in numbers.items() if number in facts.narrow)

    def element(self, node: Expr) -> Type:
        """Return the type of a node's value in a lane."""
        if node.dtype is DType.INT64:
            return I32 if node in self._narrow else I64
        return _ELEMENT[node.dtype]

    def computed(self, node: Expr) -> Type:
        """Return the integer type that a node with INT64 arguments is computed in."""
        if node.op is Op.CAST and not node.dtype.is_int:
            return self.element(node.args[0])
        binding = [node] if node.op in _MODULAR else [node, *node.args]
        if node.op is Op.SHL:
            binding.append(node.args[1])
        if node.op in (Op.SHL, Op.SHR) and node.args[1].op is Op.CONST:
            binding.pop()  # read off the node, not off the lanes
        wide = any(self.element(item) is I64 for item in binding if item.dtype is DType.INT64)
        return I64 if wide else I32

    def arguments(self, e: Emitter, node: Expr, values: list[Value]) -> list[Value]:
        """Return the values of a node's arguments, integers in the width it is computed in."""
        type_ = self.computed(node)
        return [
            e.resized(value, type_) if arg.dtype is DType.INT64 else value
            for arg, value in zip(node.args, values, strict=True)
        ]
