"""Witnesses: a few pairs of a block, evaluated, which show that it is PARTIAL.

Two pairs that differ prove it; pairs that agree prove nothing. Each round is tried on the blocks the one
before left open: first the corners that decide diagonal patterns, then the other corners and the centre, then
the pairs next to the diagonals' ends and a scatter over the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade.analysis.bounds import Rectangles

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
MaskAt = Callable[[Int64s, Int64s, Int64s], npt.NDArray[Any]]
"""(head, q_idx, kv_idx) -> the mask's value, all broadcast together."""

# Positions as fractions of the block's height and width, 0 its first and 1 its last row or column; then steps
# from there.
_Pair = tuple[float, float, int, int]

_GOLDEN = 0.6180339887498949

_ROUNDS: tuple[tuple[_Pair, ...], ...] = (
    ((0, 1, 0, 0), (1, 0, 0, 0)),
    ((0, 0, 0, 0), (1, 1, 0, 0), (0.5, 0.5, 0, 0)),
    (
        *((0, 0, 1, 0), (0, 0, 0, 1), (1, 1, -1, 0), (1, 1, 0, -1)),
        *((0, 1, 1, 0), (0, 1, 0, -1), (1, 0, -1, 0), (1, 0, 0, 1)),
        # Multiples of the golden ratio in one coordinate spread evenly over the other.
        *(((i + 0.5) / 16, (i * _GOLDEN) % 1.0, 0, 0) for i in range(16)),
    ),
)


def partial_blocks(blocks: Rectangles, mask_at: MaskAt) -> Bools:
    """Find blocks that certainly hold a visible and a hidden pair.

    Args:
        blocks: The blocks, N of them, on none of which the mask may be poison.
        mask_at: Evaluates the mask.

    Returns:
        bool [N]: True where witnesses differ; False proves nothing.
    """
    count = len(blocks.head)
    seen_true, seen_false = np.zeros(count, bool), np.zeros(count, bool)
    left = np.arange(count)
    for pairs in _ROUNDS:
        if not len(left):
            break
        q_idx, kv_idx = _positions(blocks, left, pairs)
        visible = mask_at(blocks.head[left, None], q_idx, kv_idx)
        visible = np.broadcast_to(visible, q_idx.shape)
        seen_true[left] |= visible.any(axis=1)
        seen_false[left] |= ~visible.all(axis=1)
        left = left[~(seen_true[left] & seen_false[left])]
    return seen_true & seen_false


def _positions(blocks: Rectangles, which: Int64s, pairs: tuple[_Pair, ...]) -> tuple[Int64s, Int64s]:
    """Query and key positions [len(which), len(pairs)] of the pairs in each block."""
    down, across, q_step, kv_step = (np.array(column) for column in zip(*pairs, strict=True))
    spans = (
        (blocks.q_first, blocks.q_last, down, q_step),
        (blocks.kv_first, blocks.kv_last, across, kv_step),
    )
    positions = []
    for first, last, fraction, step in spans:
        low, high = first[which, None], last[which, None]
        position = low + ((high - low) * fraction).astype(np.int64) + step
        positions.append(np.clip(position, low, high))
    return positions[0], positions[1]
