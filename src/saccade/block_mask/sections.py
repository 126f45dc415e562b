"""A mask as its sections: blocks summed up, so that a mask of any size fits a line or a small drawing.

Works on runs, never on a table of blocks; `render` turns what comes out into characters.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from saccade.analysis.runs import BlockKind
from saccade.block_mask import render
from saccade.block_mask.moves import mod_name
from saccade.block_mask.pairs import span_sizes, stored_repeats

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask


def drawing(mask: BlockMask, grid_size: int | tuple[int, int], limit: int) -> str:
    """See `BlockMask.to_string`."""
    row_step, col_step = render.steps(grid_size, mask.runs.shape[2:])
    places = itertools.product(range(mask.batch), range(mask.heads))
    grids = [
        (place, section_kinds(mask, place, row_step, col_step))
        for place in itertools.islice(places, max(limit, 0))
    ]
    return render.mask_text(grids, omitted=len(grids) < mask.batch * mask.heads)


def summary(mask: BlockMask) -> str:
    """Return one line: the mod, the shape, and how many blocks of each kind there are."""
    counts = mask.runs.counts().items()
    kinds = ", ".join(f"{count * stored_repeats(mask):,} {kind.name.lower()}" for kind, count in counts)
    size = f"{mask.q_block}×{mask.kv_block}"
    return f"BlockMask({mod_name(mask.mask_mod)}, shape={mask.shape}, blocks of {size}: {kinds})"


def section_kinds(mask: BlockMask, place: tuple[int, int], row_step: int, col_step: int) -> list[list[int]]:
    """Sum up sections of that many blocks: 2 where all are FULL, 0 where all are EMPTY, else 1."""
    batch, heads, rows, cols = mask.runs.shape
    one = mask.runs.take(batch=place[0] if batch > 1 else 0, heads=place[1] if heads > 1 else 0)
    if not cols:
        return [[] for _ in range(0, rows, row_step)]
    section = one.row_numbers() // row_step
    sections = -(-rows // row_step)
    summed = np.zeros((2, sections, cols + 1), dtype=np.int32)  # blocks held, blocks FULL
    for counts, weight in zip(summed, (np.ones_like(one.kind), one.kind == BlockKind.FULL), strict=True):
        np.add.at(counts, (section, one.start), weight)
        np.subtract.at(counts, (section, one.stop), weight)
    by_column = np.cumsum(summed, axis=2)[:, :, :cols]
    held, full = np.add.reduceat(by_column, np.arange(0, cols, col_step), axis=2)
    size = span_sizes(rows, row_step)[:, None] * span_sizes(cols, col_step)
    kinds: list[list[int]] = np.where(full == size, 2, np.minimum(held, 1)).tolist()
    return kinds
