"""Where a program is put in a kernel: how its text names the variables, and which of them vary where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from saccade.ir.expr import READS, Expr

__all__ = ["Place", "Shape"]

Shape = tuple[bool, bool]
"""Whether a value varies along a tile's rows, and along its columns; it has size 1 where it does not."""


@final
@dataclass(frozen=True)
class Place:
    """The surroundings of a program's text.

    Attributes:
        names: The text of each variable: b, h, q_idx and kv_idx are int32, score and grad of the score's
            type.
        rows: The variables shaped [ROWS, 1].
        columns: The variables shaped [1, COLUMNS]. What is in both is a whole tile, what is in neither a
            scalar.
        inner: The variables that are known only inside the loop.
        shape: The text of the two sizes, compile-time constants of the kernel.
        limits: For each variable that may pass its length at this place, the text of where it does not, best
            a name, shaped as the variable. A variable that is not named here must stay in range: reads that
            are proven in range are bounded by nothing else.
    """

    names: Mapping[str, str]
    rows: frozenset[str]
    columns: frozenset[str]
    inner: frozenset[str]
    shape: tuple[str, str]
    limits: Mapping[str, str] = field(default_factory=dict)

    def shape_of(self, *nodes: Expr) -> Shape:
        """Return along what nodes vary together, without their reduction axes."""
        reads = 0
        for node in nodes:
            reads |= node.reads
        return _meets(reads, self.rows), _meets(reads, self.columns)

    def sizes(self, shape: Shape) -> str:
        """Return the text of a shape as `tl.full` wants it; [] of a scalar."""
        if not any(shape):
            return "[]"
        rows, columns = (size if varies else "1" for size, varies in zip(self.shape, shape, strict=True))
        return f"[{rows}, {columns}]"

    def is_inside(self, node: Expr) -> bool:
        """Return whether a node can be evaluated only inside the loop."""
        return _meets(node.reads, self.inner)

    def limits_of(self, *nodes: Expr) -> tuple[str, ...]:
        """Return the limits of the variables that nodes read."""
        return tuple(limit for name, limit in self.limits.items() if any(n.depends_on(name) for n in nodes))


def _meets(reads: int, names: frozenset[str]) -> bool:
    return any(reads & READS[name] for name in names)
