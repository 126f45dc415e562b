"""Shapes of the forward kernel's tiles: of registers, of scratch memory, of packed keys and values.

An item of work is `rows` queries of one head. It walks tiles of `keys` keys; a key tile is taken by chunks of
rows, so small that their scores stay in the first-level cache, and a chunk by blocks of `block_rows`, the
rows of the register tile. Sizes are in bytes, and a *word* is what one step of a product's sum takes of a
row: an element of the precise type, or a pair of bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final

from saccade.codegen.cpu.isa import Isa
from saccade.codegen.cpu.spec import KernelSpec
from saccade.ir.dtype import DType
from saccade.problem import KernelKey

__all__ = [
    "RANGE",
    "VECTORS_AT_ONCE",
    "ForwardTiling",
    "RegisterTile",
    "ScoreTile",
    "ScratchLayout",
    "tile_shape",
]

_CHUNK_BLOCKS = 4
_DROPOUT_KEYS = 128  # that one evaluation of the stream decides for, see ir.dropout

VECTORS_AT_ONCE = 1
"""Vectors that a turn of a row pass takes; more are no faster, and coarser ranges visit more hidden pairs."""
RANGE = 16
"""Bytes of a block's range of columns: int64 first, int64 after the last."""


@final
@dataclass(frozen=True)
class RegisterTile:
    """How much of a product is held in registers: `rows` × `vectors`.

    Beside it there must be room for one step's vectors and one operand.
    """

    rows: int
    vectors: int

    @classmethod
    def of(cls, isa: Isa) -> RegisterTile:
        """Return the tile that suits an instruction set: the squarest that leaves room.

        Example:
            >>> from saccade.codegen.cpu.isa import ISAS
            >>> RegisterTile.of(ISAS["avx512"]), RegisterTile.of(ISAS["avx2"])
            (RegisterTile(rows=6, vectors=4), RegisterTile(rows=6, vectors=2))
        """
        if isa.registers >= 32:
            return cls(6, 4)
        # A product that is not fused takes a register more.
        return cls(6, 2) if isa.fma else cls(4, 2)


def tile_shape(key: KernelKey) -> tuple[int, int]:
    """Return how many query rows and keys a tile of the forward kernel should have.

    Args:
        key: The kernel's key.

    Example:
        >>> from saccade.problem import AttentionProblem
        >>> problem = AttentionProblem("cpu", DType.FLOAT32, 1, 1, 2, 2, 8, 8, 64, 64, 0.125)
        >>> tile_shape(problem.kernel_key("avx512", small_indices=True))
        (96, 128)
    """
    # Measured on Zen 4: from 48×64 to 192×256, for D from 64 to 512, the time differs by less than 2 %.
    del key
    return 96, 128


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
            size += _up(part, 64)
        return cls(offsets, size)


class ScoreTile(Protocol):
    """What passes over a tile of scores know of its sizes."""

    @property
    def keys(self) -> int:
        """Columns of the tile."""

    @property
    def visible_row(self) -> int:
        """Bytes of a row of bits."""

    @property
    def block_rows(self) -> int:
        """Rows that share a range of visible columns."""

    @property
    def range_keys(self) -> int:
        """Keys by which that range is rounded."""


