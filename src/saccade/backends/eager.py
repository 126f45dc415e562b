"""The backend that takes every problem: whole score matrices, torch operations, any device and dtype."""

from __future__ import annotations

from typing import final

from saccade.backends.base import Backend, Kernel
from saccade.backends.dense import DenseAttention
from saccade.problem import AttentionProblem
from saccade.schedule import Schedule

__all__ = ["EagerBackend"]


@final
class EagerBackend(Backend):
    """Attention by its equations.

    Memory grows with B·Hq·Q·K; whether that is acceptable is the planner's to say.
    """

    name = "eager"

    def unsupported_reasons(self, problem: AttentionProblem) -> list[str]:
        """Return no reason, ever."""
        return []

    def compile(self, problem: AttentionProblem, schedule: Schedule) -> Kernel:
        """Return the problem as a callable; nothing is compiled and no hint is of use."""
        return DenseAttention(problem)
