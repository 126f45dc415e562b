"""Biases that are tables: one number for each pair, or for each distance. Both may be learned."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.mod_value import hides, read_table, require_tensor
from saccade.scores.base import Score

__all__ = ["bias", "relative_bias"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class bias(Score):
    """Add a table to the scores: `score + table[b, h, q_idx, kv_idx]`.

    An entry of -inf hides its pair, and with `hide_lowest` so does one near the lowest number of the table's
    dtype; a mask that says the same, `dense(table)`, skips blocks besides.

    Args:
        table: Floating tensor `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`, which may require a gradient. Axes of
            size 1 broadcast, and what was expanded is read as it is stored (unless it requires a gradient).
            Kept as given, and read when the score is used.
        hide_lowest: Whether an entry that is at most half of `finfo(table.dtype).min` makes its score -inf,
            as in an additive mask, where a row of nothing else then gives 0 and not an average.

    Raises:
        ArgumentTypeError: `table` is no tensor.
        DTypeError: `table` is not of a floating dtype.
        ShapeError: `table` has not 2, 3 or 4 axes.

    Example:
        >>> import torch
        >>> table = torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]])  # [H=2, Q=1, K=2]
        >>> h, kv_idx = torch.arange(2)[:, None, None], torch.arange(2)
        >>> bias(table)(torch.zeros(2, 1, 2), torch.tensor(0), h, torch.tensor(0), kv_idx)
        tensor([[[0., 1.]],
        <BLANKLINE>
                [[2., 3.]]])
    """

    table: Tensor
    hide_lowest: bool = field(default=False, kw_only=True)
    usage: ClassVar[str] = "bias(table)"

    def __post_init__(self) -> None:
        require_tensor(self.table, "bias(): table")
        if not self.table.dtype.is_floating_point:
            raise DTypeError(
                f"bias(): table must be floating, got dtype={self.table.dtype}; "
                "a bool table that says which pairs are visible is a mask: dense(table)"
            )
        if self.table.dim() not in (2, 3, 4):
            raise ShapeError(
                "bias(): table must be [Q, K], [H, Q, K] or [B, H, Q, K], "
                f"got shape={list(self.table.shape)}; unsqueeze or index it to one of these"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        entry = read_table(self.table, b, h, q_idx, kv_idx)
        if not self.hide_lowest:
            return score + entry
        return torch.where(hides(entry, self.table.dtype), -math.inf, score + entry)


@final
@dataclass(frozen=True, eq=False, repr=False)
class relative_bias(Score):
    """Add a number that depends on the distance: `score + table[h, kv_idx - q_idx + n - 1]`.

    The table has 2n - 1 entries and serves positions 0 to n - 1: entry 0 is for the key n - 1 positions
    before the query, entry n - 1 for the query's own position, the last for the key n - 1 after it. A visible
    pair farther apart is an error. Nothing is hidden. As in Shaw et al. (arXiv 1803.02155) without clipping,
    and in Swin's relative position bias along one axis.

    Args:
        table: Floating tensor `[Hq, 2n - 1]`, or `[2n - 1]` for all heads, which may require a gradient. Kept
            as given, and read when the score is used.

    Raises:
        ArgumentTypeError: `table` is no tensor.
        DTypeError: `table` is not of a floating dtype.
        ShapeError: `table` has not 1 or 2 axes, or an even number of distances.

    Example:
        >>> import torch
        >>> table = torch.tensor([-2.0, -1.0, 0.0, 10.0, 20.0])  # n = 3
        >>> index, q_idx, kv_idx = torch.tensor(0), torch.arange(3)[:, None], torch.arange(3)
        >>> relative_bias(table)(torch.zeros(3, 3), index, index, q_idx, kv_idx)
        tensor([[ 0., 10., 20.],
                [-1.,  0., 10.],
                [-2., -1.,  0.]])
    """

    table: Tensor
    usage: ClassVar[str] = "relative_bias(table)"

    def __post_init__(self) -> None:
        require_tensor(self.table, "relative_bias(): table")
        if not self.table.dtype.is_floating_point:
            raise DTypeError(
                f"relative_bias(): table must be floating, got dtype={self.table.dtype}; "
                "convert it with .float()"
            )
        if self.table.dim() not in (1, 2) or self.table.shape[-1] % 2 == 0:
            raise ShapeError(
                "relative_bias(): table must be [Hq, 2n - 1] or [2n - 1], an odd number of distances, "
                f"got shape={list(self.table.shape)}"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = kv_idx - q_idx + self.table.shape[-1] // 2
        return score + (self.table[distance] if self.table.dim() == 1 else self.table[h, distance])
