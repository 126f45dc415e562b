"""The ranges that kernels walk, against a walk over every tile in plain Python."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from saccade import create_block_mask
from saccade.analysis.runs import BlockKind
from saccade.backends.triton.ranges import Ranges, ranges_of
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import TileRuns, key_tile_runs, tile_runs
from saccade.masks import causal, document, sliding_window
from saccade.signatures import MaskMod

PIECE = tuple[int, int, int]  # first, after the last, and 0 for FULL, 1 for PARTIAL, 2 for whole

_DOCUMENTS = torch.tensor([0] * 13 + [1] * 30 + [2] * 7 + [3] * 20)


def per_head(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
    return (kv_idx <= q_idx) & (kv_idx + 9 * h + 5 * b > q_idx)


def nothing(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
    return kv_idx > 1000 + 0 * q_idx


MASKS: dict[str, tuple[MaskMod, int | None, int | None]] = {
    "causal": (causal, None, None),
    "window": (sliding_window(17), None, None),
    "documents": (document(_DOCUMENTS), None, None),
    "per_head": (per_head, 2, 4),
    "nothing": (nothing, None, None),
}


def masked(name: str, block: int = 8) -> BlockMask:
    mod, batch, heads = MASKS[name]
    return create_block_mask(mod, batch, heads, 53, 70, device="cpu", BLOCK_SIZE=block)


def pieces_of(runs: TileRuns, b: int, h: int, tile: int, step: int) -> list[PIECE]:
    """The ranges of a tile, FULL ones cut after their whole steps."""
    pieces = []
    for start, stop, kind in runs.tile(b, h, tile):
        if kind is BlockKind.PARTIAL:
            pieces.append((start, stop, 1))
            continue
        cut = start + (stop - start) // step * step
        pieces += [(start, cut, 0)] if start < cut else []
        pieces += [(cut, stop, 2)] if cut < stop else []
    return pieces


def share_of(pieces: list[PIECE], step: int, split: int, splits: int) -> list[PIECE]:
    """The steps of a split, touching ones of a kind and a range joined."""
    steps = [
        (number, at, min(at + step, stop), kind)
        for number, (start, stop, kind) in enumerate(pieces)
        for at in range(start, stop, step)
    ]
    mine = steps[len(steps) * split // splits : len(steps) * (split + 1) // splits]
    joined: list[list[int]] = []
    for number, start, stop, kind in mine:
        if joined and joined[-1][0] == number:
            joined[-1][2] = stop
        else:
            joined.append([number, start, stop, kind])
    return [(start, stop, kind) for _, start, stop, kind in joined]


def item_of(found: Ranges, item: int) -> list[PIECE]:
    """What the tables say of one item, ascending."""
    held = found.arrays
    full = slice(*held["full_offsets"][item : item + 2].tolist())
    partial = slice(*held["partial_offsets"][item : item + 2].tolist())
    pieces = [
        *zip(held["full_start"][full], held["full_stop"][full], np.zeros(999, int), strict=False),
        *zip(
            held["partial_start"][partial],
            held["partial_stop"][partial],
            held["partial_whole"][partial] + 1,
            strict=True,
        ),
    ]
    return sorted((int(start), int(stop), int(kind)) for start, stop, kind in pieces)


@pytest.mark.parametrize("splits", [1, 2, 3, 7])
@pytest.mark.parametrize("step", [4, 16, 64])
@pytest.mark.parametrize("name", MASKS)
def test_they_are_those_of_every_tile(name: str, step: int, splits: int) -> None:
    mask = masked(name)
    for runs in (tile_runs(mask, 16), tile_runs(mask, 16, 2), key_tile_runs(mask, 16)):
        found = ranges_of(runs, step, splits)
        batch, heads, tiles = runs.shape
        assert found.tiles == tiles
        assert (found.runs_b, found.runs_h) == (
            heads * tiles if batch > 1 else 0,
            tiles if heads > 1 else 0,
        )
        for b, h, tile in product(range(batch), range(heads), range(tiles)):
            pieces = pieces_of(runs, b, h, tile, step)
            for split in range(splits):
                item = (b * found.runs_b + h * found.runs_h + tile) * splits + split
                assert item_of(found, item) == share_of(pieces, step, split, splits)


@pytest.mark.parametrize("name", MASKS)
def test_full_ranges_are_whole_steps(name: str) -> None:
    for splits in (1, 5):
        held = ranges_of(tile_runs(masked(name, 24), 16), 16, splits).arrays
        assert not ((held["full_stop"] - held["full_start"]) % 16).any()
        assert all(array.dtype == np.int32 for array in held.values())


def test_the_longest_tiles_come_first() -> None:
    held = ranges_of(tile_runs(masked("causal"), 16), 8).arrays
    assert held["order"].tolist() == [3, 2, 1, 0]
    assert held["tile_first"].tolist() == [0, 16, 32, 48]
    assert held["tile_last"].tolist() == [16, 32, 48, 53]


def test_tiles_of_no_query() -> None:
    mask = create_block_mask(causal, None, None, 0, 70, device="cpu")
    found = ranges_of(tile_runs(mask, 16), 8, 3)
    assert found.tiles == 0
    assert {name: len(array) for name, array in found.arrays.items()} == {
        **dict.fromkeys(found.arrays, 0),
        "full_offsets": 1,
        "partial_offsets": 1,
    }
