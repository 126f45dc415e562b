"""Shapes of the decode kernel's tiles: of registers, of a thread's scratch memory, of partial results.

An item of work is a range of keys of one kv head, met by all its query rows: those of the head group, head by
head. Keys and values are read where they lie, so a *word* is what a product takes of a row of theirs: an
element as a value of the precise type, or a pair of bfloat16, of neighbours along D for keys and along the
keys for values. Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from saccade.codegen.cpu.score_tiling import AttendTiling, ScratchLayout

__all__ = ["PARTIAL_PARTS", "DecodeTiling"]

PARTIAL_PARTS = ("acc", "row_max", "row_sum")
"""What the partial result of an item consists of."""

_MOST_ROWS = {16: 4, 32: 6}  # of a product, by registers


@final
@dataclass(frozen=True)
class DecodeTiling(AttendTiling):
    """The sizes that one decode kernel is written with."""

    @property
    def block_rows(self) -> int:
        """Rows that share a range of visible columns: all."""
        return self.rows

    @property
    def chunk_rows(self) -> int:
        """Rows whose scores are in memory at a time: all."""
        return self.rows

    @property
    def elements(self) -> int:
        """Elements of a row that a vector of words holds."""
        return self.lanes * (2 if self.pairs else 1)

    @property
    def product_rows(self) -> int:
        """Rows that a product holds in registers."""
        return next(
            rows for rows in range(_MOST_ROWS[self.spec.isa.registers], 0, -1) if self.rows % rows == 0
        )

    @property
    def dot_keys(self) -> int:
        """Keys whose dot products are summed together: a power of two, at most the lanes."""
        sums = self.spec.isa.registers // 2
        keys = self.lanes
        while keys > 1 and keys * self.product_rows > sums:
            keys //= 2
        return keys

    @property
    def dim_vectors(self) -> int:
        """Vectors of words of a query or key."""
        return -(-self.spec.key.head_dim // self.elements)

    @property
    def value_vectors(self) -> int:
        """Vectors of a row of the accumulator: in pairs of two if words are pairs."""
        return -(-self.spec.key.value_dim // self.elements) * (self.elements // self.lanes)

    @property
    def slice_vectors(self) -> int:
        """Vectors of a row of the accumulator that are in registers at a time; slices are of nearly one size.

        Beside the sums there must be room for a step's vectors and one operand.
        """
        registers, pace = self.spec.isa.registers, self.elements // self.lanes
        most = min(registers * 3 // 4 // self.product_rows, registers // 4)
        slices = -(-self.value_vectors // max(most // pace * pace, pace))
        return -(-self.value_vectors // (slices * pace)) * pace

    @property
    def query_row(self) -> int:
        """Bytes of a query row as words."""
        return self.dim_vectors * self.vector

    @cached_property
    def partial(self) -> ScratchLayout:
        """Where the parts of a partial result stand, see `PARTIAL_PARTS`; numbers are one a row."""
        sizes = (self.rows * self.acc_row, self.numbers, self.numbers)
        return ScratchLayout.of(dict(zip(PARTIAL_PARTS, sizes, strict=True)))
