"""Orders of tokens on a canvas, and the masks that follow them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import visible_pairs
from saccade.block_mask import create_block_mask
from saccade.masks import natten, sliding_tile, token_order


def shown(mask, tokens):
    return visible_pairs(mask, 1, 1, tokens, tokens).numpy()[0, 0]


@st.composite
def tilings(draw):
    """A grid of tiles, and the tile, of 1 to 3 axes."""
    axes = draw(st.integers(1, 3))
    sides = st.integers(1, 4 if axes < 3 else 2)
    grid, tile = (draw(st.lists(sides, min_size=axes, max_size=axes)) for _ in range(2))
    return tuple(grid), tuple(tile)


def places_by_tile(grid, tile):
    """The canvas's places in tiled order, by loops."""
    for corner in itertools.product(*map(range, grid)):
        for inside in itertools.product(*map(range, tile)):
            yield tuple(c * side + i for c, side, i in zip(corner, tile, inside, strict=True))


def row_major(place, canvas):
    number = 0
    for coordinate, size in zip(place, canvas, strict=True):
        number = number * size + coordinate
    return number


@given(tilings())
def test_tiled_order_is_tile_after_tile(drawn):
    grid, tile = drawn
    canvas = tuple(tiles * side for tiles, side in zip(grid, tile, strict=True))
    expected = [row_major(place, canvas) for place in places_by_tile(grid, tile)]
    assert token_order(canvas, "tiled", tile).tolist() == expected


def interleaved(place, canvas):
    """The place's Morton code: a bit of each axis in turn, the last axis lowest."""
    code, taken = 0, 0
    for bit in range(8):
        for coordinate, size in zip(reversed(place), reversed(canvas), strict=True):
            if size >> bit > 1:
                code |= (coordinate >> bit & 1) << taken
                taken += 1
    return code


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_morton_order_is_the_order_of_interleaved_bits(powers):
    canvas = tuple(1 << power for power in powers)
    places = sorted(itertools.product(*map(range, canvas)), key=lambda place: interleaved(place, canvas))
    assert token_order(canvas, "morton").tolist() == [row_major(place, canvas) for place in places]


def test_row_order_changes_nothing():
    assert token_order((3, 5), "row").tolist() == list(range(15))
    assert token_order(4, "row", device="meta").is_meta


@given(st.data())
def test_natten_is_the_same_pairs_in_every_order(data):
    axes = data.draw(st.integers(1, 3))
    powers = st.integers(0, 3 if axes < 3 else 2)
    canvas = tuple(1 << power for power in data.draw(st.lists(powers, min_size=axes, max_size=axes)))
    kernel = tuple(data.draw(st.integers(1, size)) for size in canvas)
    tile = tuple(1 << data.draw(st.integers(0, size.bit_length() - 1)) for size in canvas)
    tokens = math.prod(canvas)
    rows = shown(natten(canvas, kernel), tokens)
    for order, sides in (("tiled", tile), ("morton", None)):
        moved = token_order(canvas, order, sides).numpy()
        mask = natten(canvas, kernel, order=order, tile=sides)
        assert np.array_equal(shown(mask, tokens), rows[moved][:, moved]), mask


@given(tilings(), st.data())
def test_sliding_tile_is_natten_between_tiles(drawn, data):
    grid, tile = drawn
    canvas = tuple(tiles * side for tiles, side in zip(grid, tile, strict=True))
    window = tuple(data.draw(st.integers(1, tiles)) for tiles in grid)
    kept = shown(sliding_tile(canvas, tile, window), math.prod(canvas))

    def is_seen(query, key):
        for q, k, side, width, tiles in zip(query, key, tile, window, grid, strict=True):
            first = min(max(q // side - width // 2, 0), tiles - width)
            if not first <= k // side < first + width:
                return False
        return True

    places = list(places_by_tile(grid, tile))
    assert np.array_equal(kept, np.array([[is_seen(q, k) for k in places] for q in places]))
    assert (kept.sum(axis=1) == math.prod(window) * math.prod(tile)).all()


def test_tiles_of_a_block_leave_no_block_partial():
    mask = sliding_tile((12, 48, 64), (2, 8, 8), 3)
    assert (mask.tile, mask.window) == ((2, 8, 8), (3, 3, 3))
    made = create_block_mask(mask, 1, 1, 12 * 48 * 64, 12 * 48 * 64)
    assert int(made.kv_num_blocks.sum()) == 0
    assert (made.full_kv_num_blocks == 27).all()


@pytest.mark.parametrize(("order", "tile"), [("tiled", (8, 16)), ("morton", None)], ids=["tiled", "morton"])
def test_an_order_of_neighbours_touches_fewer_blocks(order, tile):
    tall = (64, 1024)  # in rows, a block is 128 columns of one row, and 7 rows are seen
    touched = [
        create_block_mask(mask, 1, 1, 65536, 65536).sparsity()
        for mask in (natten(tall, (7, 7)), natten(tall, (7, 7), order=order, tile=tile))
    ]
    assert touched[1] > touched[0]


def test_orders_print_and_compare():
    mask = natten((8, 8), 3, order="tiled", tile=4)
    assert repr(mask) == ("natten(canvas=[8, 8], kernel=[3, 3], dilation=[1, 1], order='tiled', tile=[4, 4])")
    assert mask == natten((8, 8), (3, 3), order="tiled", tile=(4, 4))
    assert mask != natten((8, 8), 3, order="tiled", tile=2)
    assert natten((8, 8), 3, order="morton") != natten((8, 8), 3)
    assert torch.equal(token_order((8, 8), "tiled", 4), token_order([8, 8], "tiled", (4, 4)))
