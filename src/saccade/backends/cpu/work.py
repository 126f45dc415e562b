"""The work of a call: which tiles are visited, in what order, and how it is cut for threads.

Tables of integers that kernels walk, worked out from what is visible. They hold no tensor of the call, so
they are kept on the BlockMask that they follow from.
Invariant: every query is in one item of `ForwardWork` and every visited key in one of `DecodeWork`, and a key
that a run visits is in a packed panel.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import TileRuns, tile_runs
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.problem import AttentionProblem

__all__ = [
    "DecodeWork",
    "Extent",
    "ForwardWork",
    "Slots",
    "decode_work",
    "forward_work",
    "numbered",
    "run_slots",
    "table_address",
    "whole_decode",
    "whole_forward",
    "whole_runs",
]

Int64s = npt.NDArray[np.int64]

_ITEM_COST = 64  # what an item costs beside its keys, in keys
_PARTIAL_COST = 1.5  # what a key of a PARTIAL range costs, in keys of a FULL one
_LEAST_CHUNK = 256  # keys of a decode item; fewer, and its partial result costs as much as they do
_CHUNKS_A_THREAD = 4

_LISTS = ("run_offsets", "run_start", "run_stop", "run_kind")
_RUNS = tuple(map(ArgumentLayout.slot, (*_LISTS, "runs_b", "runs_h")))
_DECODE_LISTS = tuple(map(ArgumentLayout.slot, (*_LISTS, "items", "item_offsets")))
_ITEMS, _ITEM_OFFSETS = _DECODE_LISTS[-2:]

# The ranges of one tile that sees all keys, but for the last key.
_ONE_RANGE, _FIRST_KEY = array("q", (0, 1)), array("i", (0,))
_KINDS = {kind: array("B", (kind,)) for kind in (BlockKind.PARTIAL, BlockKind.FULL)}

Slots: TypeAlias = tuple[tuple[int, int], ...]
"""Arguments that work decides: slot and value."""

_Ranges: TypeAlias = list[tuple[int, int]]  # of keys: first, and after the last


class Extent(NamedTuple):
    """The sizes that work is cut from.

    Attributes:
        batch: B.
        kv_batch: The batches of key and value, B or 1.
        q_heads: Hq.
        kv_heads: Hkv.
        q_len: Q.
        kv_len: K.
    """

    batch: int
    kv_batch: int
    q_heads: int
    kv_heads: int
    q_len: int
    kv_len: int

    @classmethod
    def of(cls, problem: AttentionProblem) -> Extent:
        """Return a problem's."""
        return cls(
            problem.batch, problem.kv_batch, problem.q_heads, problem.kv_heads, problem.q_len, problem.kv_len
        )


@final
@dataclass(frozen=True, eq=False)
class ForwardWork:
    """What the forward kernel walks.

    Attributes:
        runs: The ranges of keys of each tile.
        items: int64[n], ``(b * Hq + h) * tiles + t``, roughly largest first.
        cost: float64[n], what the items up to each cost together, in keys of a tile.
        pack_items: int64[n], ``(b * Hkv + kv head) * panels + panel`` of every panel that is visited.
        panels: Panels of a kv head.
        slots: The arguments it decides: slot and value.
    """

    runs: TileRuns
    items: Int64s
    cost: npt.NDArray[np.float64]
    pack_items: Int64s
    panels: int
    slots: Slots


@final
@dataclass(frozen=True, eq=False)
class DecodeWork:
    """What the decode kernel walks.

    Attributes:
        items: int64[n, 3], flat: ``b * Hkv + kv head``, first key, key after the last; in that order.
        item_offsets: int64[B * Hkv + 1], first item of each kv head.
        keys: How many keys are visited, over all kv heads.
        slots: The arguments it decides: slot and value.
        held: What else they point to.
    """

    items: array[int]
    item_offsets: array[int]
    keys: int
    slots: Slots
    held: tuple[object, ...]

    def cost(self) -> npt.NDArray[np.float64]:
        """Return float64[n], the keys that the items up to each span."""
        items = np.asarray(self.items).reshape(-1, 3)
        return np.cumsum(items[:, 2] - items[:, 1], dtype=np.float64)


def forward_work(mask: BlockMask, extent: Extent, rows: int, panel_keys: int) -> ForwardWork:
    """Return the forward kernel's work under a mask; memoised on the mask.

    Args:
        mask: The mask; its lengths are those of `extent`.
        extent: The sizes of the call.
        rows: Queries of a tile.
        panel_keys: Keys of a packed panel.
    """
    return mask.once(
        ("forward_work", extent, rows, panel_keys),
        lambda: _forward_work(tile_runs(mask, rows), extent, panel_keys),
    )


