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

from saccade.codegen.cpu.philox import KEYS
from saccade.codegen.cpu.spec import KernelSpec
from saccade.codegen.cpu.tiling import RANGE, VECTORS_AT_ONCE, ScratchLayout
from saccade.ir.dtype import DType

__all__ = ["PARTIAL_PARTS", "DecodeTiling"]

PARTIAL_PARTS = ("acc", "row_max", "row_sum")
"""What the partial result of an item consists of."""

_MOST_ROWS = {16: 4, 32: 6}  # of a product, by registers


@final
@dataclass(frozen=True)
class DecodeTiling:
    """The sizes that one decode kernel is written with; all follow from its spec.

    Attributes:
        spec: What is written.
    """

    spec: KernelSpec

    def __post_init__(self) -> None:
        rows, keys = self.spec.rows, self.spec.keys
        assert rows % self.product_rows == 0, f"rows={rows} is no multiple of {self.product_rows}"
        assert keys % self.range_keys == 0, f"keys={keys} is no multiple of {self.range_keys}"
        assert not (self.spec.key.dropout and keys % KEYS), f"keys={keys}, dropout decides for {KEYS}"

    @property
    def rows(self) -> int:
        """Rows of an item, those of padding included."""
        return self.spec.rows

    @property
    def keys(self) -> int:
        """Keys of a tile."""
        return self.spec.keys

    @cached_property
    def lanes(self) -> int:
        """Elements of a vector of the precise type."""
        return self.spec.isa.lanes(self.spec.precise)

    @property
    def block_rows(self) -> int:
        """Rows that share a range of visible columns: all."""
        return self.rows

    @property
    def visible_row(self) -> int:
        """Bytes of a row of bits, two a vector."""
        return self.keys // self.lanes * 2

    @property
    def range_keys(self) -> int:
        """Keys by which the range that rows see is rounded: what row passes take at once."""
        return VECTORS_AT_ONCE * self.lanes

    @property
    def word(self) -> int:
        """Bytes of a word."""
        return self.spec.precise.itemsize

    @property
    def vector(self) -> int:
        """Bytes of a vector."""
        return self.lanes * self.word

    @property
    def pairs(self) -> bool:
        """Whether a word is a pair of bfloat16."""
        return self.spec.isa.bf16_dot and self.spec.key.dtype is DType.BFLOAT16

    @property
    def step_keys(self) -> int:
        """Keys that one step of the product with the values takes."""
        return 2 if self.pairs else 1

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

    @property
    def score_row(self) -> int:
        """Bytes of a row of scores, and of the weights that replace them."""
        return self.keys * self.word

    @property
    def acc_row(self) -> int:
        """Bytes of a row of the accumulator."""
        return self.value_vectors * self.vector

    @cached_property
    def partial(self) -> ScratchLayout:
        """Where the parts of a partial result stand, see `PARTIAL_PARTS`; numbers are one a row."""
        numbers = self._numbers
        sizes = (self.rows * self.acc_row, numbers, numbers)
        return ScratchLayout.of(dict(zip(PARTIAL_PARTS, sizes, strict=True)))

    def scratch(self, tables: dict[str, int]) -> ScratchLayout:
        """Lay out a thread's private memory.

        Args:
            tables: Bytes of the programs' tables, by name.
        """
        numbers = self._numbers
        return ScratchLayout.of(
            {
                "queries": self.rows * self.query_row,
                "scores": self.rows * self.score_row,
                "acc": self.rows * self.acc_row,
                "row_sum": self.rows * self.vector,
                "row_max": numbers,
                "last_max": numbers,
                "base": numbers,
                "alpha": numbers,
                "visible": self.rows * self.visible_row,
                "inside": self.visible_row,
                "kept": self.visible_row,
                "ranges": RANGE,
                **tables,
            }
        )

    @property
    def _numbers(self) -> int:
        """Bytes of a number a row, for passes over vectors of rows, which may reach one past the last."""
        return (self.rows + self.lanes) * self.word
