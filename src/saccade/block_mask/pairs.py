"""The mask by element: which pairs are visible, counted or written out, in bounded memory.

FULL blocks are arithmetic; only PARTIAL ones are evaluated, a million pairs at a time. Engines do not come
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind, Runs
from saccade.ir.interpret import interpret
from saccade.ir.program import Program

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_AT_ONCE = 1 << 20  # pairs evaluated together
_PIECE = 1 << 10  # largest side of what is evaluated of one block


def count_visible(mask: BlockMask) -> int:
    """Count the visible pairs over all batches and heads of the mask."""
    runs = mask.runs
    row_sizes = span_sizes(mask.q_len, mask.q_block)
    full = runs.kind == BlockKind.FULL
    row = runs.row_numbers()[full] % max(runs.shape[2], 1)
    columns = np.minimum(runs.stop[full].astype(np.int64) * mask.kv_block, mask.kv_len)
    columns -= runs.start[full].astype(np.int64) * mask.kv_block
    total = int((row_sizes[row] * columns).sum())
    for b, h, q_idx, kv_idx in _partial_pairs(mask):
        inside = (q_idx < mask.q_len) & (kv_idx < mask.kv_len)
        total += int(np.count_nonzero(_evaluated(mask, b, h, q_idx, kv_idx) & inside))
    return total * stored_repeats(mask)


def dense_mask(mask: BlockMask) -> Bools:
    """Write the mask out by element: bool[B, H, Q, K], B and H as stored."""
    runs = mask.runs
    batch, heads, _, _ = runs.shape
    out = np.zeros((batch, heads, mask.q_len, mask.kv_len), dtype=np.bool_)
    column_sizes = span_sizes(mask.kv_len, mask.kv_block)
    for b, h in np.ndindex(batch, heads):
        is_full = runs.take(batch=b, heads=h).to_dense()[0, 0] == BlockKind.FULL
        for row, top in enumerate(range(0, mask.q_len, mask.q_block)):
            out[b, h, top : top + mask.q_block] = np.repeat(is_full[row], column_sizes)
    for b, h, q_idx, kv_idx in _partial_pairs(mask):
        # A pair beyond the lengths stands for the last one inside, which lies in the same block.
        q_idx, kv_idx = np.minimum(q_idx, mask.q_len - 1), np.minimum(kv_idx, mask.kv_len - 1)
        out[b, h, q_idx, kv_idx] = _evaluated(mask, b, h, q_idx, kv_idx)
    return out


def dense_program(
    program: Program,
    captures: Sequence[npt.NDArray[Any]],
    shape: tuple[int, int, int, int],
    score: Sequence[Any] = (),
) -> Iterator[tuple[int, int, slice, npt.NDArray[Any]]]:
    """Evaluate a program at every pair, a strip of queries at a time.

    Args:
        program: A MASK or SCORE program.
        captures: Its captures as numpy arrays.
        shape: Batches, heads, queries and keys.
        score: The score to start from, for a SCORE program.

    Yields:
        ``(b, h, strip, value)``: the queries evaluated, and the value there, broadcastable to ``[strip, K]``.
    """
    batch, heads, q_len, kv_len = shape
    height = max(1, _AT_ONCE // max(kv_len, 1))
    kv_idx = np.arange(kv_len)
    for b, h in np.ndindex(batch, heads):
        for top in range(0, q_len, height):
            q_idx = np.arange(top, min(top + height, q_len))[:, None]
            args = (*score, np.int64(b), np.int64(h), q_idx, kv_idx)
            value = interpret(program.structure, args, captures, program.numbers, program.names)
            yield b, h, slice(top, top + len(q_idx)), value


def span_sizes(length: int, block: int) -> Int64s:
    """How many tokens each block of an axis holds, int64[blocks]; the last may hold fewer."""
    begin = np.arange(0, length, block, dtype=np.int64)
    return np.minimum(begin + block, length) - begin


def stored_repeats(mask: BlockMask) -> int:
    """Return how many of the mask's batches and heads each stored one stands for."""
    batch, heads, _, _ = mask.runs.shape
    return (mask.batch // batch) * (mask.heads // heads)


def _evaluated(mask: BlockMask, b: Int64s, h: Int64s, q_idx: Int64s, kv_idx: Int64s) -> Bools:
    program = mask.program
    inside = np.minimum(q_idx, mask.q_len - 1), np.minimum(kv_idx, mask.kv_len - 1)
    value = interpret(program.structure, (b, h, *inside), mask.host_captures, program.numbers, program.names)
    shape = np.broadcast_shapes(b.shape, q_idx.shape, kv_idx.shape)
    return np.broadcast_to(value, shape)


def _partial_pairs(mask: BlockMask) -> Iterator[tuple[Int64s, Int64s, Int64s, Int64s]]:
    """The pairs of all PARTIAL blocks, as `b, h, q_idx, kv_idx` that broadcast to [blocks, queries, keys].

    Indices of a ragged block may lie beyond the lengths, never a whole row or column of blocks.
    """
    _, heads, rows, _ = mask.runs.shape
    q_side, kv_side = min(mask.q_block, mask.q_len), min(mask.kv_block, mask.kv_len)
    q_piece, kv_piece = min(q_side, _PIECE), min(kv_side, _PIECE)
    for row, col in _partial_blocks(mask.runs, max(1, _AT_ONCE // max(q_piece * kv_piece, 1))):
        b, h = row // (heads * rows), row // rows % heads
        top, left = row % rows * mask.q_block, col * mask.kv_block
        for q_from in range(0, q_side, q_piece):
            for kv_from in range(0, kv_side, kv_piece):
                q_idx = top[:, None, None] + np.arange(q_from, min(q_from + q_piece, q_side))[:, None]
                kv_idx = left[:, None, None] + np.arange(kv_from, min(kv_from + kv_piece, kv_side))
                yield b[:, None, None], h[:, None, None], q_idx, kv_idx


def _partial_blocks(runs: Runs, at_once: int) -> Iterator[tuple[Int64s, Int64s]]:
    """Row number and column of every PARTIAL block, at most `at_once` at a time."""
    partial = runs.kind == BlockKind.PARTIAL
    row, start = runs.row_numbers()[partial], runs.start[partial].astype(np.int64)
    ends = np.cumsum(runs.stop[partial] - start)
    begins = np.concatenate([[0], ends[:-1]])
    for first in range(0, int(ends[-1]) if len(ends) else 0, at_once):
        block = np.arange(first, min(first + at_once, int(ends[-1])))
        run = np.searchsorted(ends, block, side="right")
        yield row[run], start[run] + (block - begins[run])