def whole_forward(extent: Extent, rows: int, panel_keys: int, kind: BlockKind) -> ForwardWork:
    """Return the forward kernel's work where every pair is visited, in one range of a kind.

    Example:
        >>> work = whole_forward(Extent(1, 1, 2, 1, q_len=100, kv_len=40), 64, 32, BlockKind.FULL)
        >>> work.items.tolist(), work.pack_items.tolist()
        ([0, 2, 1, 3], [0, 1])
    """
    return _forward_work(whole_runs(extent.q_len, extent.kv_len, rows, kind), extent, panel_keys)


def decode_work(mask: BlockMask, extent: Extent, threads: int) -> DecodeWork:
    """Return the decode kernel's work under a mask of one tile of queries; memoised on the mask.

    Args:
        mask: The mask; its lengths are those of `extent`. Given blocks do not differ among the heads of a
            group, nor among the queries.
        extent: The sizes of the call.
        threads: How many threads share the work.
    """
    group = extent.q_heads // extent.kv_heads
    return mask.once(
        ("decode_work", extent, threads),
        lambda: _decode_work(tile_runs(mask, extent.q_len, group), extent, threads),
    )


def whole_decode(extent: Extent, threads: int, kind: BlockKind) -> DecodeWork:
    """Return the decode kernel's work where every pair is visited, in one range of a kind.

    Example:
        >>> work = whole_decode(Extent(1, 1, 8, 2, q_len=1, kv_len=600), 1, BlockKind.FULL)
        >>> work.items.tolist()
        [0, 0, 300, 0, 300, 600, 1, 0, 300, 1, 300, 600]
    """
    # Without numpy, for a growing cache asks anew at every step.
    keys, pairs = extent.kv_len, extent.batch * extent.kv_heads
    chunks = _chunks([(0, keys)], keys, _chunk_count(keys, keys * pairs, threads))
    items = array("q", [number for pair in range(pairs) for ends in chunks for number in (pair, *ends)])
    item_offsets = array("q", range(0, (pairs + 1) * len(chunks), len(chunks)))
    stop, kinds = array("i", (keys,)), _KINDS[kind]
    lists = (_ONE_RANGE, _FIRST_KEY, stop, kinds, items, item_offsets)
    addresses = [each.buffer_info()[0] for each in lists]
    slots = tuple(zip(_DECODE_LISTS, addresses, strict=True))
    return DecodeWork(items, item_offsets, keys * pairs, slots, (stop,))


def whole_runs(q_len: int, kv_len: int, rows: int, kind: BlockKind) -> TileRuns:
    """Return the runs of tiles of queries where every pair is visited."""
    first = np.arange(0, q_len, rows, dtype=np.int32)
    tiles = len(first)
    return TileRuns(
        shape=(1, 1, tiles),
        first=first,
        last=np.minimum(first + rows, q_len).astype(np.int32),
        offsets=np.arange(tiles + 1, dtype=np.int64),
        start=np.zeros(tiles, np.int32),
        stop=np.full(tiles, kv_len, np.int32),
        kind=np.full(tiles, kind, np.uint8),
    )


