"""The blocks of a page's mask: their kinds as runs, and the overview that is drawn before anything else.

Owns the form of both in the page and the bounds on their size. What (b, h) share is written once, as the
mask stores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.pairs import stored_repeats
from saccade.block_mask.sections import section_kinds
from saccade.block_mask.shares import cell_edges, visible_shares
from saccade.errors import ArgumentError
from saccade.explorer.captured_data import MOST_BYTES, encoded

__all__ = ["block_counts", "blocks_data", "overview_data", "visible_share"]

_CELLS = 512  # of an overview, each way
_FULL_OVERVIEWS = 64  # that many have so many cells; more share the same number of cells
_MOST_OVERVIEWS = 4096
_COUNTED_PAIRS = 1 << 28  # over all overviews; beyond, cells are made of whole blocks
_ASKED_PAIRS = 1 << 30  # of partial blocks, for the density

Shares = npt.NDArray[np.float64]


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


def visible_share(mask: BlockMask) -> float | None:
    """Return the share of all pairs that is visible; None where that takes long.

    Partial blocks with more than 2^30 pairs would have to be evaluated pair by pair.
    """
    asked = mask.runs.counts()[BlockKind.PARTIAL] * mask.q_block * mask.kv_block
    return mask.density() if asked <= _ASKED_PAIRS else None


def overview_data(mask: BlockMask) -> dict[str, object]:
    """Describe a mask as a small picture for each stored (b, h).

    A picture has at most 512 × 512 cells. Where more than 64 (b, h) differ, they share the cells of 64, so
    that each picture is coarser. Shares are counted while there are at most 2^28 pairs in all; beyond, a cell
    is made of whole blocks, of which a partial one counts half.

    Args:
        mask: The mask.

    Returns:
        The cells' edges in queries and keys, and the share of visible pairs in each cell as a byte: 0 only
        where no pair is visible, 255 only where all are.

    Raises:
        ArgumentError: More than 4096 (b, h) differ.
    """
    batch, heads, _, _ = mask.runs.shape
    count = batch * heads
    if count > _MOST_OVERVIEWS:
        raise ArgumentError(
            f"the page shows at most {_MOST_OVERVIEWS} batches and heads whose masks differ, got "
            f"{batch} × {heads} = {count}; select some of them: mask[b, h]"
        )
    side = _CELLS if count <= _FULL_OVERVIEWS else math.isqrt(_CELLS**2 * _FULL_OVERVIEWS // count)
    counted = mask.q_len * mask.kv_len * count <= _COUNTED_PAIRS
    q_edges, kv_edges, shares = (_by_pairs if counted else _by_blocks)(mask, side)
    return {
        "rows": len(q_edges) - 1,
        "columns": len(kv_edges) - 1,
        "q_edges": q_edges.tolist(),
        "kv_edges": kv_edges.tolist(),
        "shares": [encoded(_as_bytes(shares(b, h))) for b, h in np.ndindex(batch, heads)],
    }


_Edges = npt.NDArray[np.int64]
_Overview = tuple[_Edges, _Edges, Callable[[int, int], Shares]]


def _by_pairs(mask: BlockMask, side: int) -> _Overview:
    """Cells of nearly equal size, whose visible pairs are counted."""
    edges = cell_edges(mask.q_len, side), cell_edges(mask.kv_len, side)
    return *edges, lambda b, h: visible_shares(mask, side, batch=b, head=h)


def _by_blocks(mask: BlockMask, side: int) -> _Overview:
    """Cells of whole blocks: 0 where all are empty, 1 where all are full, else one half."""
    row_step, column_step = (-(-blocks // side) for blocks in mask.runs.shape[2:])
    q_edges = np.append(np.arange(0, mask.q_len, row_step * mask.q_block), mask.q_len)
    kv_edges = np.append(np.arange(0, mask.kv_len, column_step * mask.kv_block), mask.kv_len)

    def shares(b: int, h: int) -> Shares:
        return np.asarray(section_kinds(mask, (b, h), row_step, column_step), dtype=np.float64) / 2

    return q_edges, kv_edges, shares


def _as_bytes(shares: Shares) -> npt.NDArray[np.uint8]:
    rounded = np.rint(shares * 255)
    between = np.clip(rounded, 1, 254)
    return np.where((shares > 0) & (shares < 1), between, rounded).astype(np.uint8)
