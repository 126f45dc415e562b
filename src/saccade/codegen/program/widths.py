"""Which integers of a program are held in 32 bits, and which are computed there.

An INT64 node proven to fit 32 bits is held in them. What is computed modulo 2**n (sums, products, bits) needs
no more of its arguments; everything else is computed in the width of its widest argument, and cut after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from saccade.codegen.program.facts import ProgramFacts
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["IntegerWidths"]

_MODULAR = frozenset(
    {Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.AND, Op.OR, Op.XOR, Op.NOT, Op.WHERE, Op.CAST, Op.SUM, Op.SHL}
)
"""Ops whose low bits depend on the low bits of their arguments alone (SHL: of what is shifted)."""


@final
class IntegerWidths:
    """The widths of a program's INT64 values.

    Args:
        numbers: The number of each node in `walk` order.
        facts: What is proven of them.
    """

    def __init__(self, numbers: Mapping[Expr, int], facts: ProgramFacts) -> None:
        self._narrow = frozenset(node for node, number in numbers.items() if number in facts.narrow)

    def is_wide(self, node: Expr) -> bool:
        """Return whether a node is an INT64 that needs its 64 bits."""
        return node.dtype is DType.INT64 and node not in self._narrow

    def is_computed_wide(self, node: Expr) -> bool:
        """Return whether a node with INT64 arguments is computed in 64 bits."""
        if node.op is Op.CAST and not node.dtype.is_int:
            return self.is_wide(node.args[0])
        binding = [node] if node.op in _MODULAR else [node, *node.args]
        if node.op is Op.SHL:
            binding.append(node.args[1])
        if node.op in (Op.SHL, Op.SHR) and node.args[1].op is Op.CONST:
            binding.pop()  # read off the node, not off its value
        return any(self.is_wide(item) for item in binding)
