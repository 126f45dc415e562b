"""The work of a backward pass: chunks of keys, what sees them, and where their partial results stand.

Chunks follow from the problem and its mask alone: not from the number of threads, nor from who is first. So
sums over them, in their order, are the same to the bit from run to run.
Where captured tensors want gradients and share one memory for all, chunks that may touch the same element are
one item, in their order.
Invariant: every key is in one chunk, and every query that sees a key of a chunk is among the chunk's rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.work import Extent, Slots, numbered, run_slots, table_address, whole_runs
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import TileRuns, key_tile_runs

__all__ = ["CHUNK_AXES", "BackwardWork", "backward_work", "most_chunks", "whole_backward"]

CHUNK_AXES = frozenset({"b", "h", "kv_idx"})
"""The variables whose values chunks divide among them: kv batches, the heads of kv heads, ranges of keys."""

Int64s = npt.NDArray[np.int64]

_MOST_RANGES = 8  # of a kv head's keys; each has a partial result
_WANTED_CHUNKS = 32  # enough to keep many cores busy
_TILE_COST = 16  # what a tile of keys costs beside the queries that see it, in queries


@final
@dataclass(frozen=True, eq=False)
class BackwardWork:
    """What the backward kernel walks.

    Attributes:
        runs: The ranges of queries of each tile of keys.
        items: int64[chunks, 6], see `codegen.cpu.backward_chunk.Chunk`.
        item_offsets: int64[kv batches * Hkv + 1], first chunk of each kv head.
        group_offsets: int64[n + 1], where in `group_chunks` each item of work begins.
        group_chunks: int64[chunks], the chunks of each, in order.
        cost: float64[n], what the items of work up to each cost together, in queries that see a tile.
        partial_rows: Rows of all partial results.
        slots: The arguments it decides: slot and value.
    """

    runs: TileRuns
    items: Int64s
    item_offsets: Int64s
    group_offsets: Int64s
    group_chunks: Int64s
    cost: npt.NDArray[np.float64]
    partial_rows: int
    slots: Slots


def most_chunks(extent: Extent) -> int:
    """Return how many chunks there are at most, where none are joined."""
    return extent.kv_batch * extent.kv_heads * _ranges(extent.kv_batch * extent.kv_heads)


def backward_work(
    mask: BlockMask, extent: Extent, keys: int, padding: int, apart: frozenset[str] = CHUNK_AXES
) -> BackwardWork:
    """Return the backward kernel's work under a mask; memoised on the mask.

    Args:
        mask: The mask; its lengths are those of `extent`.
        extent: The sizes of the call.
        keys: Keys of a tile.
        padding: Rows of a head in a partial result beside its queries.
        apart: The axes along which chunks may be walked at the same time, of `CHUNK_AXES`.
    """
    return mask.once(
        ("backward_work", extent, keys, padding, apart),
        lambda: _backward_work(key_tile_runs(mask, keys), extent, padding, apart),
    )


def whole_backward(
    extent: Extent, keys: int, padding: int, kind: BlockKind, apart: frozenset[str] = CHUNK_AXES
) -> BackwardWork:
    """Return the backward kernel's work where every pair is visited, in one range of a kind.

    Example:
        >>> work = whole_backward(Extent(1, 1, 2, 1, q_len=9, kv_len=70), 64, 16, BlockKind.FULL)
        >>> work.items.tolist(), work.partial_rows
        ([[0, 0, 1, 0, 9, 0], [0, 1, 2, 0, 9, 50]], 100)
    """
    return _backward_work(whole_runs(extent.kv_len, extent.q_len, keys, kind), extent, padding, apart)


def _backward_work(runs: TileRuns, extent: Extent, padding: int, apart: frozenset[str]) -> BackwardWork:
    tiles, kv_heads = runs.shape[2], extent.kv_batch * extent.kv_heads
    seen = _by_kv_head(runs.lengths(), extent).sum(axis=1)
    lowest = _by_kv_head(_firsts(runs, extent.q_len), extent).min(axis=1)
    highest = _by_kv_head(_lasts(runs), extent).max(axis=1)
    cost = seen + _TILE_COST
    borders = [_borders(of_head, min(_ranges(kv_heads), tiles)) for of_head in cost]
    if apart != CHUNK_AXES:
        # Ranges of one number are the same keys in every head, and worth it where they may go side by side.
        lone = (extent.kv_batch if "b" in apart else 1) * (extent.kv_heads if "h" in apart else 1)
        count = min(_ranges(lone), tiles) if "kv_idx" in apart else 1
        borders = [_borders(cost.sum(axis=0), count)] * kv_heads
    heads_of_chunk = extent.batch * extent.q_heads // kv_heads
    items: list[tuple[int, ...]] = []
    offsets, rows, costs = [0], 0, []
    groups: dict[tuple[int, ...], list[int]] = {}
    for head in range(kv_heads):
        for number, (first, stop) in enumerate(pairwise(borders[head])):
            place = {"b": head // extent.kv_heads, "h": head % extent.kv_heads, "kv_idx": number}
            group = tuple([place[axis] for axis in sorted(apart)])
            groups.setdefault(group, []).append(len(items))
            low = int(lowest[head, first:stop].min()) // 2 * 2
            high = max(int(highest[head, first:stop].max()), low)
            if not seen[head, first:stop].any():
                low = high = 0
            items.append((head, first, stop, low, high, rows))
            rows += heads_of_chunk * (high - low + padding)
            costs.append(float(cost[head, first:stop].sum()))
        offsets.append(len(items))
    table, item_offsets = np.array(items, np.int64).reshape(-1, 6), np.array(offsets, np.int64)
    group_offsets = np.cumsum([0, *map(len, groups.values())], dtype=np.int64)
    group_chunks = np.array([chunk for group in groups.values() for chunk in group], np.int64)
    group_costs = np.cumsum([sum(costs[chunk] for chunk in group) for group in groups.values()])
    named = {
        "tiles": tiles,
        "tile_first": table_address(runs.first),
        "tile_last": table_address(runs.last),
        "items": table_address(table),
        "item_offsets": table_address(item_offsets),
        "group_offsets": table_address(group_offsets),
        "group_chunks": table_address(group_chunks),
        "copies": len(groups),
        "kv_share": extent.batch // extent.kv_batch,
    }
    return BackwardWork(
        runs,
        table,
        item_offsets,
        group_offsets,
        group_chunks,
        group_costs,
        rows,
        run_slots(runs) + numbered(named),
    )


def _ranges(heads: int) -> int:
    """Into how many ranges at most the keys of each of so many heads are cut."""
    return min(_MOST_RANGES, max(1, _WANTED_CHUNKS // heads))


def _by_kv_head(values: Int64s, extent: Extent) -> Int64s:
    """Numbers of stored batches, heads and tiles, as [kv heads of batches, what reads one, tiles]."""
    tiles = values.shape[2]
    every = np.broadcast_to(values, (extent.batch, extent.q_heads, tiles))
    share, group = extent.batch // extent.kv_batch, extent.q_heads // extent.kv_heads
    split = every.reshape(extent.kv_batch, share, extent.kv_heads, group, tiles)
    by_head: Int64s = split.transpose(0, 2, 1, 3, 4).reshape(-1, share * group, tiles)
    return by_head


def _firsts(runs: TileRuns, q_len: int) -> Int64s:
    """The first query that each tile is seen by; q_len where there is none."""
    padded = np.append(runs.start, 0).astype(np.int64)
    begin, stop = runs.offsets[:-1], runs.offsets[1:]
    return np.where(begin < stop, padded[begin], q_len).reshape(runs.shape)


def _lasts(runs: TileRuns) -> Int64s:
    """The query after the last that each tile is seen by; 0 where there is none."""
    padded = np.append(runs.stop, 0).astype(np.int64)
    begin, stop = runs.offsets[:-1], runs.offsets[1:]
    return np.where(begin < stop, padded[stop - 1], 0).reshape(runs.shape)


def _borders(cost: Int64s, count: int) -> list[int]:
    """Where to cut tiles into at most so many ranges of about equal cost."""
    total = np.concatenate([[0], np.cumsum(cost)])
    wanted = total[-1] * np.arange(1, count) / count
    inner = np.searchsorted(total, wanted, side="left").tolist()
    return sorted({0, *inner, len(cost)})
