"""Witnesses: a few pairs of a block, evaluated, which show that it is PARTIAL.

Two pairs that differ prove it; pairs that agree prove nothing. Each round is tried on the blocks the one
before left open: first the corners that decide diagonal patterns, then the other corners and the centre, then
the pairs next to the diagonals' ends and a scatter over the block, last its border: the first row and column
meet every diagonal, every whole row or column, and most rectangles that reach across blocks.
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
_PAIRS_AT_ONCE = 1 << 20
# 128 fractions, which name every row or column of a block of 128; the tiny share keeps truncation exact.
_ALONG = tuple((i + 1e-6) / 127 for i in range(128))

_ROUNDS: tuple[tuple[_Pair, ...], ...] = (
    ((0, 1, 0, 0), (1, 0, 0, 0)),
    ((0, 0, 0, 0), (1, 1, 0, 0), (0.5, 0.5, 0, 0)),
    (
        *((0, 0, 1, 0), (0, 0, 0, 1), (1, 1, -1, 0), (1, 1, 0, -1)),
        *((0, 1, 1, 0), (0, 1, 0, -1), (1, 0, -1, 0), (1, 0, 0, 1)),
        # Multiples of the golden ratio in one coordinate spread evenly over the other.
        *(((i + 0.5) / 16, (i * _GOLDEN) % 1.0, 0, 0) for i in range(16)),
    ),
    (*((0, along, 0, 0) for along in _ALONG), *((along, 0, 0, 0) for along in _ALONG)),
    (*((1, along, 0, 0) for along in _ALONG), *((along, 1, 0, 0) for along in _ALONG)),
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
        at_once = _PAIRS_AT_ONCE // len(pairs)
        for part in (left[begin : begin + at_once] for begin in range(0, len(left), at_once)):
            q_idx, kv_idx = _positions(blocks, part, pairs)
            visible = mask_at(blocks.head[part, None], q_idx, kv_idx)
            visible = np.broadcast_to(visible, q_idx.shape)
            seen_true[part] |= visible.any(axis=1)
            seen_false[part] |= ~visible.all(axis=1)
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
