"""Attention with linear biases: the farther the key, the lower its score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, DTypeError, ShapeError
from saccade.mod_value import require_at_least, require_tensor
from saccade.scores.base import Score

__all__ = ["alibi"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class alibi(Score):
    """Lower a score in proportion to the distance back to the key: `score + slope * (kv_idx - q_idx)`.

    Keys before the query are penalised, the query's own position is unchanged, and keys after it would gain:
    combine with a causal mask. Nothing is hidden. The slope of head h is 2^(-8 (h + 1) / n_heads), as in
    ALiBi (arXiv 2108.12409); this formula serves every number of heads, where the paper's code takes other
    slopes when the number is not a power of two (pass those as `slopes`).

    Args:
        n_heads: Number of query heads, Hq, for the slopes of the formula.
        slopes: Floating tensor `[Hq]`: a slope for each query head, which may require a gradient. Kept as
            given, and read when the score is used. Give this or `n_heads`.

    Raises:
        ArgumentError: Both or neither are given, or `n_heads` is less than 1.
        ArgumentTypeError: `n_heads` is not an integer, or `slopes` no tensor.
        DTypeError: `slopes` is not of a floating dtype.
        ShapeError: `slopes` is not `[Hq]`.

    Example:
        >>> q_idx, kv_idx = torch.arange(3)[:, None], torch.arange(3)
        >>> alibi(n_heads=8)(torch.zeros(3, 3), torch.tensor(0), torch.tensor(0), q_idx, kv_idx)
        tensor([[ 0.0000,  0.5000,  1.0000],
                [-0.5000,  0.0000,  0.5000],
                [-1.0000, -0.5000,  0.0000]])
    """

    n_heads: int | None = None
    slopes: Tensor | None = None
    usage: ClassVar[str] = "alibi(n_heads=16)"

    def __post_init__(self) -> None:
        if (self.n_heads is None) == (self.slopes is None):
            given = "none" if self.n_heads is None else "both"
            raise ArgumentError(
                f"alibi() expects n_heads, for the slopes of the paper, or slopes of your own; got {given}"
            )
        if self.n_heads is not None:
            require_at_least(1, self.n_heads, "alibi(): n_heads")
        if self.slopes is not None:
            require_tensor(self.slopes, "alibi(): slopes")
        if self.slopes is not None and not self.slopes.dtype.is_floating_point:
            raise DTypeError(
                f"alibi(): slopes must be floating, got dtype={self.slopes.dtype}; convert it with .float()"
            )
        if self.slopes is not None and self.slopes.dim() != 1:
            raise ShapeError(
                f"alibi(): slopes must be [Hq], one for each query head, got shape={list(self.slopes.shape)}"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        if self.slopes is not None:
            slope = self.slopes[h]
        else:
            assert self.n_heads is not None
            # In the score's dtype, so that float64 attention has float64 slopes.
            slope = torch.exp2((h + 1).to(score.dtype) * (-8.0 / self.n_heads))
        return score + slope * (kv_idx - q_idx)
