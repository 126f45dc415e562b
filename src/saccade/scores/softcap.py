"""A soft limit on scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.scores.approximate_tanh import approximate_tanh
from saccade.scores.base import Score

__all__ = ["softcap"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class softcap(Score):
    """Keep scores between -cap and cap, smoothly: `cap * tanh(score / cap)`.

    Small scores hardly change, none hides a key. Used by Gemma 2 (arXiv 2408.00118, with a cap of 50).

    Args:
        cap: The limit, in units of the scaled score; above 0.
        approximate: Whether to compute a cheaper tanh, `approximate_tanh`: a quotient of polynomials within
            1e-4 of it, with 1 - tanh^2 as its derivative. By default the exact one.

    Raises:
        ArgumentError: `cap` is not above 0, or not finite.
        ArgumentTypeError: `cap` is not a number, or `approximate` not a bool.

    Example:
        >>> index = torch.tensor(0)
        >>> softcap(2.0)(torch.tensor([-100.0, 0.0, 0.1, 100.0]), index, index, index, index)
        tensor([-2.0000,  0.0000,  0.0999,  2.0000])
        >>> softcap(2.0, approximate=True)(torch.tensor([0.1, 100.0]), index, index, index, index)
        tensor([0.0999, 2.0000])
    """

    cap: float
    approximate: bool = False
    usage: ClassVar[str] = "softcap(cap=50.0)"

    def __post_init__(self) -> None:
        if isinstance(self.cap, bool) or not isinstance(self.cap, (int, float)):
            raise ArgumentTypeError(
                f"softcap(): cap must be a number, got {type(self.cap).__name__} {self.cap!r}; "
                "for a learned cap write the score_mod as a function"
            )
        if not 0 < self.cap < math.inf:
            raise ArgumentError(f"softcap(): cap must be above 0 and finite, got cap={self.cap}")
        if not isinstance(self.approximate, bool):
            raise ArgumentTypeError(
                "softcap(): approximate must be True or False, "
                f"got {type(self.approximate).__name__} {self.approximate!r}"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        tanh = approximate_tanh if self.approximate else torch.tanh
        return self.cap * tanh(score / self.cap)
