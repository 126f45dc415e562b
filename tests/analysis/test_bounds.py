"""Every node of random programs, on every rectangle: its values are inside what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from analysis.rectangles import every_rectangle, holds_any
from ir.strategies import mask_structures
from saccade.analysis.bounds import MaskBounds
from saccade.analysis.interval import Truth
from saccade.ir.expr import axis_bit
from saccade.ir.interpret import evaluate
from saccade.ir.text import parse_structure

BATCH, HEADS, Q_LEN, KV_LEN = 2, 2, 4, 5
RECTANGLES = every_rectangle(BATCH * HEADS, Q_LEN, KV_LEN)
COUNT = len(RECTANGLES.head)


def bounds_of(case):
    structure, captures, numbers = case.structure, case.captures, case.numbers
    return MaskBounds(structure.root, captures, numbers, batch=BATCH, heads=HEADS, q_len=Q_LEN, kv_len=KV_LEN)


def per_pair(array):
    return np.broadcast_to(array, (BATCH, HEADS, Q_LEN, KV_LEN)).reshape(-1, Q_LEN, KV_LEN)


def spread(mask):
    return np.broadcast_to(False if mask is None else mask, (COUNT,))


def assert_inside(value, known):
    poison = per_pair(0 if value.poison is None else value.poison) != 0
    assert (spread(known.poison) | ~holds_any(RECTANGLES, poison)).all()
    found = per_pair(value.value)
    if isinstance(known, Truth):
        assert (spread(known.true) | ~holds_any(RECTANGLES, found & ~poison)).all()
        assert (spread(known.false) | ~holds_any(RECTANGLES, ~found & ~poison)).all()
        return
    assert known.lo.dtype == found.dtype
    lo, hi = (np.broadcast_to(bound, (COUNT,)) for bound in (known.lo, known.hi))
    assert (lo <= hi).all()
    sound = ~poison
    if found.dtype.kind == "f":
        assert (spread(known.nan) | ~holds_any(RECTANGLES, sound & np.isnan(found))).all()
        sound = sound & ~np.isnan(found)
    # Distinct bounds are few, so each is compared with the whole matrix once.
    for bound in np.unique(lo):
        assert not holds_any(RECTANGLES, sound & (found < bound))[lo == bound].any()
    for bound in np.unique(hi):
        assert not holds_any(RECTANGLES, sound & (found > bound))[hi == bound].any()
    if known.modulus != 1:
        residues = found if known.modulus == 0 else found % known.modulus
        assert (residues == known.residue)[sound].all()


@settings(max_examples=40)
@given(mask_structures())
def test_every_value_is_inside_its_interval(case):
    bounds = bounds_of(case)
    pairs = case.variables(BATCH, HEADS, Q_LEN, KV_LEN)
    every_axis = sum(axis_bit(k) for k in range(8))
    for steps in (bounds._plain_steps(), bounds._steps):
        for node, known in bounds._run(steps, RECTANGLES).items():
            if not node.reads & every_axis:
                assert_inside(evaluate(node, pairs, case.captures, case.numbers), known)


@given(mask_structures(max_depth=2))
def test_truth_has_one_entry_a_rectangle(case):
    truth = bounds_of(case).truth(RECTANGLES)
    assert truth.true.shape == truth.false.shape == (COUNT,)
    possible = truth.true | truth.false
    assert (possible if truth.poison is None else possible | truth.poison).all()
    assert_inside(
        evaluate(
            case.structure.root,
            case.variables(BATCH, HEADS, Q_LEN, KV_LEN),
            case.captures,
            case.numbers,
        ),
        truth,
    )


IDS = np.array([4, 4, 4, 4, 1, 1, 1, 1, 9, 9, 9, 9])
TABLE = (np.arange(60).reshape(5, 12) * 7) % 11 < 6
OFFSETS = np.array([0, 3, 7, 12])
SEQUENCE = np.repeat([0, 1, 2], [3, 4, 5])

# Masks of 12 × 12 pairs that intervals decide exactly: with captures and numbers.
EXACT = {
    "causal": ("mask() -> bool\nkv_idx <= q_idx", [], []),
    "a variable occurs on both sides": ("mask() -> bool\nq_idx <= q_idx - kv_idx + q_idx", [], []),
    "a window": ("mask(n0: i64) -> bool\nq_idx - kv_idx < n0", [], [4]),
    "a band": ("mask(n0: i64) -> bool\nabs(q_idx - kv_idx) <= n0", [], [2]),
    "a shift": ("mask(n0: i64) -> bool\nkv_idx + n0 <= q_idx", [], [-3]),
    "even and odd": ("mask() -> bool\n2 * q_idx != 2 * kv_idx + 1", [], []),
    "a table of keys": ("mask(c0: bool[2]) -> bool\nc0[b, kv_idx]", [TABLE], []),
    "lengths": ("mask(c0: i64[1]) -> bool\nkv_idx < c0[b]", [np.array([3, 12])], []),
    "documents": ("mask(c0: i64[1]) -> bool\nc0[q_idx] == c0[kv_idx]", [np.sort(IDS)], []),
    "renumbered documents": ("mask(c0: i64[1]) -> bool\nc0[q_idx] == c0[kv_idx]", [IDS], []),
    "other documents": ("mask(c0: i64[1]) -> bool\nc0[q_idx] != c0[kv_idx]", [IDS], []),
    "two-step lookups": (
        "mask(c0: i64[1], c1: i64[1]) -> bool\nc0[c1[q_idx]] <= c0[c1[kv_idx]]",
        [OFFSETS, SEQUENCE],
        [],
    ),
    "clamped indices": (
        "mask(c0: i64[1]) -> bool\nc0[minimum(maximum(q_idx, 0), 4)] == 4",
        [IDS[:5]],
        [],
    ),
    "guarded indices": ("mask(c0: i64[1]) -> bool\n(kv_idx < 5) & (c0[kv_idx] == 4)", [IDS[:5]], []),
}


@pytest.mark.parametrize("name", list(EXACT))
def test_common_tests_are_exact_on_every_rectangle(name):
    text, captures, numbers = EXACT[name]
    structure = parse_structure(text)
    rectangles = every_rectangle(2, 12, 12)
    bounds = MaskBounds(structure.root, captures, numbers, batch=2, heads=1, q_len=12, kv_len=12)
    known = bounds.truth(rectangles)
    pairs = {
        "b": np.arange(2).reshape(-1, 1, 1),
        "h": np.zeros((1, 1, 1), np.int64),
        "q_idx": np.arange(12)[:, None],
        "kv_idx": np.arange(12),
    }
    visible = np.broadcast_to(evaluate(structure.root, pairs, captures, numbers).value, (2, 12, 12))
    assert np.array_equal(known.true, holds_any(rectangles, visible))
    assert np.array_equal(known.false, holds_any(rectangles, ~visible))


def test_wrapping_arithmetic_is_not_rearranged():
    # With wrap-around q_idx + n0 is negative for some queries, so it is not q_idx < kv_idx + something.
    structure = parse_structure("mask(n0: i64) -> bool\nq_idx + n0 < kv_idx")
    rectangles = every_rectangle(1, 4, 4)
    numbers = [2**63 - 2]
    bounds = MaskBounds(structure.root, (), numbers, batch=1, heads=1, q_len=4, kv_len=4)
    known = bounds.truth(rectangles)
    pairs = {"q_idx": np.arange(4)[:, None], "kv_idx": np.arange(4)}
    visible = evaluate(structure.root, pairs, (), numbers).value[None]
    assert visible.any()
    assert (known.true | ~holds_any(rectangles, visible)).all()
    assert (known.false | ~holds_any(rectangles, ~visible)).all()
