"""The overview of a page's mask: the picture that is drawn while its pairs are smaller than a pixel.

Owns its cells, what is counted in them, and the bound on their number. A mask that a browser evaluates as
fast as it draws has none. What (b, h) share is written once, as the mask stores it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind, Runs
from saccade.block_mask import BlockMask
from saccade.block_mask.pairs import span_sizes
from saccade.block_mask.sections import section_kinds
from saccade.block_mask.shares import cell_edges, visible_shares
from saccade.errors import ArgumentError
from saccade.explorer.block_data import MOST_COUNTED, partial_pairs
from saccade.explorer.captured_data import encoded
from saccade.ir.interpret import interpret

__all__ = ["overview_data"]

_DRAWN_PAIRS = 1 << 22  # of a mask whose pairs are drawn however far away one is
_SIDE = 512  # cells of a picture, each way
_MOST_CELLS = 1 << 20  # of all pictures, a byte each
_MOST_PICTURES = 4096
_WRITTEN_PAIRS = 1 << 28  # over all pictures; beyond, cells are made of whole blocks
_AT_ONCE = 1 << 20  # pairs evaluated together

Int64s = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def overview_data(mask: BlockMask) -> dict[str, object] | None:
    """Describe a mask as a small picture for each stored (b, h).

    A picture has at most 512 × 512 cells, and all pictures together 2^20. Where there are more than 2^28
    pairs in all, a cell is made of whole blocks. Shares are counted unless partial blocks hold more than
    `MOST_COUNTED` pairs; then a cell tells none, some or all.

    Args:
        mask: The mask.

    Returns:
        The cells' edges in queries and keys, whether they are counted, and the share of visible pairs in each
        cell as a byte: 0 only where no pair is visible, 255 only where all are. None for a mask of up to 2^22
        pairs, each of which is drawn.

    Raises:
        ArgumentError: More than 4096 (b, h) differ.
    """
    batch, heads, _, _ = mask.runs.shape
    pictures = batch * heads
    if pictures > _MOST_PICTURES:
        raise ArgumentError(
            f"the page shows at most {_MOST_PICTURES} batches and heads whose masks differ, got "
            f"{batch} × {heads} = {pictures}; select some of them: mask[b, h]"
        )
    if mask.q_len * mask.kv_len <= _DRAWN_PAIRS:
        return None
    side = min(_SIDE, math.isqrt(_MOST_CELLS // pictures))
    places = list(np.ndindex(batch, heads))
    counted = True
    if mask.q_len * mask.kv_len * pictures <= _WRITTEN_PAIRS:
        q_edges, kv_edges = cell_edges(mask.q_len, side), cell_edges(mask.kv_len, side)
        shares = [visible_shares(mask, side, batch=b, head=h) for b, h in places]
    else:
        counted = partial_pairs(mask) <= MOST_COUNTED
        steps = tuple(-(-blocks // side) for blocks in mask.runs.shape[2:])
        q_edges = _section_edges(mask.q_len, mask.q_block * steps[0])
        kv_edges = _section_edges(mask.kv_len, mask.kv_block * steps[1])
        told = _counted_shares if counted else _kinds_as_shares
        shares = [told(mask, place, steps) for place in places]
    return {
        "rows": len(q_edges) - 1,
        "columns": len(kv_edges) - 1,
        "q_edges": q_edges.tolist(),
        "kv_edges": kv_edges.tolist(),
        "counted": counted,
        "shares": [encoded(_as_bytes(one)) for one in shares],
    }


def _section_edges(length: int, step: int) -> Int64s:
    return np.append(np.arange(0, length, step), length)


def _kinds_as_shares(mask: BlockMask, place: tuple[int, ...], steps: tuple[int, ...]) -> Shares:
    """Sections of whole blocks: 0 where all are empty, 1 where all are full, else one half."""
    b, h = place
    return np.asarray(section_kinds(mask, (b, h), *steps), dtype=np.float64) / 2


def _counted_shares(mask: BlockMask, place: tuple[int, ...], steps: tuple[int, ...]) -> Shares:
    """Sections of whole blocks, as the share of their pairs that is visible."""
    b, h = place
    runs = mask.runs.take(batch=b, heads=h)
    heights, widths = span_sizes(mask.q_len, mask.q_block), span_sizes(mask.kv_len, mask.kv_block)
    rows, columns = (
        np.arange(0, len(sizes), step) for sizes, step in zip((heights, widths), steps, strict=True)
    )
    full = runs.kind == BlockKind.FULL
    row = runs.row_numbers()[full]
    queries = np.zeros((len(rows), len(widths) + 1), dtype=np.int64)  # of full blocks, in each block column
    np.add.at(queries, (row // steps[0], runs.start[full]), heights[row])
    np.subtract.at(queries, (row // steps[0], runs.stop[full]), heights[row])
    visible = np.cumsum(queries, axis=1)[:, :-1] * widths
    for partial, kv_idx, shown in _seen_in_partial_blocks(mask, runs, place):
        np.add.at(visible[partial // steps[0]], kv_idx // mask.kv_block, shown)
    sizes = np.outer(np.add.reduceat(heights, rows), np.add.reduceat(widths, columns))
    shares: Shares = np.add.reduceat(visible, columns, axis=1) / sizes
    return shares


def _seen_in_partial_blocks(
    mask: BlockMask, runs: Runs, place: tuple[int, ...]
) -> Iterator[tuple[int, Int64s, Int64s]]:
    """For rows of blocks: the keys of partial ones, and how many of the row's queries see each."""
    b, h = (np.int64(index) for index in place)
    program = mask.program
    partial = np.flatnonzero(runs.kind == BlockKind.PARTIAL)
    rows, sizes = np.unique(runs.row_numbers()[partial], return_counts=True)
    for row, last, size in zip(rows.tolist(), np.cumsum(sizes), sizes, strict=True):
        entries = partial[last - size : last]
        ends = zip(runs.start[entries].tolist(), runs.stop[entries].tolist(), strict=True)
        keys = [np.arange(start * mask.kv_block, stop * mask.kv_block) for start, stop in ends]
        kv_idx = np.concatenate(keys)
        kv_idx = kv_idx[kv_idx < mask.kv_len]
        stop = min((row + 1) * mask.q_block, mask.q_len)
        height = max(1, _AT_ONCE // len(kv_idx))
        for top in range(row * mask.q_block, stop, height):
            q_idx = np.arange(top, min(top + height, stop))[:, None]
            args = (b, h, q_idx, kv_idx)
            value = interpret(program.structure, args, mask.host_captures, program.numbers, program.names)
            yield row, kv_idx, np.broadcast_to(value, (len(q_idx), len(kv_idx))).sum(axis=0)


def _as_bytes(shares: Shares) -> npt.NDArray[np.uint8]:
    rounded = np.rint(shares * 255)
    between = np.clip(rounded, 1, 254)
    return np.where((shares > 0) & (shares < 1), between, rounded).astype(np.uint8)
