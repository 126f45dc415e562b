"""An additive mask as attention reads it: when blocks are looked for, on which no result depends."""

from __future__ import annotations

import pytest
import torch

from saccade import flex_attention
from saccade.attention.additive import additive_mods
from saccade.masks import dense
from saccade.scores import bias

HIDES = torch.full((), -torch.inf)


@pytest.mark.parametrize(
    ("shape", "q_len", "looked_for"),
    [
        ((128, 9), 128, True),
        ((127, 9), 127, False),
        ((1, 128, 9), 128, True),
        ((2, 128, 9), 128, False),
        ((3, 1, 128, 9), 128, True),
        ((3, 2, 128, 9), 128, False),
        ((3, 1, 1, 9), 300, True),  # of padding: one row for every query
        ((3, 1, 1, 9), 1, False),
    ],
)
def test_blocks_are_looked_for_where_heads_share_the_table_of_many_queries(
    shape: tuple[int, ...], q_len: int, looked_for: bool
) -> None:
    table = torch.zeros(shape)
    mask, score = additive_mods(table, q_len)
    assert score == bias(table, hide_lowest=True)
    assert mask == (dense(table) if looked_for else None)
    assert additive_mods(table, q_len, rescored=True) == (dense(table), score)


def test_heads_that_an_expanded_table_has_share_it() -> None:
    mask, score = additive_mods(HIDES.expand(128, 9).clone().expand(3, 2, 128, 9), 128)
    assert isinstance(mask, dense)
    assert isinstance(score, bias)
    assert mask.table.shape == score.table.shape == (1, 1, 128, 9)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_the_score_alone_gives_what_both_give(backend: str) -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = torch.randn(3, 2, 2, 160, 8, generator=generator)
    table = torch.randn(160, 160, generator=generator).masked_fill(
        torch.ones(160, 160).triu(1) > 0, -torch.inf
    )
    table[5], table[7, 3] = torch.finfo(torch.float32).min, -1e30
    mask, score = additive_mods(table, 160)
    alone = flex_attention(query, key, value, score_mod=score, backend=backend)
    both = flex_attention(query, key, value, score_mod=score, mask_mod=mask, backend=backend)
    torch.testing.assert_close(alone, both)
    assert not alone[:, :, 5].any()
