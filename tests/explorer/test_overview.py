"""The overview of a page: which masks have one, its cells, and what is counted in them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from saccade import masks as m
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError
from saccade.explorer import overview_data as module
from saccade.explorer.data import page_data
from saccade.explorer.overview_data import overview_data


def mask_of(mod: Any, q_len: int, kv_len: int, block: int | tuple[int, int] = 128, **sizes: int) -> BlockMask:
    batch, heads = sizes.get("batch"), sizes.get("heads")
    return create_block_mask(mod, batch, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=block)


def pictures(data: dict[str, Any]) -> list[np.ndarray]:
    """The bytes of each picture, uint8[rows, columns]."""
    shape = data["rows"], data["columns"]
    return [np.frombuffer(base64.b64decode(one), np.uint8).reshape(shape) for one in data["shares"]]


def overview(mask: BlockMask) -> dict[str, Any]:
    data = overview_data(mask)
    assert data is not None
    return data


def expected_bytes(mask: BlockMask, data: dict[str, Any], b: int = 0, h: int = 0) -> np.ndarray:
    """From the mask by element: the share of each cell, rounded away from none and from all."""
    visible = mask.to_bool()[b, h].numpy().astype(np.int64)
    q_edges, kv_edges = data["q_edges"], data["kv_edges"]
    assert (q_edges[-1], kv_edges[-1]) == visible.shape
    counts = np.add.reduceat(np.add.reduceat(visible, q_edges[:-1], axis=0), kv_edges[:-1], axis=1)
    sizes = np.outer(np.diff(q_edges), np.diff(kv_edges))
    between = np.clip(np.rint(255 * counts / sizes), 1, 254)
    return np.where(counts == 0, 0, np.where(counts == sizes, 255, between)).astype(np.uint8)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small masks an overview too."""
    monkeypatch.setattr(module, "_DRAWN_PAIRS", 0)


