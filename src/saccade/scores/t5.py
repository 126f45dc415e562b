"""T5's relative position bias: near distances one by one, far ones in buckets that widen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.mod_value import require_at_least
from saccade.scores.base import Score

__all__ = ["t5_bias"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class t5_bias(Score):
    """Add a learned number for the bucket of the distance: `score + table[bucket(kv_idx - q_idx), h]`.

    Of the n buckets that one direction has, the first n / 2 hold the distances 0, 1, 2, ... one by one; the
    others hold ranges whose length grows by a constant factor up to `max_distance`, and the last holds
    everything from there on. `bidirectional`, as in T5's encoder, gives half of `buckets` to each direction:
    keys at and before the query have the first half, keys after it the second. Otherwise, as in its decoder,
    keys after the query share bucket 0 with its own position; combine with a causal mask. Nothing is hidden.
    As in T5 (arXiv 1910.10683), with the buckets of its code; T5 takes no `scale`, so pass `scale=1.0`.

    Args:
        table: Floating tensor `[buckets, Hq]`, the layout of T5's `relative_attention_bias.weight`, which may
            require a gradient. Kept as given, and read when the score is used.
        buckets: Number of buckets, those of both directions counted.
        max_distance: The distance, in positions, from which on all share the last bucket.
        bidirectional: Whether keys after the query have buckets of their own.

    Raises:
        ArgumentError: `buckets` leaves less than 2 buckets to a direction, or `max_distance` is within the
            distances that have a bucket each.
        ArgumentTypeError: A number is not an integer, or `bidirectional` not a bool.
        DTypeError: `table` is not of a floating dtype.
        ShapeError: `table` is not `[buckets, Hq]`.

    Example:
        >>> table = torch.arange(8.0)[:, None]  # shows the bucket
        >>> index, kv_idx = torch.tensor(0), torch.arange(0, 21, 2)
        >>> score = t5_bias(table, buckets=8, max_distance=16)
        >>> score(torch.zeros(11), index, index, torch.tensor(10), kv_idx).int()
        tensor([3, 3, 3, 2, 2, 0, 6, 6, 7, 7, 7], dtype=torch.int32)
    """

    table: Tensor
    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    usage: ClassVar[str] = "t5_bias(table, buckets=32, max_distance=128)"
    _bucket_of: Tensor = field(init=False, repr=False, compare=False)  # [max_distance + 1] int64

    def __post_init__(self) -> None:
        require_at_least(1, self.buckets, "t5_bias(): buckets")
        require_at_least(1, self.max_distance, "t5_bias(): max_distance")
        if not isinstance(self.bidirectional, bool):
            raise ArgumentTypeError(
                "t5_bias(): bidirectional must be True (encoder) or False (decoder), "
                f"got {type(self.bidirectional).__name__} {self.bidirectional!r}"
            )
        least = 4 if self.bidirectional else 2
        if self.buckets < least:
            raise ArgumentError(
                f"t5_bias(): buckets must be at least {least} with bidirectional={self.bidirectional}, "
                f"got {self.buckets}"
            )
        if self.max_distance <= self._per_direction // 2:
            raise ArgumentError(
                f"t5_bias(): max_distance must be above {self._per_direction // 2}, the distances that have "
                f"a bucket each, got max_distance={self.max_distance}; take a longer distance"
            )
        if not self.table.dtype.is_floating_point:
            raise DTypeError(
                f"t5_bias(): table must be floating, got dtype={self.table.dtype}; convert it with .float()"
            )
        if self.table.dim() != 2 or self.table.shape[0] != self.buckets:
            raise ShapeError(
                f"t5_bias(): table must be [buckets, Hq] with buckets={self.buckets}, "
                f"got shape={list(self.table.shape)}; transpose it, or pass buckets= as it has them"
            )
        bucket_of = _buckets(self._per_direction, self.max_distance).to(self.table.device)
        object.__setattr__(self, "_bucket_of", bucket_of)

    @property
    def _per_direction(self) -> int:
        return self.buckets // 2 if self.bidirectional else self.buckets

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        ahead = kv_idx - q_idx
        distance = torch.abs(ahead) if self.bidirectional else torch.clamp(-ahead, min=0)
        bucket = self._bucket_of[torch.clamp(distance, max=self.max_distance)]
        if self.bidirectional:
            bucket = torch.where(ahead > 0, bucket + self._per_direction, bucket)
        return score + self.table[bucket, h]


def _buckets(n: int, max_distance: int) -> Tensor:
    """[max_distance + 1] int64: the bucket, of n, of each distance; the last entry is that of all beyond."""
    alone = n // 2
    distance = torch.arange(max_distance + 1, device="cpu")
    # In float32 and in this order, because a distance on a bucket's edge falls where T5's rounding puts it.
    share = torch.log(distance.clamp(min=alone).to(torch.float32) / alone) / math.log(max_distance / alone)
    shared = alone + (share * (n - alone)).to(torch.int64)
    return torch.where(distance < alone, distance, shared.clamp(max=n - 1))