@final
@dataclass(frozen=True)
class ForwardTiling:
    """The sizes that one forward kernel is written with; all follow from its spec.

    Attributes:
        spec: What is written.
    """

    spec: KernelSpec

    def __post_init__(self) -> None:
        rows, keys = self.spec.rows, self.spec.keys
        assert rows % self.block_rows == 0, f"rows={rows} is no multiple of {self.block_rows}"
        assert keys % self.sub_keys == 0, f"keys={keys} is no multiple of {self.sub_keys}"
        assert not (self.spec.key.dropout and keys % _DROPOUT_KEYS), f"keys={keys}, dropout decides for 128"

    @property
    def rows(self) -> int:
        """Queries of an item."""
        return self.spec.rows

    @property
    def keys(self) -> int:
        """Keys of a tile."""
        return self.spec.keys

    @cached_property
    def lanes(self) -> int:
        """Elements of a vector of the precise type."""
        return self.spec.isa.lanes(self.spec.precise)

    @cached_property
    def register(self) -> RegisterTile:
        """The register tile."""
        return RegisterTile.of(self.spec.isa)

    @property
    def block_rows(self) -> int:
        """Rows of a block: what a product holds in registers."""
        return self.register.rows

    @property
    def chunk_rows(self) -> int:
        """Rows whose scores are in memory at a time."""
        return min(self.rows, _CHUNK_BLOCKS * self.block_rows)

    @property
    def sub_keys(self) -> int:
        """Keys of a sub-panel: the columns of one product."""
        return self.register.vectors * self.lanes

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
        """Whether a word is a pair of bfloat16."""
        return self.spec.isa.bf16_dot and self.spec.key.dtype is DType.BFLOAT16

    @property
    def key_steps(self) -> int:
        """Words of a query or key."""
        return _up(self.spec.key.head_dim, 2) // 2 if self.pairs else self.spec.key.head_dim

    @property
    def value_vectors(self) -> int:
        """Vectors of a row of the accumulator."""
        return _up(self.spec.key.value_dim, self.lanes) // self.lanes

    @property
    def value_slices(self) -> int:
        """Column slices of the values that are as wide as the register tile."""
        return self.value_vectors // self.register.vectors

    @property
    def value_rest(self) -> int:
        """Vectors of the narrower last slice; 0 if there is none."""
        return self.value_vectors % self.register.vectors

    @property
    def step_keys(self) -> int:
        """Keys that one step of the product with the values takes."""
        return 2 if self.pairs else 1

    @property
    def visible_row(self) -> int:
        """Bytes of the bits of a row of pairs."""
        return self.keys // self.lanes * 2

    @property
    def query_row(self) -> int:
        """Bytes of a query row as words."""
        return self.key_steps * self.word

    @property
    def score_row(self) -> int:
        """Bytes of a row of scores, and of the weights that replace them."""
        return self.keys * self.word

    @property
    def acc_row(self) -> int:
        """Bytes of a row of the accumulator."""
        return self.value_vectors * self.vector

    @property
    def sub_panel(self) -> int:
        """Bytes of a packed sub-panel of keys: [key_steps][sub_keys] words."""
        return self.key_steps * self.sub_keys * self.word

    @property
    def key_panel(self) -> int:
        """Bytes of a packed tile of keys: its sub-panels."""
        return self.key_steps * self.keys * self.word

    @property
    def value_panel(self) -> int:
        """Bytes of a packed tile of values: its slices, each [keys / step_keys][columns] words."""
        return self.keys // self.step_keys * self.acc_row

    def value_slice(self, vectors: int) -> int:
        """Return the bytes of a slice of a packed tile of values."""
        return self.keys // self.step_keys * vectors * self.vector

    def scratch(self, tables: dict[str, int]) -> ScratchLayout:
        """Lay out a thread's private memory.

        Args:
            tables: Bytes of the programs' tables, by name.
        """
        # Passes over vectors of rows may reach a vector past the last row.
        numbers = (self.rows + self.lanes) * self.word
        return ScratchLayout.of(
            {
                "queries": self.rows * self.query_row + self.vector,
                "scores": self.chunk_rows * self.score_row,
                "acc": self.rows * self.acc_row,
                "row_sum": self.rows * self.vector,
                "row_max": numbers,
                "last_max": numbers,
                "base": numbers,
                "alpha": numbers,
                "visible": self.chunk_rows * self.visible_row,
                "inside": self.visible_row,
                "kept": self.visible_row,
                "ranges": self.chunk_rows // self.block_rows * RANGE,
                **tables,
            }
        )


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
