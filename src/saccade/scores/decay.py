"""Weights that fall by a factor at every step of distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.scores.base import Score

__all__ = ["distance_decay"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class distance_decay(Score):
    """Multiply each weight by `decay ** |q_idx - kv_idx|`: the score gains `|q_idx - kv_idx| * ln(decay)`.

    The weights meant are those before the softmax divides by their sum. Distances before and after the query
    count alike, the query's own position is unchanged, and nothing is hidden. This is the decay of RetNet
    (arXiv 2307.08621), which multiplies the products of queries and keys by γ^(q - kv), for attention with a
    softmax, where the weight is the exponential of the score. RetNet's γ of head h, counted from 0, is
    1 - 2^(-5 - h).

    Args:
        decay: The factor: a number above 0 and at most 1 for all heads, or a floating tensor `[Hq]` of such
            numbers, which may require a gradient. A tensor is kept as given, and read when the score is used.

    Raises:
        ArgumentError: A number is not above 0 and at most 1.
        ArgumentTypeError: `decay` is neither a number nor a tensor.
        DTypeError: A tensor is not of a floating dtype.
        ShapeError: A tensor is not `[Hq]`.

    Example:
        >>> index, q_idx, kv_idx = torch.tensor(0), torch.arange(2)[:, None], torch.arange(4)
        >>> distance_decay(0.5)(torch.zeros(2, 4), index, index, q_idx, kv_idx).exp()
        tensor([[1.0000, 0.5000, 0.2500, 0.1250],
                [0.5000, 1.0000, 0.5000, 0.2500]])
        >>> distance_decay(1 - torch.exp2(-5.0 - torch.arange(8)))  # RetNet's, of 8 heads
        distance_decay(float32[8])
    """

    decay: float | Tensor
    usage: ClassVar[str] = "distance_decay(0.97)"

    def __post_init__(self) -> None:
        if isinstance(self.decay, Tensor):
            _require_factors(self.decay)
        elif isinstance(self.decay, bool) or not isinstance(self.decay, (int, float)):
            raise ArgumentTypeError(
                "distance_decay(): decay must be a number or a tensor [Hq], "
                f"got {type(self.decay).__name__} {self.decay!r}"
            )
        elif not 0 < self.decay <= 1:
            raise ArgumentError(
                f"distance_decay(): decay must be above 0 and at most 1, got decay={self.decay}; it is the "
                "factor for one position of distance, so 0.97 keeps 97 % of a weight"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = torch.abs(q_idx - kv_idx)
        if isinstance(self.decay, Tensor):
            return score + distance * torch.log(self.decay[h])
        # In the score's dtype: torch multiplies integers by a number in its default one.
        return score + distance.to(score.dtype) * math.log(self.decay)


def _require_factors(decay: Tensor) -> None:
    if not decay.dtype.is_floating_point:
        raise DTypeError(
            f"distance_decay(): decay must be floating, got dtype={decay.dtype}; convert it with .float()"
        )
    if decay.dim() != 1:
        raise ShapeError(
            "distance_decay(): decay must be [Hq], one for each query head, "
            f"got shape={list(decay.shape)}; for all heads alike pass a number"
        )