@pytest.fixture
def by_blocks(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make cells of whole blocks for small masks too."""
    monkeypatch.setattr(module, "_WRITTEN_PAIRS", 0)


def test_what_is_drawn_pair_by_pair_has_none() -> None:
    assert overview_data(mask_of(m.causal, 2048, 2048)) is None
    assert overview_data(mask_of(m.causal, 2048, 2049)) is not None
    assert page_data(mask_of(m.causal, 8, 8))["overview"] is None


@pytest.mark.usefixtures("always")
class TestCellsOfPairs:
    def test_shares_are_counted(self) -> None:
        mask = mask_of(m.sliding_window(40), 600, 700, 64)
        data = overview(mask)
        assert (data["rows"], data["columns"], data["counted"]) == (512, 512, True)
        np.testing.assert_array_equal(pictures(data)[0], expected_bytes(mask, data))

    def test_a_single_pair_is_neither_none_nor_all(self) -> None:
        almost_none = mask_of(lambda b, h, q_idx, kv_idx: (q_idx == 9) & (kv_idx == 9), 2048, 2048, 512)
        almost_all = mask_of(lambda b, h, q_idx, kv_idx: (q_idx != 9) | (kv_idx != 9), 2048, 2048, 512)
        (sparse,), (dense,) = (pictures(overview(mask)) for mask in (almost_none, almost_all))
        assert (np.count_nonzero(sparse), sparse.max()) == (1, 16)
        assert (np.count_nonzero(dense != 255), dense.min()) == (1, 239)

    def test_each_stored_head_has_its_picture(self) -> None:
        mask = mask_of(lambda b, h, q_idx, kv_idx: kv_idx <= h, 4, 4, batch=2, heads=3)
        first_rows = [one[0].tolist() for one in pictures(overview(mask))]
        assert first_rows == [[255] + [0] * 3, [255] * 2 + [0] * 2, [255] * 3 + [0]]

    def test_many_heads_share_the_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_SIDE", 32)
        monkeypatch.setattr(module, "_MOST_CELLS", 4 * 32 * 32)
        found = []
        for heads in (4, 16):
            data = overview(mask_of(lambda b, h, q_idx, kv_idx: kv_idx <= h, 64, 48, heads=heads))
            found.append((data["rows"], data["columns"], len(data["shares"])))
        assert found == [(32, 32, 4), (16, 16, 16)]


@pytest.mark.usefixtures("by_blocks")
class TestCellsOfBlocks:
    @pytest.mark.parametrize("side", [512, 5, 1])
    def test_pairs_are_counted(self, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_SIDE", side)
        monkeypatch.setattr(module, "_AT_ONCE", 100)  # less than a row of blocks
        ids = torch.tensor([[0] * 30 + [1] * 117, [0] * 100 + [1] * 47])
        mask = mask_of(m.causal & m.document(ids), 147, 147, (16, 24), batch=2)
        data = overview(mask)
        assert data["counted"]
        assert data["rows"] <= side
        for b, picture in enumerate(pictures(data)):
            np.testing.assert_array_equal(picture, expected_bytes(mask, data, b))

    def test_a_mask_without_partial_blocks(self) -> None:
        mask = mask_of(lambda b, h, q_idx, kv_idx: kv_idx // 8 <= q_idx // 8, 40, 44, 8)
        data = overview(mask)
        np.testing.assert_array_equal(pictures(data)[0], expected_bytes(mask, data))

    def test_what_would_take_long_is_not_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask = mask_of(m.causal, 40, 40, 8)  # five partial blocks of 64 pairs
        monkeypatch.setattr(module, "MOST_COUNTED", 5 * 64)
        assert overview(mask)["counted"]
        monkeypatch.setattr(module, "MOST_COUNTED", 5 * 64 - 1)
        data = overview(mask)
        assert not data["counted"]
        order = np.arange(5)[:, None] - np.arange(5)
        np.testing.assert_array_equal(
            pictures(data)[0], np.where(order < 0, 0, np.where(order > 0, 255, 128))
        )


class TestLongMasks:
    def test_one_pair_in_thousands(self) -> None:
        sparse = mask_of(
            lambda b, h, q_idx, kv_idx: (q_idx % 64 == 0) & (kv_idx % 64 == 0), 20480, 20480, 512
        )
        data = overview(sparse)
        assert data["counted"]
        assert set(np.unique(pictures(data)[0])) == {1}

    def test_cells_cover_all_queries_and_keys(self) -> None:
        data = overview(mask_of(m.causal, 1 << 17, (1 << 17) + 50))
        assert data["rows"] == 512
        assert data["columns"] == 342  # cells of three blocks, so that 1025 make fewer than 512
        q_edges, kv_edges = np.array(data["q_edges"]), np.array(data["kv_edges"])
        assert set(np.diff(q_edges)) == {256}
        assert set(np.diff(kv_edges)[:-1]) == {384}
        assert kv_edges[-1] == (1 << 17) + 50
        last_query, first_key = q_edges[1:, None] - 1, kv_edges[:-1]
        (shares,) = pictures(data)
        assert ((shares == 0) == (first_key > last_query)).all()
        assert ((shares == 255) == (kv_edges[1:] <= q_edges[:-1, None] + 1)).all()


def test_all_pictures_together_stay_small() -> None:
    data = overview(mask_of(lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + h, 2100, 2100, 64, heads=32))
    assert (data["rows"], data["columns"]) == (181, 181)
    assert len(json.dumps(data)) < 1_500_000


def test_too_many_heads_are_refused() -> None:
    mask = mask_of(lambda b, h, q_idx, kv_idx: kv_idx <= b + h, 4, 4, 4, batch=65, heads=64)
    message = r"at most 4096 batches and heads whose masks differ, got 65 × 64 = 4160; select some of them"
    with pytest.raises(ArgumentError, match=message):
        overview_data(mask)
