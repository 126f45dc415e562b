"""Leading dimensions become a batch and heads without copies that need not be; results are in test_sdpa."""

from __future__ import annotations

import pytest
import torch

from saccade.attention.leading import fold, fold_mask

# query, key and value without their last two dimensions, grouped or not: folded query and key, output
FOLDED = {
    "nothing to do": (((2, 4), (2, 4), (2, 4)), False, (2, 4), (2, 4), (2, 4)),
    "matrices": (((), (), ()), False, (1, 1), (1, 1), ()),
    "heads alone": (((4,), (4,), (4,)), False, (1, 4), (1, 4), (4,)),
    "two batches": (((2, 3, 4), (2, 3, 4), (2, 3, 4)), False, (6, 4), (6, 4), (2, 3, 4)),
    "keys of every batch": (((2, 3, 4), (4,), (1, 4)), False, (6, 4), (1, 4), (2, 3, 4)),
    "keys of some batches": (((2, 3, 4), (3, 4), (3, 4)), False, (6, 4), (6, 4), (2, 3, 4)),
    "one key head": (((2, 4), (2, 1), (2, 1)), False, (2, 4), (2, 1), (2, 4)),
    "one value head": (((2, 4), (2, 4), (2, 1)), False, (2, 4), (2, 4), (2, 4)),
    "one query head": (((2, 1), (2, 4), (2, 4)), False, (2, 4), (2, 4), (2, 4)),
    "one query": (((1, 4), (2, 4), (2, 4)), False, (2, 4), (2, 4), (2, 4)),
    "groups": (((2, 6), (2, 3), (2, 3)), True, (2, 6), (2, 3), (2, 6)),
    "groups and shared keys": (((2, 5, 6), (3,), (3,)), True, (10, 6), (1, 3), (2, 5, 6)),
    "groups of another size for values": (((2, 6), (2, 3), (2, 2)), True, (2, 6), (2, 6), (2, 6)),
    "no batch": (((0, 4), (0, 4), (0, 4)), False, (0, 4), (0, 4), (0, 4)),
}


@pytest.mark.parametrize(("leading", "grouped", "query", "key", "out"), FOLDED.values(), ids=FOLDED.keys())
def test_folded_shapes(
    leading: tuple[tuple[int, ...], ...],
    grouped: bool,
    query: tuple[int, ...],
    key: tuple[int, ...],
    out: tuple[int, ...],
) -> None:
    tensors = [
        torch.randn(*one, *matrix) for one, matrix in zip(leading, ((5, 8), (7, 8), (7, 3)), strict=True)
    ]
    folded = fold(*tensors, enable_gqa=grouped)
    assert folded.query.shape == (*query, 5, 8)
    assert folded.key.shape == (*key, 7, 8)
    assert folded.value.shape == (*key, 7, 3)
    assert folded.leading == out
    assert folded.scores_shape == (*out, 5, 7)


def test_what_fits_passes_untouched() -> None:
    query, key = torch.randn(2, 6, 5, 8), torch.randn(1, 3, 7, 8)
    folded = fold(query, key, key, enable_gqa=True)
    assert folded.query is query
    assert folded.key is folded.value is key


# scores, mask as stored, what it is expanded to: folded mask
MASKS = {
    "as it is": ((2, 4, 5, 7), (5, 7), (5, 7), (5, 7)),
    "expanded": ((2, 4, 5, 7), (2, 1, 1, 7), (2, 4, 5, 7), (2, 1, 1, 7)),
    "a single entry": ((2, 4, 5, 7), (1, 1), (2, 4, 5, 7), (1, 1, 1, 1)),
    "heads alone": ((4, 5, 7), (4, 1, 7), (4, 5, 7), (4, 1, 7)),
    "one for two batches": ((2, 3, 4, 5, 7), (1, 1, 4, 5, 7), (2, 3, 4, 5, 7), (4, 5, 7)),
    "one for each of two batches": ((2, 3, 4, 5, 7), (2, 3, 1, 5, 7), (2, 3, 4, 5, 7), (6, 1, 5, 7)),
    "one for each inner batch": ((2, 3, 4, 5, 7), (3, 1, 5, 7), (3, 4, 5, 7), (6, 1, 5, 7)),
}


@pytest.mark.parametrize(("scores", "stored", "expanded", "expected"), MASKS.values(), ids=MASKS.keys())
def test_folded_masks(
    scores: tuple[int, ...], stored: tuple[int, ...], expanded: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    folded = fold(
        torch.randn(*scores[:-1], 8), *torch.randn(2, *scores[:-2], scores[-1], 8), enable_gqa=False
    )
    mask = torch.randn(stored)
    table = fold_mask(mask.expand(expanded), folded)
    assert table.shape == expected
    if len(scores) > 4:
        table = table.expand(-1 if table.dim() == 4 else 6, *scores[-3:]).reshape(scores)
    torch.testing.assert_close(table.expand(scores), mask.expand(scores))
