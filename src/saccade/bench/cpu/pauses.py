"""Calls timed in turns, and what happens between them: a rest, or a torch product, as in a model.

A rest lets the threads of whoever ran last fall asleep, so that nobody is slowed by them. A product leaves
them awake and looking for work, which is what attention meets in a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from saccade.bench.timing import Timing, time_in_turns

__all__ = ["time_apart"]

_REST_S = 0.02  # longer than OpenMP's threads look for more work before they sleep
_SAMPLE_S = 0.02
_MATMUL = 1024  # rows and columns of the product
_LARGE_ROUNDS = 3


def time_apart(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    is_large: bool = False,
    product: torch.dtype | None = None,
) -> dict[str, Timing]:
    """Time calls in turns, with a pause before every sample.

    Args:
        calls: Name to call; may be empty.
        rounds: Samples of each.
        is_large: Whether the calls are so long that three samples of one call must do.
        product: The type of the matrices multiplied before every sample; None for a rest.

    Returns:
        Name to timing.
    """
    if not calls:
        return {}
    return time_in_turns(
        calls,
        rounds=min(rounds, _LARGE_ROUNDS) if is_large else rounds,
        # A product comes before every sample, so a sample is one call there.
        sample_s=0.0 if is_large or product is not None else _SAMPLE_S,
        before=_rest if product is None else _torch_product(product),
    )


def _rest() -> None:
    """Wait until the threads of whoever ran last have fallen asleep."""
    time.sleep(_REST_S)


def _torch_product(dtype: torch.dtype) -> Callable[[], object]:
    left, right = torch.ones(2, _MATMUL, _MATMUL, dtype=dtype)
    return lambda: left @ right
