"""A lowered program's nodes: their numbers, types and what is proven of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

from saccade.codegen.program.contributions import Contribution, roots_of
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.widths import IntegerWidths
from saccade.codegen.triton.program.terms import BOOL, F32, F64, I32, I64
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis_bit, walk
from saccade.ir.ops import REDUCTIONS, Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import Structure

__all__ = ["TYPES", "Nodes", "outside"]

TYPES = {DType.BOOL: BOOL, DType.FLOAT32: F32, DType.FLOAT64: F64}
"""What values are held in, other than integers."""


@final
class Nodes:
    """A program as its text looks at it.

    Args:
        structure: The program.
        facts: What is proven of it.
        contributions: What is evaluated beside it.

    Attributes:
        root: The result, lowered.
        order: Every node, arguments first.
        numbers: The number of each, as facts and names count them.
        uses: How often each is an argument or a result.
        stored: The element types of the captured tensors.
        dense: For each of them, whether its last stride is one element.
    """

    def __init__(
        self, structure: Structure, facts: ProgramFacts, contributions: Sequence[Contribution] = ()
    ) -> None:
        self.root = lower(structure.root)
        self.order = tuple(walk(*roots_of(self.root, contributions)))
        self.numbers = {node: number for number, node in enumerate(self.order)}
        self.uses = Counter(arg for node in self.order for arg in node.args)
        self.uses.update([self.root, *(each.value for each in contributions)])
        self.stored = tuple(capture.dtype for capture in structure.captures)
        self.dense = facts.dense or (False,) * len(structure.captures)
        self._facts = facts
        self._widths = IntegerWidths(self.numbers, facts)
        self._fallible: set[Expr] = set()
        for node in self.order:
            if not self.is_proven(node) or any(arg in self._fallible for arg in node.args):
                self._fallible.add(node)

    def type(self, node: Expr) -> str:
        """Return the type that a node's value is held in."""
        if node.dtype is DType.INT64:
            return I64 if self._widths.is_wide(node) else I32
        return TYPES[node.dtype]

    def computed_type(self, node: Expr) -> str:
        """Return the type that the integer arguments of a node are brought to."""
        if node.op is Op.CAST and not node.dtype.is_int:
            return self.type(node.args[0])
        return I64 if self._widths.is_computed_wide(node) else I32

    def is_bounded(self, node: Expr, dim: int) -> bool:
        """Return whether the index of one dimension of a LOAD is proven in range.

        Proofs speak of values: an index that may be poison, and then be anything, is none.
        """
        return (self.numbers[node], dim) in self._facts.bounded and node.args[dim] not in self._fallible

    def is_nonnegative(self, node: Expr) -> bool:
        """Return whether an INT64 node is never negative at a pair in range."""
        if node.op is Op.CONST:
            return bool(node.attr >= 0)
        return self.numbers[node] in self._facts.nonnegative

    def is_nonzero_divisor(self, node: Expr) -> bool:
        """Return whether an integer division never divides by 0."""
        divisor = node.args[1]
        if divisor.op is Op.CONST:
            return bool(divisor.attr != 0)
        return self.numbers[node] in self._facts.nonzero

    def is_proven(self, node: Expr) -> bool:
        """Return whether a node gives no poison of its own."""
        if node.op is Op.LOAD:
            return all(self.is_bounded(node, dim) for dim in range(len(node.args)))
        if node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64:
            return self.is_nonzero_divisor(node)
        return True

    def is_fallible(self, node: Expr) -> bool:
        """Return whether a node may be poison."""
        return node in self._fallible

    def operands(self, node: Expr) -> Sequence[Expr]:
        """Return what must be evaluated before a node, in the scope that the node is in."""
        if node.op in REDUCTIONS:
            return outside(node.args, axis_bit(node.attr[0]))
        return node.args


def outside(bodies: Sequence[Expr], axes: int) -> list[Expr]:
    """Return what the bodies of loops need that reads none of their axes.

    Args:
        bodies: What stands inside the loops.
        axes: The axes, as bits of `Expr.reads`.
    """
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = list(reversed(bodies))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if not node.reads & axes:
            found[node] = None
        else:
            # What a reduction binds is not at hand outside it.
            stack.extend(
                reversed(outside(node.args, axis_bit(node.attr[0])) if node.op in REDUCTIONS else node.args)
            )
    return list(found)
