"""Sums in no fixed order, where torch.use_deterministic_algorithms is set before a call or after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from backends.triton.calls import attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade.errors import BackendError, UnsupportedError


@contextmanager
def deterministic(*, warn_only: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def shared_by_pairs() -> tuple[list[Tensor], dict[str, object]]:
    """Leaves, the last of which is added to atomically, and what a call is given."""
    table = torch.randn(5, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[(q_idx - kv_idx) % 5]

    return [*draw(18, 20, heads=1, kv_heads=1), table], {"score_mod": score}


@interpreted
def test_they_are_warned_of() -> None:
    leaves, options = shared_by_pairs()
    expected = gradients(attend(leaves, **options), leaves)
    with deterministic(warn_only=True):
        results = attend(leaves, **options)
        with pytest.warns(UserWarning, match=r"backend='triton': it adds up .* in no fixed order"):
            found = gradients(results, leaves)
        # Where nothing shares an element there is nothing to tell.
        gradients(attend(leaves), leaves[:3])
    torch.testing.assert_close(found, expected)


@interpreted
def test_they_are_refused() -> None:
    leaves, options = shared_by_pairs()
    with deterministic(warn_only=False), pytest.raises(BackendError, match="in no fixed order"):
        attend(leaves, **options)


@interpreted
def test_they_are_refused_after_the_call_too() -> None:
    leaves, options = shared_by_pairs()
    results = attend(leaves, **options)
    told = "expected gradients that are the same to the bit"
    with deterministic(warn_only=False), pytest.raises(UnsupportedError, match=told):
        gradients(results, leaves)
