"""A learned bias for each distance in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.mod_value import is_integral
from saccade.scores.base import Score

__all__ = ["graphormer_bias"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class graphormer_bias(Score):
    """Add a number that depends on the distance of two nodes: `score + table[h, distances[q, kv]]`.

    The spatial encoding of Graphormer (arXiv 2106.05234): positions are nodes, a distance is that of the
    shortest path, and each head learns a number for each distance. Nothing is hidden, and neither order nor
    position matters beyond the distances. A pair without a path has the paper's distance -1, which reads the
    last entry of the table: leave one for it. A distance beyond the table is an error where it is visible.

    Args:
        table: Floating tensor `[Hq, n]`, or `[n]` for all heads: the number for each distance, which may
            require a gradient. Kept as given, and read when the score is used.
        distances: Integer tensor `[Q, K]`, or `[B, Q, K]` for a graph in each batch entry. Kept as given, and
            read when the score is used.

    Raises:
        DTypeError: `table` is not of a floating dtype, or `distances` not of an integer one.
        ShapeError: `table` has not 1 or 2 axes, or `distances` not 2 or 3.

    Example:
        >>> import torch
        >>> path = torch.tensor([[0, 1, -1], [1, 0, -1], [-1, -1, 0]])  # 0 - 1, and 2 alone
        >>> table = torch.tensor([[0.0, 10.0, -5.0]])  # for the distances 0, 1, and none
        >>> index, q_idx, kv_idx = torch.tensor(0), torch.arange(3)[:, None], torch.arange(3)
        >>> graphormer_bias(table, path)(torch.zeros(3, 3), index, index, q_idx, kv_idx)
        tensor([[ 0., 10., -5.],
                [10.,  0., -5.],
                [-5., -5.,  0.]])
    """

    table: Tensor
    distances: Tensor
    usage: ClassVar[str] = "graphormer_bias(table, distances)"

    def __post_init__(self) -> None:
        if not self.table.dtype.is_floating_point:
            raise DTypeError(
                f"graphormer_bias(): table must be floating, got dtype={self.table.dtype}; "
                "the distances are the second argument"
            )
        if self.table.dim() not in (1, 2):
            raise ShapeError(
                "graphormer_bias(): table must be [Hq, n] or [n], a number for each distance, "
                f"got shape={list(self.table.shape)}"
            )
        if not is_integral(self.distances):
            raise DTypeError(
                f"graphormer_bias(): distances must be integers, got dtype={self.distances.dtype}; "
                "write .long(), with -1 for pairs without a path"
            )
        if self.distances.dim() not in (2, 3):
            raise ShapeError(
                "graphormer_bias(): distances must be [Q, K] or [B, Q, K], "
                f"got shape={list(self.distances.shape)}"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        pair = (b, q_idx, kv_idx)[3 - self.distances.dim() :]
        distance = self.distances[pair]
        return score + (self.table[distance] if self.table.dim() == 1 else self.table[h, distance])
