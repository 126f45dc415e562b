"""Where each part of a program is evaluated: by what it depends on.

Four levels, from the outermost loop of a kernel to the innermost. A node belongs to the outermost that knows
what it reads; what an inner level needs of an outer one is the outer one's *frontier*, kept in registers
(ITEM) or tables (ROW, COLUMN). A node that reads the axis of a reduction is evaluated inside that reduction's
loop, wherever the reduction is, and is never in a frontier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntFlag
from typing import final

from saccade.codegen.cpu.program.ramps import Ramp, ramp
from saccade.ir.axes import free_axes
from saccade.ir.expr import READS, Expr, axis_bit
from saccade.ir.ops import REDUCTIONS, Op

__all__ = ["Level", "Split"]


class Level(IntFlag):
    """A place in a kernel. PAIR is the union of ROW and COLUMN."""

    ITEM = 0  # once an item of work
    ROW = 1  # once a row of the tile
    COLUMN = 2  # once a key of the tile
    PAIR = 3  # every pair


@final
class Split:
    """A lowered program split by dependence.

    Args:
        root: The result.
        row_variables: The variables that vary from row to row.
        dense: For each capture, whether its last stride is one element.
        beside: What else is evaluated, at a pair or further out.

    Attributes:
        items: The nodes of ITEM that others need.
        rows: The nodes of ROW that the pair level needs.
        columns: The nodes of COLUMN that the pair level needs.

    Example:
        >>> from saccade.ir.dtype import DType
        >>> from saccade.ir.expr import const, make, var
        >>> quarter = make(Op.FLOOR_DIV, (var("q_idx"), const(4, DType.INT64)))
        >>> split = Split(make(Op.LE, (var("kv_idx"), quarter)), ("q_idx",), ())
        >>> split.rows == (quarter,), split.columns == (var("kv_idx"),)
        (True, True)
    """

    def __init__(
        self,
        root: Expr,
        row_variables: Sequence[str],
        dense: Sequence[bool],
        beside: Sequence[Expr] = (),
    ) -> None:
        self.root = root
        self._dense = tuple(dense)
        self._row_bits = 0
        for name in row_variables:
            self._row_bits |= READS[name]
        needed = self._frontier([root, *beside], Level.PAIR)
        self.rows = tuple(node for node in needed if self.level(node) is Level.ROW)
        self.columns = tuple(node for node in needed if self.level(node) is Level.COLUMN)
        inner = [*self._frontier(self.rows, Level.ROW), *self._frontier(self.columns, Level.COLUMN)]
        steady = [node for node in (*needed, *inner) if self.level(node) is Level.ITEM]
        self.items = tuple(dict.fromkeys(steady))

    def level(self, node: Expr) -> Level:
        """Return the outermost level that knows the variables a node reads."""
        if node.depends_on("score", "grad"):
            return Level.PAIR
        row = Level.ROW if node.reads & self._row_bits else Level.ITEM
        return row | (Level.COLUMN if node.reads & READS["kv_idx"] else Level.ITEM)

    def ramp(self, node: Expr) -> Ramp | None:
        """Return the form of a LOAD's last index, if consecutive keys are consecutive in memory."""
        if node.op is not Op.LOAD or not node.args or not self._dense[node.attr]:
            return None
        *others, last = node.args
        return None if any(self.level(other) & Level.COLUMN for other in others) else ramp(last)

    def operands(self, node: Expr) -> Sequence[Expr]:
        """Return what must be evaluated before a node, in the scope the node is in."""
        if node.op in REDUCTIONS:
            return self.outside(node.args, axis_bit(node.attr[0]))
        form = self.ramp(node)
        if form is not None:
            return [*node.args[:-1], *(term for _, term in form.terms)]
        return node.args

    def _frontier(self, roots: Iterable[Expr], inner: Level) -> list[Expr]:
        """The nodes of outer levels that evaluating `roots` at an inner one needs."""
        found: dict[Expr, None] = {}
        seen: set[Expr] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node in seen or node.op is Op.CONST:
                continue
            seen.add(node)
            if self.level(node) is not inner and not free_axes(node):
                found[node] = None
            else:
                stack.extend(self.operands(node))
        return list(found)

    def outside(self, bodies: Iterable[Expr], axes: int) -> list[Expr]:
        """Return what the bodies of a loop need that does not read its axes, given as bits of `reads`."""
        found: dict[Expr, None] = {}
        seen: set[Expr] = set()
        stack = list(bodies)
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if not node.reads & axes:
                found[node] = None
            else:
                stack.extend(self.operands(node))
        return list(found)
