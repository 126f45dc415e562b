"""The blocks of a page's mask: their kinds as runs, their numbers, and the share of visible pairs.

Owns their form in the page and the bound on their size. What (b, h) share is written once, as the mask
stores it.
"""

from __future__ import annotations

import numpy as np

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.pairs import stored_repeats
from saccade.errors import ArgumentError
from saccade.explorer.captured_data import MOST_BYTES, encoded

__all__ = ["MOST_COUNTED", "block_counts", "blocks_data", "partial_pairs", "visible_share"]

MOST_COUNTED = 1 << 30
"""Pairs of partial blocks that are evaluated to count the visible ones: a matter of seconds."""


def blocks_data(mask: BlockMask) -> dict[str, object]:
    """Describe a mask's blocks.

    Args:
        mask: The mask.

    Returns:
        Block sizes and counts, and for each stored (b, h) the runs of its block rows in CSR form.

    Raises:
        ArgumentError: The runs take more than `MOST_BYTES`.
    """
    runs = mask.runs
    batch, heads, rows, columns = runs.shape
    nbytes = 4 * len(runs.offsets) + 9 * len(runs.start)
    if nbytes > MOST_BYTES:
        raise ArgumentError(
            f"the page holds the kind of every block, in {MOST_BYTES >> 20} MB at most; got "
            f"{len(runs.start):,} runs of blocks of {mask.q_block}×{mask.kv_block}, which take "
            f"{nbytes / 2**20:.1f} MB; make the mask with a larger BLOCK_SIZE, or select from it: mask[b, h]"
        )
    grids = []
    for b, h in np.ndindex(batch, heads):
        one = runs.take(batch=b, heads=h)
        grids.append(
            {
                "indptr": encoded(one.offsets.astype(np.int32)),
                "starts": encoded(one.start),
                "stops": encoded(one.stop),
                "kinds": encoded(one.kind),
            }
        )
    return {
        "q_block": mask.q_block,
        "kv_block": mask.kv_block,
        "rows": rows,
        "columns": columns,
        "shape": [batch, heads],
        "grids": grids,
    }


def block_counts(mask: BlockMask) -> list[int]:
    """Count the blocks of all batches and heads: empty, partial, full."""
    counts = mask.runs.counts()
    return [counts[kind] * stored_repeats(mask) for kind in BlockKind]


def partial_pairs(mask: BlockMask) -> int:
    """How many pairs the partial blocks of all stored batches and heads hold, by their full size."""
    return mask.runs.counts()[BlockKind.PARTIAL] * mask.q_block * mask.kv_block


def visible_share(mask: BlockMask) -> float | None:
    """Return the share of all pairs that is visible; None where more than `MOST_COUNTED` need counting."""
    return mask.density() if partial_pairs(mask) <= MOST_COUNTED else None