def _forward_work(runs: TileRuns, extent: Extent, panel_keys: int) -> ForwardWork:
    heads, tiles = extent.q_heads, runs.shape[2]
    height = (runs.last - runs.first) / max(int((runs.last - runs.first).max(initial=1)), 1)
    keys = runs.lengths() + (_PARTIAL_COST - 1) * runs.lengths(BlockKind.PARTIAL)
    cost = np.broadcast_to((keys + _ITEM_COST) * height, (extent.batch, heads, tiles)).ravel()
    # Largest first, so that threads end together; but only by octaves, so that the tiles of a head, which
    # read the same keys, stay together in time.
    items = np.argsort(-np.frexp(cost)[1], kind="stable")
    panels = -(-extent.kv_len // panel_keys)
    pack_items = _visited_panels(runs, extent, panels, panel_keys)
    cost = np.cumsum(cost[items])
    named = {
        "tiles": tiles,
        "tile_first": table_address(runs.first),
        "tile_last": table_address(runs.last),
        "items": table_address(items),
        "pack_items": table_address(pack_items),
        "panels": panels,
        "packed_b": 0 if extent.kv_batch == 1 else extent.kv_heads * panels,
    }
    return ForwardWork(runs, items, cost, pack_items, panels, run_slots(runs) + numbered(named))


def _visited_panels(runs: TileRuns, extent: Extent, panels: int, panel_keys: int) -> Int64s:
    """The panels that some tile of a kv head's batches and query heads visits, ascending."""
    batch, heads, tiles = runs.shape
    stored = np.repeat(np.arange(batch * heads * tiles) // max(tiles, 1), np.diff(runs.offsets))
    # +1 where a range enters a panel, -1 after the last one it touches: visited where the sum is positive.
    size = batch * heads * (panels + 1)
    enters = np.bincount(stored * (panels + 1) + runs.start // panel_keys, minlength=size)
    leaves = np.bincount(stored * (panels + 1) - (-runs.stop.astype(np.int64) // panel_keys), minlength=size)
    tiles_in = np.cumsum((enters - leaves).reshape(batch, heads, panels + 1), axis=2)[:, :, :panels]
    visits = np.broadcast_to(tiles_in, (extent.batch, extent.q_heads, panels))
    visits = visits.reshape(extent.batch, extent.kv_heads, -1, panels).sum(axis=2)
    if extent.kv_batch == 1:
        visits = visits.sum(axis=0)
    return np.flatnonzero(visits).astype(np.int64)


def _decode_work(runs: TileRuns, extent: Extent, threads: int) -> DecodeWork:
    stored_b, stored_h, tiles = runs.shape
    assert tiles == 1, "a decode kernel takes all queries as one tile"
    bounds = list(zip(runs.start.tolist(), runs.stop.tolist(), strict=True))
    rows = [bounds[first:last] for first, last in pairwise(runs.offsets.tolist())]
    visited = [sum(stop - start for start, stop in row) for row in rows]
    row_of = [
        (b if stored_b > 1 else 0) * stored_h + (head if stored_h > 1 else 0)
        for b in range(extent.batch)
        for head in range(extent.kv_heads)
    ]
    total = sum(visited[row] for row in row_of)
    chunks = [
        _chunks(row, keys, _chunk_count(keys, total, threads))
        for row, keys in zip(rows, visited, strict=True)
    ]
    items = array("q")
    for pair, row in enumerate(row_of):
        for ends in chunks[row]:
            items.extend((pair, *ends))
    item_offsets = array("q", [0, *accumulate(len(chunks[row]) for row in row_of)])
    lists = (_ITEMS, items.buffer_info()[0]), (_ITEM_OFFSETS, item_offsets.buffer_info()[0])
    return DecodeWork(items, item_offsets, total, run_slots(runs) + lists, (runs,))


def _chunk_count(keys: int, total: int, threads: int) -> int:
    """Into how many chunks a kv head's keys are cut, of `total` over all heads."""
    return -(-keys // max(total // (threads * _CHUNKS_A_THREAD), _LEAST_CHUNK))


def _chunks(ranges: _Ranges, length: int, count: int) -> _Ranges:
    """Keys from and to which each of `count` chunks reaches, of equally many of the `length` visited keys."""
    if count == 0:
        return [(0, 0)]  # a row that visits nothing still has a result
    chunks, walk, place = [], iter(ranges), 0  # place: visited keys before the present range
    start, stop = next(walk)
    for number in range(count):
        begin, end = length * number // count, length * (number + 1) // count
        while place + stop - start <= begin:
            place += stop - start
            start, stop = next(walk)
        first = start + begin - place
        while place + stop - start < end:
            place += stop - start
            start, stop = next(walk)
        chunks.append((first, start + end - place))
    return chunks


def run_slots(runs: TileRuns) -> Slots:
    """Return the arguments that say where runs stand."""
    batch, heads, tiles = runs.shape
    addresses = [table_address(each) for each in (runs.offsets, runs.start, runs.stop, runs.kind)]
    steps = 0 if batch == 1 else heads * tiles, 0 if heads == 1 else tiles
    return tuple(zip(_RUNS, (*addresses, *steps), strict=True))


def numbered(named: dict[str, int]) -> Slots:
    """Return arguments by slot."""
    return tuple([(ArgumentLayout.slot(name), value) for name, value in named.items()])


def table_address(held: npt.NDArray[Any]) -> int:
    """Return where an array that the work holds begins."""
    assert held.flags.c_contiguous, "kernels read arrays without strides"
    return held.ctypes.data
