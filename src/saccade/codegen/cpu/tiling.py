"""Shapes of the forward kernel's tiles: of registers, of scratch memory, of packed keys and values.

An item of work is `rows` queries of one head. It walks tiles of `keys` keys; a key tile is taken by chunks of
rows, so small that their scores stay in the first-level cache, and a chunk by blocks of `block_rows`, the
rows of the register tile. Sizes are in bytes, and a *word* is what one step of a product's sum takes of a
row: an element of the precise type, or a pair of bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from saccade.codegen.cpu.isa import Isa
from saccade.codegen.cpu.score_tiling import AttendTiling

__all__ = ["TILE_SHAPE", "ForwardTiling", "RegisterTile"]

_CHUNK_BLOCKS = 4

TILE_SHAPE = 96, 128
"""How many query rows and keys a tile should have.

Measured on Zen 4: from 48×64 to 192×256, for D from 64 to 512, the time differs by less than 2 %.
"""


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


@final
@dataclass(frozen=True)
class ForwardTiling(AttendTiling):
    """The sizes that one forward kernel is written with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.rows % self.block_rows == 0, f"rows={self.rows} is no multiple of {self.block_rows}"
        assert self.keys % self.sub_keys == 0, f"keys={self.keys} is no multiple of {self.sub_keys}"

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
    def query_row(self) -> int:
        """Bytes of a query row as words."""
        return self.key_steps * self.word

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


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
