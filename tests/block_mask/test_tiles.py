"""Tile runs against their definition: kinds per token, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade import masks
from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask, TileRuns, create_block_mask, key_tile_runs, tile_runs
from saccade.errors import ArgumentError, UnsupportedError


def mixed(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return ((q_idx >= kv_idx) & (kv_idx >= 5 * h)) | (q_idx // 4 == b)


def token_kinds(mask: BlockMask, *, by_key: bool) -> np.ndarray:
    """uint8[B, H, Q, K] (or [B, H, K, Q]): the kind of each pair's block."""
    kinds = mask.runs.to_dense().repeat(mask.q_block, axis=2).repeat(mask.kv_block, axis=3)
    kinds = kinds[:, :, : mask.q_len, : mask.kv_len]
    return kinds.swapaxes(2, 3) if by_key else kinds


def check(mask: BlockMask, tiles: TileRuns, group: int, *, by_key: bool) -> None:
    kinds = token_kinds(mask, by_key=by_key)
    batch, heads, length, _ = kinds.shape
    group = 1 if heads == 1 else group
    assert tiles.shape == (batch, heads // group, len(tiles.first))
    covered = np.concatenate([np.arange(a, z) for a, z in zip(tiles.first, tiles.last, strict=True)] or [[]])
    assert covered.tolist() == list(range(length))
    for b, g, t in np.ndindex(tiles.shape):
        part = kinds[b, g * group : (g + 1) * group, tiles.first[t] : tiles.last[t]]
        part = part.reshape(-1, kinds.shape[3])
        expected = np.where((part == 2).all(0), 2, np.where((part != 0).any(0), 1, 0))
        found = np.zeros_like(expected)
        before = None
        for start, stop, kind in tiles.tile(b, g, t):
            assert start < stop
            assert before is None or start > before[0] or (start == before[0] and kind != before[1])
            found[start:stop] = kind
            before = (stop, kind)
        assert found.tolist() == expected.tolist()
    walked = tiles.lengths()
    assert walked.sum() == sum(stop - start for start, stop in zip(tiles.start, tiles.stop, strict=True))
    assert (walked == tiles.lengths(BlockKind.FULL) + tiles.lengths(BlockKind.PARTIAL)).all()


@settings(max_examples=60)
@given(
    tile=st.integers(1, 40),
    block=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    lengths=st.tuples(st.integers(0, 33), st.integers(0, 33)),
    group=st.sampled_from([1, 2, 4]),
)
def test_analysed_masks(tile: int, block: tuple[int, int], lengths: tuple[int, int], group: int) -> None:
    mask = create_block_mask(mixed, 2, 4, *lengths, "cpu", block)
    check(mask, tile_runs(mask, tile, group), group, by_key=False)
    check(mask, key_tile_runs(mask, tile, group), group, by_key=True)
    assert (np.diff(tile_runs(mask, tile).first) == tile).all()


@settings(max_examples=40)
@given(tile=st.integers(1, 20), group=st.sampled_from([1, 3]))
def test_tiles_of_given_blocks_keep_to_their_block_rows(tile: int, group: int) -> None:
    whole = create_block_mask(masks.causal & masks.prefix_lm(7), 2, 3, 29, 23, "cpu", (8, 5))
    mask = BlockMask.from_torch(whole.to_torch())
    assert mask.runs.shape[:2] == (2, 3)
    for tiles, block, by_key in (
        (tile_runs(mask, tile, group), 8, False),
        (key_tile_runs(mask, tile, group), 5, True),
    ):
        check(mask, tiles, group, by_key=by_key)
        assert (tiles.first // block == (tiles.last - 1) // block).all()
        assert (tiles.last - tiles.first <= tile).all()


def test_one_block_row_keeps_its_kinds() -> None:
    mask = create_block_mask(masks.causal, None, None, 512, 512, "cpu")
    assert tile_runs(mask, 64).tile(0, 0, 3) == [(0, 128, BlockKind.FULL), (128, 256, BlockKind.PARTIAL)]
    assert key_tile_runs(mask, 64).tile(0, 0, 7) == [(384, 512, BlockKind.PARTIAL)]


def test_group_walks_the_union_of_its_heads() -> None:
    mask = create_block_mask(lambda b, h, q, k: k // 4 == h, None, 4, 4, 16, "cpu", 4)
    tiles = tile_runs(mask, 4, group=2)
    assert tiles.shape == (1, 2, 1)
    assert tiles.tile(0, 1, 0) == [(8, 16, BlockKind.PARTIAL)]
    assert tile_runs(mask, 4).tile(0, 3, 0) == [(12, 16, BlockKind.FULL)]


def test_memoised_on_the_mask() -> None:
    mask = create_block_mask(masks.causal, None, None, 64, 64, "cpu")
    assert tile_runs(mask, 16) is tile_runs(mask, 16)
    assert mask.transposed_runs is mask.transposed_runs
    assert repr(tile_runs(mask, 16)) == "TileRuns(1×1×4 tiles, 4 ranges)"


def test_a_million_tokens() -> None:
    n = 1 << 20
    mask = create_block_mask(masks.causal, None, None, n, n, "cpu")
    tiles = tile_runs(mask, 96)
    assert tiles.lengths()[0, 0, -1] == n
    assert int(tiles.stop.max()) == n


def test_refusals() -> None:
    mask = create_block_mask(lambda b, h, q, k: k // 4 == h, None, 4, 4, 16, "cpu", 4)
    with pytest.raises(ArgumentError, match="at least one token and one head, got tile_q=0, group=1"):
        tile_runs(mask, 0)
    with pytest.raises(ArgumentError, match="got tile_kv=4, group=0"):
        key_tile_runs(mask, 4, 0)
    with pytest.raises(ArgumentError, match="group must divide the mask's heads, got group=3, heads=4"):
        tile_runs(mask, 4, 3)
    blocks = BlockMask.from_torch(mask.to_torch())
    assert tile_runs(blocks, 4).shape == (1, 4, 1)
    with pytest.raises(UnsupportedError, match="the 2 heads of a group were given different blocks"):
        tile_runs(blocks, 4, 2)
    same = BlockMask.from_torch(create_block_mask(masks.causal, None, 4, 8, 8, "cpu", 4).to_torch())
    assert torch.equal(same.to_bool(), same.to_bool()[:, :1].expand(1, 4, 8, 8))
    assert tile_runs(same, 4, 2).shape == (1, 2, 2)
