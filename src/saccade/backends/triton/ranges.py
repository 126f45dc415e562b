"""What the programs of a kernel walk: ranges of keys (or queries) per tile, in the form that kernels read.

A kernel walks FULL ranges in whole steps, without asking and without a bound; what is left of them joins the
PARTIAL ranges, marked as whole. Where the keys of a tile are shared among splits, each has equally many
steps. Plain numpy, and no loop over tiles. Invariant: every pair of a tile and a token that a run holds is
in exactly one range of one split, and ranges ascend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.block_mask.tiles import TileRuns

__all__ = ["Ranges", "ranges_of"]

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

_WHOLE = 3  # what is left of a FULL range; `BlockKind` has the kinds before
_PARTIAL_COST = 1.5  # what a step of a PARTIAL range costs, in steps of a FULL one; only the order follows


@final
@dataclass(frozen=True, eq=False)
class Ranges:
    """The tables of one kernel, by the names that it gives them.

    Item ``((b * H + h) * tiles + tile) * splits + split`` has the FULL ranges ``full_offsets[item]`` to
    ``full_offsets[item + 1]``, and likewise its PARTIAL ones.

    Attributes:
        tiles: How many tiles a head has.
        runs_b: Tiles from one batch to the next; 0 where one serves all.
        runs_h: Tiles from one head (or head group) to the next, likewise.
        arrays: int32 arrays by name: `tile_first` and `tile_last` of each tile, `order` (tiles, longest
            first), `full_offsets`, `full_start`, `full_stop`, and `partial_offsets`, `partial_start`,
            `partial_stop`, `partial_whole` (1: every pair is visible).
    """

    tiles: int
    runs_b: int
    runs_h: int
    arrays: dict[str, Int32s]


class _Pieces(NamedTuple):
    """Ranges in the order of their items; parallel arrays."""

    item: Int64s
    start: Int64s
    stop: Int64s
    kind: npt.NDArray[np.uint8]


def ranges_of(runs: TileRuns, step: int, splits: int = 1) -> Ranges:
    """Return the tables of a kernel.

    Args:
        runs: What each tile visits.
        step: The tokens that a kernel walks at a time.
        splits: Among how many programs the walk of a tile is shared.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.block_mask.tiles import tile_runs
        >>> from saccade.masks import causal
        >>> mask = create_block_mask(causal, None, None, 8, 8, device="cpu", BLOCK_SIZE=2)
        >>> found = ranges_of(tile_runs(mask, 4), step=4)
        >>> found.arrays["full_start"].tolist(), found.arrays["full_stop"].tolist()
        ([0], [4])
        >>> found.arrays["partial_start"].tolist(), found.arrays["partial_stop"].tolist()
        ([0, 4], [4, 8])
        >>> found.arrays["order"].tolist()  # the second tile has more to do
        [1, 0]
    """
    batch, heads, tiles = runs.shape
    pieces = _stepwise(runs, step)
    order = _longest_first(pieces, step, tiles)
    if splits > 1:
        pieces = _shared(pieces, step, batch * heads * tiles, splits)
    items = batch * heads * tiles * splits
    full, partial = pieces.kind == BlockKind.FULL, pieces.kind != BlockKind.FULL
    arrays = {
        "tile_first": runs.first,
        "tile_last": runs.last,
        "order": order,
        "full_offsets": _offsets(pieces.item[full], items),
        "full_start": pieces.start[full],
        "full_stop": pieces.stop[full],
        "partial_offsets": _offsets(pieces.item[partial], items),
        "partial_start": pieces.start[partial],
        "partial_stop": pieces.stop[partial],
        "partial_whole": pieces.kind[partial] == _WHOLE,
    }
    return Ranges(
        tiles,
        heads * tiles if batch > 1 else 0,
        tiles if heads > 1 else 0,
        {name: array.astype(np.int32) for name, array in arrays.items()},
    )


def _stepwise(runs: TileRuns, step: int) -> _Pieces:
    """The ranges, FULL ones cut where their whole steps end."""
    item = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    start, stop = runs.start.astype(np.int64), runs.stop.astype(np.int64)
    cut = np.where(runs.kind == BlockKind.FULL, start + (stop - start) // step * step, stop)
    first, last = np.stack([start, cut], axis=1).ravel(), np.stack([cut, stop], axis=1).ravel()
    kind = np.stack([runs.kind, np.full_like(runs.kind, _WHOLE)], axis=1).ravel()
    held = first < last
    return _Pieces(np.repeat(item, 2)[held], first[held], last[held], kind[held])


def _longest_first(pieces: _Pieces, step: int, tiles: int) -> Int64s:
    """The tiles by what they cost over all batches and heads, the costliest first."""
    steps = -(-(pieces.stop - pieces.start) // step)
    cost = np.where(pieces.kind == BlockKind.PARTIAL, _PARTIAL_COST * steps, steps)
    total = np.bincount(pieces.item % max(tiles, 1), weights=cost, minlength=tiles)
    return np.argsort(-total, kind="stable")


def _shared(pieces: _Pieces, step: int, tiles: int, splits: int) -> _Pieces:
    """The ranges cut so that each split of a tile has equally many steps, one more or less.

    Steps are numbered through all tiles; a split is an interval of these numbers, and a range is cut where
    one ends.
    """
    steps = -(-(pieces.stop - pieces.start) // step)
    end = np.cumsum(steps)
    begin = end - steps
    before = np.concatenate([[0], end])[_offsets(pieces.item, tiles)]
    share = np.diff(before)[:, None] * np.arange(splits) // splits
    bounds = np.append((before[:-1, None] + share).ravel(), before[-1])
    # Of splits that begin at one number all but the last are empty.
    first = np.searchsorted(bounds, begin, side="right") - 1
    count = np.searchsorted(bounds, end, side="left") - first
    each = np.repeat(np.arange(len(begin)), count)
    item = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count) + first[each]
    left = np.maximum(begin[each], bounds[item]) - begin[each]
    right = np.minimum(end[each], bounds[item + 1]) - begin[each]
    start, stop = pieces.start[each], pieces.stop[each]
    # A range can span a split that is empty.
    held = left < right
    cut = (item, start + left * step, np.minimum(start + right * step, stop), pieces.kind[each])
    return _Pieces(*(array[held] for array in cut))


def _offsets(item: Int64s, items: int) -> Int64s:
    """Where the entries of each item begin, and after the last where they end."""
    return np.concatenate([[0], np.cumsum(np.bincount(item, minlength=items))])
