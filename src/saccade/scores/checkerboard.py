"""Scores that alternate with the parity of the distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.scores.base import Score

__all__ = ["checkerboard"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class _Checkerboard(Score):
    """Halve the scores at odd distances and double those at even ones, the query's own position included.

    It is a score itself: pass `checkerboard`, do not call it first. Nothing is hidden, and keys on both sides
    are treated alike. No model uses it: it is the example of the FlexAttention walk-throughs, whose printed
    form leaves even distances unchanged (`docs/decisions/007`).

    Example:
        >>> index, q_idx, kv_idx = torch.tensor(0), torch.arange(2)[:, None], torch.arange(4)
        >>> checkerboard(torch.ones(2, 4), index, index, q_idx, kv_idx)
        tensor([[2.0000, 0.5000, 2.0000, 0.5000],
                [0.5000, 2.0000, 0.5000, 2.0000]])
    """

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where((kv_idx - q_idx) % 2 == 1, score * 0.5, score * 2.0)

    def __repr__(self) -> str:
        return "checkerboard"


checkerboard = _Checkerboard()
