"""Block kinds against brute force, and the faults that must be found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue import MASK_CASES, Sizes
from ir.strategies import mask_structures
from saccade.analysis import classify as classification
from saccade.analysis.classify import classify
from saccade.analysis.runs import BlockKind
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError
from saccade.ir.interpret import evaluate
from saccade.ir.text import parse_structure
from saccade.tracing import trace

EMPTY, PARTIAL, FULL = BlockKind.EMPTY, BlockKind.PARTIAL, BlockKind.FULL


def kinds(structure, captures=(), numbers=(), names=(), *, batch=1, heads=1, q_len, kv_len, block=(2, 3)):
    runs = classify(
        structure,
        captures,
        numbers,
        names,
        batch=batch,
        heads=heads,
        q_len=q_len,
        kv_len=kv_len,
        q_block=block[0],
        kv_block=block[1],
    )
    runs.check()
    return runs.to_dense()


def of_text(text, captures=(), numbers=(), **sizes):
    return kinds(
        parse_structure(text), captures, numbers, [f"table{i}" for i in range(len(captures))], **sizes
    )


def brute_force(visible, block):
    """The kinds of a bool table [B, H, Q, K]."""
    batch, heads, q_len, kv_len = visible.shape
    rows, cols = -(-q_len // block[0]), -(-kv_len // block[1])
    table = np.empty((batch, heads, rows, cols), np.uint8)
    for i in range(rows):
        for j in range(cols):
            part = visible[:, :, i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]]
            mixed = np.where(part.any(axis=(2, 3)), PARTIAL, EMPTY)
            table[:, :, i, j] = np.where(part.all(axis=(2, 3)), FULL, mixed)
    return table


def pairs(batch, heads, q_len, kv_len):
    return {
        "b": np.arange(batch).reshape(-1, 1, 1, 1),
        "h": np.arange(heads).reshape(-1, 1, 1),
        "q_idx": np.arange(q_len)[:, None],
        "kv_idx": np.arange(kv_len),
    }


BLOCKS = st.sampled_from([(1, 1), (1, 2), (2, 3), (3, 2), (4, 4), (8, 8), (16, 1)])


@given(mask_structures(), BLOCKS)
def test_random_programs_are_classified_exactly_or_raise(case, block):
    sizes = {"batch": 2, "heads": 2, "q_len": 5, "kv_len": 7}
    result = evaluate(case.structure.root, pairs(**sizes), case.captures, case.numbers)
    if result.is_poisoned:
        with pytest.raises((IndexOutOfRangeError, DivisionByZeroError), match="guard"):
            kinds(case.structure, case.captures, case.numbers, block=block, **sizes)
        return
    visible = np.broadcast_to(result.value, (2, 2, 5, 7))
    found = kinds(case.structure, case.captures, case.numbers, block=block, **sizes)
    assert np.array_equal(found, brute_force(visible, block))


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
@pytest.mark.parametrize(("q_len", "kv_len"), [(33, 57), (64, 64), (50, 9)])
def test_catalogue(case, q_len, kv_len):
    sizes = {"batch": 2, "heads": 2, "q_len": q_len, "kv_len": kv_len}
    program = trace(case.build(Sizes(**sizes)).mask)
    captures = [np.asarray(capture) for capture in program.captures]
    result = evaluate(program.root, pairs(**sizes), captures, program.numbers)
    assert not result.is_poisoned
    visible = np.broadcast_to(result.value, (2, 2, q_len, kv_len))
    for block in ((8, 8), (7, 16)):
        found = kinds(program.structure, captures, program.numbers, program.names, block=block, **sizes)
        assert np.array_equal(found, brute_force(visible, block))


def test_ragged_blocks_are_judged_by_pairs_inside_the_lengths():
    # Row 4 is the only row of its block; keys 6 and 7 are the only ones of theirs.
    found = of_text("mask() -> bool\n(q_idx == 4) | (6 <= kv_idx)", q_len=5, kv_len=8, block=(4, 6))
    assert found[0, 0].tolist() == [[EMPTY, FULL], [FULL, FULL]]


@pytest.mark.parametrize(("q_len", "kv_len"), [(0, 5), (5, 0), (0, 0)])
def test_no_pairs_have_no_blocks(q_len, kv_len):
    shape = kinds(parse_structure("mask() -> bool\nTrue"), q_len=q_len, kv_len=kv_len).shape
    assert shape == (1, 1, -(-q_len // 2), -(-kv_len // 3))


def test_heads_and_batches_are_separate():
    lengths = np.array([[0, 3], [6, 9]])
    found = of_text(
        "mask(c0: i64[2]) -> bool\nkv_idx < c0[b, h]",
        [lengths],
        batch=2,
        heads=2,
        q_len=2,
        kv_len=9,
        block=(2, 3),
    )
    expected = [[[EMPTY] * 3, [FULL, EMPTY, EMPTY]], [[FULL, FULL, EMPTY], [FULL] * 3]]
    assert found[:, :, 0].tolist() == expected


UNORDERED = np.repeat([[3, 1, 2, 0, 3], [1, 1, 3, 0, 2]], 5, axis=1)
GROWING = np.arange(60) ** 2

CORRELATED = {
    "ids of one row": ("mask(c0: i64[2]) -> bool\nc0[b, q_idx] == c0[b, kv_idx]", UNORDERED),
    "ids of two rows": ("mask(c0: i64[2]) -> bool\nc0[0, q_idx] == c0[1, kv_idx]", UNORDERED),
    "ids by a row that moves": (
        "mask(c0: i64[2]) -> bool\nc0[q_idx % 2, q_idx] == c0[q_idx % 2, kv_idx]",
        UNORDERED,
    ),
    "a sum": ("mask(c0: i64[1]) -> bool\nsum(axis0 < 3, c0[3 * q_idx + axis0]) < 400 * kv_idx", GROWING),
    "sums over one axis": (
        "mask(c0: i64[1]) -> bool\nsum(axis0 < 1, c0[q_idx + axis0]) < sum(axis0 < 9, c0[kv_idx + axis0])",
        GROWING,
    ),
    "a largest element": (
        "mask(c0: i64[1]) -> bool\nmax(axis0 < 9, c0[q_idx + axis0]) <= c0[2 * kv_idx]",
        GROWING,
    ),
}


@pytest.mark.parametrize("name", list(CORRELATED))
def test_lookups_and_reductions(name):
    text, table = CORRELATED[name]
    sizes = {"batch": 2, "heads": 1, "q_len": 20, "kv_len": 20}
    visible = evaluate(parse_structure(text).root, pairs(**sizes), [table]).value
    visible = np.broadcast_to(visible, (2, 1, 20, 20))
    assert visible.any()
    assert not visible.all()
    for block in ((1, 1), (5, 5), (4, 6)):
        assert np.array_equal(of_text(text, [table], block=block, **sizes), brute_force(visible, block))


@pytest.mark.parametrize("squares", [1, 3])
@pytest.mark.parametrize("at_once", [1, 40])
def test_small_chunks_change_nothing(monkeypatch, squares, at_once):
    monkeypatch.setattr(classification, "_SQUARES_AT_ONCE", squares)
    monkeypatch.setattr(classification, "_PAIRS_AT_ONCE", at_once)
    table = np.random.default_rng(1).random((2, 30, 23)) < 0.9
    found = of_text(
        "mask(c0: bool[3]) -> bool\nc0[b, q_idx, kv_idx]", [table], batch=2, q_len=30, kv_len=23, block=(2, 3)
    )
    assert np.array_equal(found, brute_force(table[:, None], (2, 3)))


def test_an_index_out_of_range_that_decides_raises():
    with pytest.raises(IndexOutOfRangeError, match=r"table0 has 5 entries in dimension 0, got index 5"):
        of_text("mask(c0: bool[1]) -> bool\nc0[kv_idx]", [np.ones(5, bool)], q_len=4, kv_len=6)


def test_a_division_by_zero_that_decides_raises():
    with pytest.raises(DivisionByZeroError, match=r"got 0 in .* at \(b=0, h=0, q_idx=0, kv_idx=3\)"):
        of_text("mask() -> bool\nq_idx // (kv_idx - 3) == 0", q_len=4, kv_len=6)


def test_poison_that_decides_nothing_is_silent():
    found = of_text(
        "mask(c0: bool[1]) -> bool\n(kv_idx < 5) & c0[kv_idx]",
        [np.ones(5, bool)],
        q_len=2,
        kv_len=9,
        block=(2, 3),
    )
    assert found[0, 0].tolist() == [[FULL, PARTIAL, EMPTY]]


def test_poison_is_found_in_a_block_that_witnesses_would_settle():
    # One poisoned pair, amid a causal pattern that two corners show to be PARTIAL.
    where = np.zeros(64, np.int64)
    where[41] = 99
    text = "mask(c0: i64[1], c1: bool[1]) -> bool\n(kv_idx <= q_idx) & ((kv_idx < q_idx) | c1[c0[q_idx]])"
    with pytest.raises(IndexOutOfRangeError, match="q_idx=41, kv_idx=41"):
        of_text(text, [where, np.ones(4, bool)], q_len=64, kv_len=64, block=(64, 64))


def test_a_certain_fault_in_a_large_mask_is_found_at_once():
    structure = parse_structure("mask(c0: bool[1]) -> bool\nc0[q_idx + 7]")
    with pytest.raises(IndexOutOfRangeError, match="got index"):
        kinds(structure, [np.ones(4, bool)], (), ["keep"], q_len=2**20, kv_len=2**20, block=(128, 128))


MILLION = 1 << 20


def test_a_million_tokens():
    lengths = np.random.default_rng(0).integers(100, 30_000, 200)
    ids = np.repeat(np.arange(200), lengths)[:MILLION]
    structure = parse_structure(
        "mask(document: i64[1]) -> bool\n(document[q_idx] == document[kv_idx]) & (kv_idx <= q_idx)"
    )
    sizes = {"q_len": MILLION, "kv_len": MILLION, "q_block": 128, "kv_block": 128}
    runs = classify(structure, [ids], (), (), batch=1, heads=1, **sizes)
    assert runs.nbytes < 8 << 20
    assert runs.shape == (1, 1, 8192, 8192)
    for row in (0, 1, 777, 8191):
        first_id, last_id = ids[row * 128], ids[row * 128 + 127]
        left = np.searchsorted(ids, first_id) // 128
        span = runs.row(0, 0, row)
        assert span[0][0] == left
        assert span[-1][1] == row + 1
        if first_id == last_id:
            inside = -(-int(np.searchsorted(ids, first_id)) // 128)
            assert [run for run in span if run[2] is FULL] == ([(inside, row, FULL)] if inside < row else [])
