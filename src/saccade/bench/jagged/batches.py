"""The jagged batches that are measured: how many sequences, how long, and where each lies when packed.

Invariant: lengths are drawn with a fixed seed, so they are the same in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from saccade.bench.contenders import Inputs
from saccade.bench.cpu.inputs import normal_inputs
from saccade.bench.sizes import AttentionSize

__all__ = ["BATCHES", "Batch"]


@final
@dataclass(frozen=True)
class Batch:
    """Sequences whose lengths are drawn evenly from 1 to the longest allowed.

    Attributes:
        sequences: How many there are.
        longest: The longest that may be drawn, in tokens.
        heads: Hq, and Hkv alike.
        head_dim: D, and Dv alike.

    Example:
        >>> batch = Batch(3, 8, heads=2, head_dim=16)
        >>> batch.lengths.tolist(), batch.offsets.tolist()
        ([5, 8, 6], [0, 5, 13, 19])
    """

    sequences: int
    longest: int
    heads: int
    head_dim: int

    @cached_property
    def lengths(self) -> Tensor:
        """int64 `[sequences]`."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, self.longest + 1, (self.sequences,), generator=generator, device="cpu")

    @property
    def offsets(self) -> Tensor:
        """int64 `[sequences + 1]`: where each starts, and the end of the last; a new tensor each time."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths.cumsum(0)])

    @property
    def size(self) -> AttentionSize:
        """The sizes of the packed call."""
        tokens = int(self.lengths.sum())
        return AttentionSize(1, self.heads, tokens, tokens, self.head_dim)

    def inputs(self, dtype: torch.dtype) -> Inputs:
        """Query, key and value `[1, H, S, D]`, a token's heads side by side, as projections leave them."""
        query, key, value = (
            one.transpose(1, 2).contiguous().transpose(1, 2)
            for one in normal_inputs(self.size, self.heads, dtype)
        )
        return query, key, value


BATCHES: dict[str, Batch] = {
    "text": Batch(16, 1024, heads=16, head_dim=64),
    "short": Batch(1000, 50, heads=8, head_dim=64),
}
"""What is measured, by name."""
