"""Work lists: everything visible is visited, nothing is packed in vain, threads share alike."""

from __future__ import annotations

import ctypes
from array import array
from itertools import chain

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.work import (
    DecodeWork,
    Extent,
    ForwardWork,
    decode_work,
    forward_work,
    whole_decode,
)
from saccade.block_mask import BlockMask, create_block_mask
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.masks import causal, noop_mask, sliding_window

extents = st.builds(
    lambda batch, shared, kv_heads, group, q_len, kv_len: Extent(
        batch, 1 if shared else batch, kv_heads * group, kv_heads, q_len, kv_len
    ),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 90),
)


@st.composite
def masked(draw: st.DrawFn) -> tuple[Extent, BlockMask]:
    """Sizes, and a mask of random blocks for them, which may differ by batch and head."""
    extent = draw(extents)
    size = draw(st.integers(1, 20))
    batch, heads = draw(st.sampled_from([1, extent.batch])), draw(st.sampled_from([1, extent.q_heads]))
    shape = (batch, heads, -(-extent.q_len // size), -(-extent.kv_len // size))
    seed = draw(st.integers(0, 99))
    shown = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    table = shown.repeat_interleave(size, 2).repeat_interleave(size, 3)
    mod = lambda b, h, q, k: table[b if batch > 1 else 0, h if heads > 1 else 0, q, k]  # noqa: E731
    lengths = (extent.q_len, extent.kv_len)
    return extent, create_block_mask(mod, batch, heads, *lengths, device="cpu", BLOCK_SIZE=size)


def visited(runs, b: int, h: int, t: int) -> set[int]:
    stored_b, stored_h, _ = runs.shape
    ranges = runs.tile(b % stored_b, h % stored_h, t)
    return {key for start, stop, _ in ranges for key in range(start, stop)}


def items_of(work: DecodeWork) -> np.ndarray:
    """int64[n, 3]: kv head, first key, key after the last."""
    return np.asarray(work.items).reshape(-1, 3)


def slot(work: ForwardWork | DecodeWork, name: str) -> int:
    return dict(work.slots)[ArgumentLayout.slot(name)]


@given(masked(), st.integers(1, 16), st.integers(1, 16))
def test_forward_visits_each_tile_once_and_packs_what_is_visited(
    drawn: tuple[Extent, BlockMask], rows: int, panel_keys: int
) -> None:
    extent, mask = drawn
    work = forward_work(mask, extent, rows, panel_keys)
    tiles = work.runs.shape[2]
    assert sorted(work.items.tolist()) == list(range(extent.batch * extent.q_heads * tiles))
    assert work.cost.shape == work.items.shape
    assert (np.diff(work.cost, prepend=0.0) > 0).all()
    group = extent.q_heads // extent.kv_heads
    expected = set()
    for item in work.items.tolist():
        rest, t = divmod(item, tiles)
        b, h = divmod(rest, extent.q_heads)
        pair = b % extent.kv_batch * extent.kv_heads + h // group
        expected |= {pair * work.panels + key // panel_keys for key in visited(work.runs, b, h, t)}
    assert work.pack_items.tolist() == sorted(expected)
    assert slot(work, "packed_b") == (0 if extent.kv_batch == 1 else extent.kv_heads * work.panels)


@given(masked(), st.integers(1, 4))
def test_decode_visits_each_key_once(drawn: tuple[Extent, BlockMask], threads: int) -> None:
    extent, mask = drawn
    work = decode_work(mask, extent, threads)
    (runs,) = work.held
    items, heads = items_of(work), extent.batch * extent.kv_heads
    assert work.item_offsets.tolist() == np.searchsorted(items[:, 0], np.arange(heads + 1)).tolist()
    assert work.cost().tolist() == np.cumsum(items[:, 2] - items[:, 1]).tolist()
    visits = 0
    for pair in range(heads):
        b, head = divmod(pair, extent.kv_heads)
        seen = visited(runs, b, head, 0)
        visits += len(seen)
        parts = items[work.item_offsets[pair] : work.item_offsets[pair + 1], 1:].tolist()
        assert parts, "a kv head without keys still has a result"
        walked = [key for first, stop in parts for key in range(first, stop) if key in seen]
        assert sorted(walked) == sorted(seen)
    assert work.keys == visits


def test_largest_first_by_octaves() -> None:
    mask = create_block_mask(causal, None, None, 1024, 1024, device="cpu")
    work = forward_work(mask, Extent(1, 1, 2, 2, 1024, 1024), 128, 64)
    assert work.items.tolist() == [6, 7, 14, 15, 2, 3, 4, 5, 10, 11, 12, 13, 0, 1, 8, 9]


def test_a_window_packs_its_own_panels() -> None:
    mask = create_block_mask(sliding_window(64), None, None, 1, 4096, device="cpu")
    moved = create_block_mask(lambda b, h, q, k: k >= 4000, None, None, 1, 4096, device="cpu")
    extent = Extent(1, 1, 1, 1, 1, 4096)
    assert forward_work(mask, extent, 24, 128).pack_items.tolist() == [0]
    assert forward_work(moved, extent, 24, 128).pack_items.tolist() == [31]


class TestChunks:
    def test_they_are_of_equal_work(self) -> None:
        work = whole_decode(Extent(1, 1, 8, 2, 1, 10_000), 2, BlockKind.FULL)
        items = items_of(work)
        assert len(items) == 8
        assert set((items[:, 2] - items[:, 1]).tolist()) == {2500}

    def test_they_are_not_small(self) -> None:
        work = whole_decode(Extent(1, 1, 1, 1, 1, 1000), 64, BlockKind.FULL)
        assert items_of(work)[:, 1:].tolist() == [[0, 250], [250, 500], [500, 750], [750, 1000]]

    def test_they_count_visited_keys(self) -> None:
        ends = lambda b, h, q, k: (k < 1024) | (k >= 64_512)  # noqa: E731
        mask = create_block_mask(ends, None, None, 1, 65_536, device="cpu")
        work = decode_work(mask, Extent(1, 1, 1, 1, 1, 65_536), 1)
        assert items_of(work)[:, 1:].tolist() == [[0, 512], [512, 1024], [64_512, 65_024], [65_024, 65_536]]


def test_work_is_kept() -> None:
    mask = create_block_mask(causal, None, None, 256, 256, device="cpu")
    extent = Extent(1, 1, 2, 2, 256, 256)
    assert forward_work(mask, extent, 96, 128) is forward_work(mask, extent, 96, 128)
    assert forward_work(mask, extent, 96, 128) is not forward_work(mask, extent, 24, 128)
    assert decode_work(mask, extent, 2) is decode_work(mask, extent, 2)


def addresses_held(*holders: object) -> set[int]:
    """Where the arrays among some objects' attributes begin."""
    arrays = [
        np.asarray(each)
        for each in chain.from_iterable(vars(holder).values() for holder in holders)
        if isinstance(each, (np.ndarray, array))
    ]
    return {each.ctypes.data for each in arrays}


RUNS = ("run_offsets", "run_start", "run_stop", "run_kind")


def test_addresses_are_of_arrays_that_are_held() -> None:
    mask = create_block_mask(causal, None, None, 64, 64, device="cpu")
    extent = Extent(1, 1, 2, 2, 64, 64)
    forward, decode = forward_work(mask, extent, 24, 8), decode_work(mask, extent, 1)
    lists = {slot(forward, name) for name in (*RUNS, "tile_first", "tile_last", "items", "pack_items")}
    assert lists <= addresses_held(forward, forward.runs)
    lists = {slot(decode, name) for name in (*RUNS, "items", "item_offsets")}
    assert lists <= addresses_held(decode, *decode.held)


def test_the_ranges_of_a_tile_that_sees_all() -> None:
    for kind in (BlockKind.PARTIAL, BlockKind.FULL):
        work = whole_decode(Extent(2, 2, 4, 2, 3, 1000), 1, kind)
        types = {"run_offsets": ctypes.c_int64, "run_start": ctypes.c_int32, "run_stop": ctypes.c_int32}
        found = {name: type_.from_address(slot(work, name)).value for name, type_ in types.items()}
        assert found == {"run_offsets": 0, "run_start": 0, "run_stop": 1000}
        assert (ctypes.c_int64 * 2).from_address(slot(work, "run_offsets"))[1] == 1
        assert ctypes.c_uint8.from_address(slot(work, "run_kind")).value == kind
        masked = decode_work(
            create_block_mask(noop_mask, None, None, 3, 1000, device="cpu"), Extent(2, 2, 4, 2, 3, 1000), 1
        )
        assert (work.items, work.item_offsets, work.keys) == (masked.items, masked.item_offsets, masked.keys)
        assert work.cost().tolist() == masked.cost().tolist()
