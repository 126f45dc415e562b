"""Shapes of the backward kernel's tiles, and where its parts stand in memory.

An item of work is a chunk: some key tiles of one kv head, and all that sees them. Rows of queries and of the
output's gradient are packed once a call, keys and values once an item, all as words in rows of whole vectors.

A word is what one step of a product's sum takes of a row: an element of the precise type, or a pair of
bfloat16. Pairs run along the sum, so what is summed along rows, of queries or of keys, is packed two rows to
a step, and what is also summed along its elements is packed a second time, row by row. Sizes are in bytes;
what serves no gradient that is wanted has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from saccade.codegen.cpu.philox import KEYS
from saccade.codegen.cpu.score_tiling import RANGE, ScoreTiling, ScratchLayout
from saccade.codegen.cpu.tiling import RegisterTile
from saccade.problem import KernelKey, Wanted

__all__ = ["BackwardTiling", "backward_tile_shape"]

_KEY_ROWS = 4  # keys that a product with transposed weights holds in registers


def backward_tile_shape(key: KernelKey) -> tuple[int, int]:
    """Return how many query rows and keys a tile of the backward kernel should have."""
    # Dropout's stream decides for 128 keys at once.
    return (48, 128) if key.dropout else (96, 64)


@final
@dataclass(frozen=True)
class BackwardTiling(ScoreTiling):
    """The sizes that one backward kernel is written with."""

    def __post_init__(self) -> None:
        rows, keys = self.spec.rows, self.spec.keys
        assert rows % self.block_rows == 0, f"rows={rows} is no multiple of {self.block_rows}"
        assert keys % self.sub_keys == 0, f"keys={keys} is no multiple of {self.sub_keys}"
        assert keys % self.key_rows == 0, f"keys={keys} is no multiple of {self.key_rows}"

    @cached_property
    def wanted(self) -> Wanted:
        """Which gradients are computed."""
        wanted = self.spec.key.wanted
        assert wanted is not None, "a backward kernel is asked for gradients"
        return wanted

    @property
    def has_weights(self) -> bool:
        """Whether weights are computed again; the gradient of sinks asks for none."""
        return self.wanted.of_scores or self.wanted.value

    @property
    def slopes_by_step(self) -> bool:
        """Whether gradients of scores are written as words of steps along queries, in place of dP."""
        return self.wanted.key or (self.wanted.query and not self.pairs)

    @property
    def slopes_by_row(self) -> bool:
        """Whether they are written as words of steps along keys, where these are not the same."""
        return self.wanted.query and self.pairs

    @cached_property
    def register(self) -> RegisterTile:
        """The register tile of products whose rows are queries."""
        return RegisterTile.of(self.spec.isa)

    @property
    def block_rows(self) -> int:
        """Rows of a block: queries that a product holds in registers."""
        return self.register.rows

    @property
    def key_rows(self) -> int:
        """Keys that a product holds in registers."""
        return _KEY_ROWS

    @property
    def padding_rows(self) -> int:
        """Rows after the last query of a head that may be read, as zeros, or added to."""
        return max(self.block_rows, self.lanes)

    @property
    def sub_keys(self) -> int:
        """Keys of a sub-panel: the columns of one product."""
        return self.register.vectors * self.lanes

    @property
    def step_rows(self) -> int:
        """Rows, of queries or of keys, that one step of a sum along them takes."""
        return 2 if self.pairs else 1

    @property
    def step_rows_at_once(self) -> int:
        """Steps a turn of a sum along rows: what divides those of a block."""
        return 3 if self.pairs else 2

    @property
    def head_vectors(self) -> int:
        """Vectors of a row of queries or keys."""
        return -(-self.spec.key.head_dim // self.lanes)

    @property
    def value_vectors(self) -> int:
        """Vectors of a row of values or of the output's gradient."""
        return -(-self.spec.key.value_dim // self.lanes)

    @property
    def query_row(self) -> int:
        """Bytes of a row of the gradient of queries or keys, and of what a step along these takes of them."""
        return self.head_vectors * self.vector

    @property
    def grad_row(self) -> int:
        """Bytes of a row of the values' gradient, and of what a step along rows takes of the output's."""
        return self.value_vectors * self.vector

    def steps(self, dim: int) -> int:
        """Return the words of a row of so many elements."""
        return -(-dim // 2) if self.pairs else dim

    def words_row(self, dim: int) -> int:
        """Return the bytes of a row of so many elements as words, whole vectors."""
        return -(-self.steps(dim) // self.lanes) * self.vector

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes that a query has in each of the memories with a row for each, by the argument's name."""
        key, wanted = self.spec.key, self.wanted
        by_step = {
            "packed_queries": self.query_row if wanted.key or (self.has_weights and not self.pairs) else 0,
            "packed_grads": self.grad_row if wanted.value or (wanted.of_scores and not self.pairs) else 0,
        }
        return {
            **{name: size // self.step_rows for name, size in by_step.items()},
            "query_words": self.words_row(key.head_dim) if self.has_weights and self.pairs else 0,
            "grad_words": self.words_row(key.value_dim) if wanted.of_scores and self.pairs else 0,
            "row_lse": self.word,
            "row_delta": self.word if wanted.of_scores or wanted.sinks else 0,
        }

    @property
    def partial_row(self) -> int:
        """Bytes of a row of a chunk's part of the queries' gradient."""
        return self.query_row if self.wanted.query else 0

    @property
    def word_score_row(self) -> int:
        """Bytes of a row of gradients of scores as words."""
        return self.keys // self.step_rows * self.word

    @property
    def kept_keys(self) -> int:
        """Keys that dropout's table of a row has room for: whole groups, wherever the tile begins."""
        return self.keys + 2 * KEYS

    def scratch(self, tables: dict[str, int]) -> ScratchLayout:
        """Lay out a thread's private memory.

        Args:
            tables: Bytes of the programs' tables, by name.
        """
        key, wanted = self.spec.key, self.wanted
        return ScratchLayout.of(
            {
                "keys across": self.steps(key.head_dim) * self.keys * self.word,
                "values across": wanted.of_scores * self.steps(key.value_dim) * self.keys * self.word,
                "keys": wanted.query * self.keys // self.step_rows * self.query_row,
                "grad keys": wanted.key * self.keys * self.query_row,
                "grad values": wanted.value * self.keys * self.grad_row,
                "scores": self.rows * self.score_row,
                "grads": wanted.of_scores * self.rows * self.score_row,
                "grad words": self.slopes_by_row * self.rows * self.word_score_row,
                "visible": self.rows * self.visible_row,
                "inside": self.visible_row,
                "kept": self.step_rows * self.kept_keys * self.word,
                "ranges": self.rows // self.block_rows * RANGE,
                **tables,
            }
        )
