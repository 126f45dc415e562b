"""Walks: kept where they can be used again, and never more of them than kernels and sizes."""

from __future__ import annotations

import pytest
import torch

from saccade import create_block_mask, flex_attention
from saccade.backends.cpu import walk as cpu_walk
from saccade.masks import causal

LENGTHS = {"forward": 40, "decode": 3}


@pytest.mark.parametrize("q_len", LENGTHS.values(), ids=LENGTHS)
def test_numbers_share_one_on_the_mask(q_len: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(1, 2, q_len, 8), torch.randn(1, 2, 40, 8)
    mask = create_block_mask(causal, None, None, q_len, 40, device="cpu")
    made = []
    make = cpu_walk._masked_walk
    monkeypatch.setattr(cpu_walk, "_masked_walk", lambda *given: made.append(given) or make(*given))
    for factor in (0.5, 0.25, 0.125):
        for scale in (1.0, 2.0):
            mod = lambda score, b, h, q, k, factor=factor: score * factor  # noqa: E731
            found = flex_attention(query, key, key, mod, mask, scale, backend="cpu")
            expected = flex_attention(query, key, key, mod, mask, scale, backend="eager")
            torch.testing.assert_close(found, expected)
    assert len(made) == 1
    flex_attention(query.double(), key.double(), key.double(), block_mask=mask, backend="cpu")
    assert len(made) == 2


@pytest.mark.parametrize("q_len", LENGTHS.values(), ids=LENGTHS)
def test_numbers_share_one_where_all_is_visited(q_len: int) -> None:
    query, key = torch.randn(1, 2, q_len, 8), torch.randn(1, 2, 41, 8)
    cpu_walk._whole_walk.cache_clear()
    for scale in (0.5, 1.0, 2.0):
        flex_attention(query, key, key, scale=scale, backend="cpu")
    assert cpu_walk._whole_walk.cache_info().misses == 1
    flex_attention(query, key, key, mask_mod=causal, backend="cpu")
    assert cpu_walk._whole_walk.cache_info().misses == 2
