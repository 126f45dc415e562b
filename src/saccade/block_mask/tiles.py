"""Tile runs: what a kernel walks, as token ranges per tile of queries, or of keys for a backward pass.

Engines never read blocks. They ask for runs per tile of the size they like, and get ranges of tokens with a
kind each. A tile that covers several block rows (or the heads of a packed group) walks the union of their
runs, PARTIAL wherever they are not all FULL; that is right because a PARTIAL range asks the mod about every
pair. Where blocks were given rather than analysed the mod alone does not decide, so there no tile crosses the
border of a block row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind, Runs
from saccade.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@final
@dataclass(frozen=True, eq=False, repr=False)
class TileRuns:
    """Token ranges per tile, in CSR form.

    Tile ``(b, h, t)`` has the number ``r = (b * H + h) * tiles + t``; its ranges are entries ``offsets[r]``
    to ``offsets[r + 1]``. In a tile ranges ascend and are disjoint, and neighbours that touch differ in kind.

    Attributes:
        shape: ``(B, H, tiles)``: batches and heads (or head groups) as stored, 1 where the mask does not
            differ along them.
        first: int32[tiles], first token of the tile on its own axis.
        last: int32[tiles], token after its last.
        offsets: int64[B * H * tiles + 1], first entry of each tile; ends with n.
        start: int32[n], first token of the range on the other axis.
        stop: int32[n], token after its last; never beyond the true length.
        kind: uint8[n], `BlockKind.PARTIAL` (ask the mod about every pair) or `BlockKind.FULL` (no need to).
    """

    shape: tuple[int, int, int]
    first: Int32s
    last: Int32s
    offsets: Int64s
    start: Int32s
    stop: Int32s
    kind: npt.NDArray[np.uint8]

    def tile(self, b: int, h: int, t: int) -> list[tuple[int, int, BlockKind]]:
        """Return the ranges of one tile as ``(start, stop, kind)``, in order."""
        number = (b * self.shape[1] + h) * self.shape[2] + t
        span = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        ranges = zip(
            self.start[span].tolist(), self.stop[span].tolist(), self.kind[span].tolist(), strict=True
        )
        return [(start, stop, BlockKind(kind)) for start, stop, kind in ranges]

    def lengths(self, *kinds: BlockKind) -> Int64s:
        """Count the tokens that each tile walks, int64[B, H, tiles]; only in ranges of `kinds`, if given."""
        length = self.stop.astype(np.int64) - self.start
        if kinds:
            length *= np.isin(self.kind, kinds)
        total = np.concatenate([[0], np.cumsum(length)])[self.offsets]
        return np.diff(total).reshape(self.shape)

    def __repr__(self) -> str:
        b, h, tiles = self.shape
        return f"TileRuns({b}×{h}×{tiles} tiles, {len(self.start):,} ranges)"


def tile_runs(mask: BlockMask, tile_q: int, group: int = 1) -> TileRuns:
    """Return the ranges of keys that each tile of queries walks; memoised on the mask.

    Args:
        mask: The mask.
        tile_q: Queries a tile; the last one may be shorter. Where the mask's blocks were given, so may the
            last one of every block row, for no tile crosses its border.
        group: Consecutive query heads that are packed into one tile.

    Returns:
        The ranges. Its H counts groups; it is 1 where all heads are alike.

    Raises:
        ArgumentError: `tile_q` or `group` is not positive, or `group` does not divide the heads.
        UnsupportedError: The mask's blocks were given, and differ among the heads of a group.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> mask = create_block_mask(causal, None, None, 8, 8, device="cpu", BLOCK_SIZE=2)
        >>> tile_runs(mask, tile_q=4).tile(0, 0, 1)
        [(0, 4, <BlockKind.FULL: 2>), (4, 8, <BlockKind.PARTIAL: 1>)]
    """
    return mask.once(("tile_runs", tile_q, group), lambda: _tile_runs(mask, tile_q, group, by_key=False))


def key_tile_runs(mask: BlockMask, tile_kv: int, group: int = 1) -> TileRuns:
    """Return the ranges of queries that each tile of keys walks, for a backward pass; memoised on the mask.

    As `tile_runs`, with queries and keys exchanged.

    Args:
        mask: The mask.
        tile_kv: Keys a tile.
        group: Consecutive query heads that share the walk.

    Returns:
        The ranges; `first` and `last` are keys, `start` and `stop` queries.

    Raises:
        ArgumentError: `tile_kv` or `group` is not positive, or `group` does not divide the heads.
        UnsupportedError: The mask's blocks were given, and differ among the heads of a group.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> mask = create_block_mask(causal, None, None, 8, 8, device="cpu", BLOCK_SIZE=2)
        >>> key_tile_runs(mask, tile_kv=4).tile(0, 0, 0)
        [(0, 4, <BlockKind.PARTIAL: 1>), (4, 8, <BlockKind.FULL: 2>)]
    """
    return mask.once(("key_tile_runs", tile_kv, group), lambda: _tile_runs(mask, tile_kv, group, by_key=True))


def _tile_runs(mask: BlockMask, tile: int, group: int, *, by_key: bool) -> TileRuns:
    name = "tile_kv" if by_key else "tile_q"
    if tile < 1 or group < 1:
        raise ArgumentError(f"a tile needs at least one token and one head, got {name}={tile}, group={group}")
    runs = mask.transposed_runs if by_key else mask.runs
    length, block = (mask.kv_len, mask.kv_block) if by_key else (mask.q_len, mask.q_block)
    other_len, other_block = (mask.q_len, mask.q_block) if by_key else (mask.kv_len, mask.kv_block)
    if runs.shape[1] == 1:
        group = 1
    elif runs.shape[1] % group:
        raise ArgumentError(f"group must divide the mask's heads, got group={group}, heads={runs.shape[1]}")
    first, last = _partition(length, tile, None if mask.analysed else block)
    union = _united(runs, first // block, -(-last // block), group, must_agree=not mask.analysed)
    batch, heads, tiles, _ = union.shape
    stop = np.minimum(union.stop.astype(np.int64) * other_block, other_len)
    start = union.start.astype(np.int64) * other_block
    return TileRuns(
        (batch, heads, tiles),
        first.astype(np.int32),
        last.astype(np.int32),
        union.offsets,
        start.astype(np.int32),
        stop.astype(np.int32),
        union.kind,
    )


def _partition(length: int, tile: int, border: int | None) -> tuple[Int64s, Int64s]:
    """First and last token of every tile; no tile crosses a multiple of `border`."""
    span = length if border is None else min(border, length)
    within = np.arange(0, span, tile)
    spans = np.arange(0, length, span) if span else np.zeros(0, dtype=np.int64)
    first = (spans[:, None] + within).ravel()
    last = (spans[:, None] + np.minimum(within + tile, span)).ravel()
    held = first < length
    return first[held], np.minimum(last[held], length)


def _united(runs: Runs, top: Int64s, bottom: Int64s, group: int, *, must_agree: bool) -> Runs:
    """Runs per tile: the union over its block rows and the heads of a group, FULL where all are."""
    batch, heads, rows, cols = runs.shape
    groups, tiles = heads // group, len(top)
    height = bottom - top
    # One source row for each (batch, group, tile), head of the group and block row of the tile.
    tile = np.repeat(np.arange(tiles), height)
    row = np.arange(len(tile)) - np.repeat(np.cumsum(height) - height, height) + np.repeat(top, height)
    head = np.arange(batch * heads)[:, None]
    target = (head // group * tiles + tile).ravel()
    source = (head * rows + row).ravel()
    count = np.diff(runs.offsets)[source]
    entry = np.arange(count.sum()) + np.repeat(runs.offsets[source] - (np.cumsum(count) - count), count)
    target = np.repeat(target, count)
    place = np.concatenate([target * (cols + 1) + runs.start[entry], target * (cols + 1) + runs.stop[entry]])
    full = (runs.kind[entry] == BlockKind.FULL).astype(np.int64)
    order = np.argsort(place)
    place = place[order]
    held = np.cumsum(np.concatenate([np.ones_like(full), -np.ones_like(full)])[order])[:-1]
    full = np.cumsum(np.concatenate([full, -full])[order])[:-1]
    seen = (place[1:] > place[:-1]) & (held > 0)  # between two tiles nothing is held
    held, full, left, right = held[seen], full[seen], place[:-1][seen], place[1:][seen]
    number = left // (cols + 1)
    sources = group * height[number % tiles] if tiles else number
    if must_agree and ((held != sources) | ((full != 0) & (full != sources))).any():
        raise UnsupportedError(
            f"the {group} heads of a group were given different blocks, so no tile can hold them together; "
            "use group=1 for this mask"
        )
    return Runs.from_rectangles(
        (batch, groups, tiles, cols),
        head=number // tiles if tiles else number,
        top=number % tiles if tiles else number,
        bottom=number % tiles + 1 if tiles else number,
        left=left - number * (cols + 1),
        right=right - number * (cols + 1),
        kind=np.where(full == sources, BlockKind.FULL, BlockKind.PARTIAL).astype(np.uint8),
    )
