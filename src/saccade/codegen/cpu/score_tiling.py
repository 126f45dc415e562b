"""What a tile of scores is in every kernel: sizes of its rows; and a thread's memory where values are summed.

A tile is `rows` query rows by `keys` keys, in words: what one step of a product's sum takes of a row, an
element of the precise type or a pair of bfloat16. Sizes are in bytes. How rows and columns are cut for
products is each kernel's own; so is where keys and values are read from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

from saccade.codegen.cpu.philox import KEYS
from saccade.codegen.cpu.spec import KernelSpec
from saccade.ir.dtype import DType

__all__ = ["RANGE", "VECTORS_AT_ONCE", "AttendTiling", "ScoreTiling", "ScratchLayout"]

VECTORS_AT_ONCE = 1
"""Vectors that a turn of a row pass takes; more are no faster, and coarser ranges visit more hidden pairs."""
RANGE = 16
"""Bytes of a block's range of columns: int64 first, int64 after the last."""


@final
@dataclass(frozen=True)
class ScratchLayout:
    """Where the parts of a thread's private memory stand: offsets by name, each 64-byte aligned."""

    offsets: dict[str, int]
    size: int

    @classmethod
    def of(cls, parts: dict[str, int]) -> ScratchLayout:
        """Lay out parts of the given sizes one after the other.

        Example:
            >>> ScratchLayout.of({"acc": 100, "row_max": 8})
            ScratchLayout(offsets={'acc': 0, 'row_max': 128}, size=192)
        """
        offsets, size = {}, 0
        for name, part in parts.items():
            offsets[name] = size
            size += -(-part // 64) * 64
        return cls(offsets, size)


@dataclass(frozen=True)
class ScoreTiling(ABC):
    """The sizes of a tile of scores; all follow from the kernel's spec.

    Attributes:
        spec: What is written.
    """

    spec: KernelSpec

    @property
    @abstractmethod
    def block_rows(self) -> int:
        """Rows that share a range of visible columns."""

    @property
    def rows(self) -> int:
        """Query rows of a tile, those of padding included."""
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
    def range_keys(self) -> int:
        """Keys by which the range that a block of rows sees is rounded: what row passes take at once."""
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
        """Whether a word is a pair of bfloat16, of neighbours along the sum."""
        return self.spec.isa.bf16_dot and self.spec.key.dtype is DType.BFLOAT16

    @property
    def visible_row(self) -> int:
        """Bytes of the bits of a row of pairs, two a vector."""
        return self.keys // self.lanes * 2

    @property
    def score_row(self) -> int:
        """Bytes of a row of scores, and of the weights that replace them."""
        return self.keys * self.word


@dataclass(frozen=True)
class AttendTiling(ScoreTiling):
    """The sizes of kernels that sum values, with an accumulator and a softmax that goes along."""

    def __post_init__(self) -> None:
        assert self.keys % self.range_keys == 0, f"keys={self.keys} is no multiple of {self.range_keys}"
        dropout = self.spec.key.dropout
        assert not (dropout and self.keys % KEYS), f"keys={self.keys}, dropout decides for {KEYS}"

    @property
    @abstractmethod
    def chunk_rows(self) -> int:
        """Rows whose scores are in memory at a time."""

    @property
    @abstractmethod
    def query_row(self) -> int:
        """Bytes of a query row as words."""

    @property
    @abstractmethod
    def value_vectors(self) -> int:
        """Vectors of a row of the accumulator."""

    @property
    def step_keys(self) -> int:
        """Keys that one step of the product with the values takes."""
        return 2 if self.pairs else 1

    @property
    def acc_row(self) -> int:
        """Bytes of a row of the accumulator."""
        return self.value_vectors * self.vector

    @property
    def numbers(self) -> int:
        """Bytes of a number a row, for passes over vectors of rows, which may reach one past the last."""
        return (self.rows + self.lanes) * self.word

    def scratch(self, tables: dict[str, int]) -> ScratchLayout:
        """Lay out a thread's private memory.

        Args:
            tables: Bytes of the programs' tables, by name.
        """
        return ScratchLayout.of(
            {
                "queries": self.rows * self.query_row + self.vector,
                "scores": self.chunk_rows * self.score_row,
                "acc": self.rows * self.acc_row,
                "row_sum": self.rows * self.vector,
                "row_max": self.numbers,
                "last_max": self.numbers,
                "base": self.numbers,
                "alpha": self.numbers,
                "visible": self.chunk_rows * self.visible_row,
                "inside": self.visible_row,
                "kept": self.visible_row,
                "ranges": self.chunk_rows // self.block_rows * RANGE,
                **tables,
            }
        )
