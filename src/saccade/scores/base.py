"""Scores as values. Owns `Score`, the class of every score of the library."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from saccade.mod_value import ModValue

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Score"]


class Score(ModValue):
    """A score_mod that is a value: compares, hashes, pickles and prints as its call.

    Example:
        >>> from saccade.scores import softcap
        >>> softcap(30.0), softcap(30.0) == softcap(30.0)
        (softcap(30.0), True)
    """

    @abc.abstractmethod
    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """Return the score that takes the place of `score` before the softmax.

        Args:
            score: Floating tensor: `q·k * scale`. All five broadcast against each other.
            b: Integer tensor: the batch.
            h: Integer tensor: the query head.
            q_idx: Integer tensor: the query's position.
            kv_idx: Integer tensor: the key's position.

        Returns:
            Floating tensor of the shape that the arguments have together.
        """
