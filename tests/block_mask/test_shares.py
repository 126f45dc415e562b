"""Shares of visible pairs, cell by cell, against the mask written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.block_mask import BlockMask, create_block_mask, shares
from saccade.block_mask.shares import cell_edges, visible_shares
from saccade.errors import IndexOutOfRangeError, StaleMaskError
from saccade.masks import causal, document, natten, noop_mask, sliding_window


def by_hand(mask: BlockMask, rows: int, columns: int, b: int = 0, h: int = 0) -> np.ndarray:
    dense = mask.to_bool()[b, h].numpy()
    q, kv = cell_edges(dense.shape[0], rows), cell_edges(dense.shape[1], columns)
    return np.array(
        [
            [dense[q[i] : q[i + 1], kv[j] : kv[j + 1]].mean() for j in range(len(kv) - 1)]
            for i in range(len(q) - 1)
        ]
    )


@pytest.mark.parametrize("lengths", [(7, 7), (100, 61), (300, 515), (1, 9)])
@pytest.mark.parametrize("mod", [causal, sliding_window(20), noop_mask])
@pytest.mark.parametrize("strip", [1, 1 << 22])
def test_shares_are_those_of_the_mask_written_out(
    lengths: tuple[int, int], mod: object, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "_STRIP_PAIRS", strip)
    mask = create_block_mask(mod, None, None, *lengths, device="cpu")  # type: ignore[arg-type]
    assert np.allclose(visible_shares(mask, (10, 16)), by_hand(mask, 10, 16), atol=1e-12)


def test_given_blocks_and_the_batch_and_head_asked_for() -> None:
    by_both = create_block_mask(
        lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + 3 * b - h, 2, 2, 20, 20, device="cpu"
    )
    for b, h in np.ndindex(2, 2):
        assert np.allclose(visible_shares(by_both, 6, b, h), by_hand(by_both, 6, 6, b, h))
    with pytest.raises(IndexOutOfRangeError, match="2"):
        visible_shares(by_both, 6, 2)
    given = BlockMask.from_kv_blocks(
        torch.tensor([[[1, 0]]]), torch.tensor([[[[1, 0], [0, 1]]]]), BLOCK_SIZE=4
    )
    assert visible_shares(given, 2).tolist() == [[0, 1], [0, 0]]


def test_no_keys_are_no_columns_to_see() -> None:
    assert not visible_shares(create_block_mask(causal, None, None, 4, 0, device="cpu"), 4).any()


def test_beyond_the_limit_whole_blocks_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = create_block_mask(sliding_window(512), None, None, 1024, 1024, device="cpu")
    monkeypatch.setattr(shares, "_COUNTED_PAIRS", 1024)
    assert visible_shares(mask, 4).tolist() == [
        [0.5, 0, 0, 0],
        [1, 0.5, 0, 0],
        [0.5, 1, 0.5, 0],
        [0, 0.5, 1, 0.5],
    ]


def test_a_stale_mask_is_not_drawn() -> None:
    ids = torch.zeros(8, dtype=torch.long)
    mask = create_block_mask(
        lambda b, h, q_idx, kv_idx: ids[q_idx] == ids[kv_idx], None, None, 8, 8, device="cpu"
    )
    ids[3:] = 1
    with pytest.raises(StaleMaskError, match="refreshed"):
        visible_shares(mask, 4)


def test_real_sizes_are_measured_exactly() -> None:
    documents = [4096, 4096, 8192, 8192, 8192]
    mask = create_block_mask(causal & document(lengths=documents), None, None, 32768, 32768, device="cpu")
    found = visible_shares(mask, 256)
    assert found.mean() == pytest.approx(mask.density(), rel=1e-12)
    image = create_block_mask(natten((128, 128), 7), None, None, 16384, 16384, device="cpu")
    assert visible_shares(image, 128).sum() * 128 * 128 == pytest.approx(16384 * 49)
