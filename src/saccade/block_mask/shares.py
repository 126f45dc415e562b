"""A mask as a small grid of numbers: the share of visible pairs in each cell, for pictures of any size.

Owns the cutting into cells and the counting, in bounded memory; colours and characters belong to whoever
draws. Invariant: a share is 0 where no pair of the cell is visible and 1 where all are, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saccade.block_mask.sections import section_kinds
from saccade.block_mask.snapshot import host_arrays
from saccade.ir.interpret import interpret
from saccade.ir.program import Program

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

_STRIP_PAIRS = 1 << 22  # pairs written out at once
_COUNTED_PAIRS = 1 << 30  # beyond these, blocks are summed up instead


def cell_edges(length: int, most: int) -> Int64s:
    """Cut an axis into at most `most` cells of nearly equal size; return where each begins, and the end.

    Example:
        >>> cell_edges(10, 4).tolist(), cell_edges(3, 4).tolist()
        ([0, 2, 5, 7, 10], [0, 1, 2, 3])
    """
    cells = max(1, min(length, most))
    return np.arange(cells + 1, dtype=np.int64) * length // cells


def visible_shares(mask: BlockMask, most: int | tuple[int, int], batch: int = 0, head: int = 0) -> Floats:
    """Measure which share of its pairs each cell of a picture shows.

    Up to 2^30 pairs (32,768 tokens) they are counted exactly. Beyond, a cell is a rectangle of whole blocks
    and a PARTIAL block counts half, so that a mask of a million tokens is drawn from its blocks alone.

    Args:
        mask: The mask.
        most: The most rows and columns of the picture; fewer where the mask has fewer queries or keys.
        batch: The batch drawn.
        head: The head drawn.

    Returns:
        float64 ``[rows, columns]`` in [0, 1].

    Raises:
        IndexOutOfRangeError: There is no such batch or head.
        StaleMaskError: A tensor the mask was made from has changed.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> visible_shares(create_block_mask(causal, None, None, 8, 8, device="cpu"), 4)
        array([[0.75, 0.  , 0.  , 0.  ],
               [1.  , 0.75, 0.  , 0.  ],
               [1.  , 1.  , 0.75, 0.  ],
               [1.  , 1.  , 1.  , 0.75]])
    """
    mask.check_fresh()
    rows, columns = most if isinstance(most, tuple) else (most, most)
    if mask.q_len * mask.kv_len > _COUNTED_PAIRS:
        return _by_blocks(mask, (rows, columns), (batch, head))
    one = mask[batch, head]
    q_edges, kv_edges = cell_edges(mask.q_len, rows), cell_edges(mask.kv_len, columns)
    counts = np.zeros((len(q_edges) - 1, len(kv_edges) - 1), dtype=np.int64)
    height = max(1, _STRIP_PAIRS // max(mask.kv_len, 1))
    for top in range(0, mask.q_len if mask.kv_len else 0, height):
        stop = min(top + height, mask.q_len)
        strip = one.crop(q=(top, stop)).to_bool()[0, 0].cpu().numpy()
        by_column = np.add.reduceat(strip, kv_edges[:-1], axis=1, dtype=np.int64)
        np.add.at(counts, np.searchsorted(q_edges, np.arange(top, stop), side="right") - 1, by_column)
    shares: Floats = counts / np.maximum(np.outer(np.diff(q_edges), np.diff(kv_edges)), 1)
    return shares


def values_at(program: Program, *args: Any) -> npt.NDArray[Any]:
    """Evaluate a program at some pairs.

    Args:
        program: A MASK or SCORE program.
        *args: Its arguments in order, as numbers or numpy arrays that broadcast together.

    Returns:
        The values, of the shape that the arguments have together or one that broadcasts to it.

    Raises:
        IndexOutOfRangeError: It indexes a tensor out of range at one of the pairs.
        DivisionByZeroError: It divides by integer zero at one of the pairs.

    Example:
        >>> from saccade.tracing import trace
        >>> double = trace(lambda score, b, h, q_idx, kv_idx: score * 2 + h)
        >>> values_at(double, np.ones(3, np.float32), 0, 1, np.arange(3), np.arange(3)).tolist()
        [3.0, 3.0, 3.0]
    """
    return interpret(program.structure, args, host_arrays(program), program.numbers, program.names)


def _by_blocks(mask: BlockMask, most: Sequence[int], place: tuple[int, int]) -> Floats:
    """The shares of sections of whole blocks: 0 empty, 1 full, else one half."""
    steps = [-(-blocks // limit) for blocks, limit in zip(mask.runs.shape[2:], most, strict=True)]
    return np.asarray(section_kinds(mask, place, steps[0], steps[1]), dtype=np.float64) / 2
