"""Every rectangle of a small matrix and what an array holds on each: the slow truth for analysis."""

from __future__ import annotations

import itertools

import numpy as np

from saccade.analysis.bounds import Rectangles


def every_rectangle(heads: int, q_len: int, kv_len: int) -> Rectangles:
    """All rectangles of all heads."""
    spans = [list(itertools.combinations_with_replacement(range(n), 2)) for n in (q_len, kv_len)]
    rows = [(head, *q, *kv) for head in range(heads) for q in spans[0] for kv in spans[1]]
    return Rectangles(*np.array(rows).T)


def holds_any(rectangles: Rectangles, flags: np.ndarray) -> np.ndarray:
    """bool [N]: whether any flag [heads, q_len, kv_len] is set in each rectangle."""
    sums = np.pad(flags.astype(np.int64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    r = rectangles
    bottom = sums[r.head, r.q_last + 1, r.kv_last + 1] - sums[r.head, r.q_last + 1, r.kv_first]
    top = sums[r.head, r.q_first, r.kv_last + 1] - sums[r.head, r.q_first, r.kv_first]
    return bottom - top > 0
