"""Visibility and scores of every pair, in torch operations."""

from __future__ import annotations

import pytest
import torch

from saccade import flex_attention


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("lengths", [(0, 3), (3, 0)], ids=["no queries", "no keys"])
def test_without_pairs_no_poison_decides(lengths: tuple[int, int], backend: str) -> None:
    query, key = (torch.zeros(1, 1, length, 4) for length in lengths)
    table = torch.zeros(2)
    out = flex_attention(
        query,
        key,
        key,
        lambda score, b, h, q, k: score + table[h + 2],
        mask_mod=lambda b, h, q, k: 1 // h == 0,
        backend=backend,
    )
    assert torch.equal(out, torch.zeros(1, 1, lengths[0], 4))
