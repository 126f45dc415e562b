"""Runs against dense tables of block kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saccade.analysis.runs import BlockKind, Runs

EMPTY, PARTIAL, FULL = BlockKind.EMPTY, BlockKind.PARTIAL, BlockKind.FULL

SHAPES = st.tuples(*(st.integers(0, 3) for _ in range(2)), *(st.integers(0, 6) for _ in range(2)))
TABLES = arrays(np.uint8, SHAPES, elements=st.integers(0, 2))

CAUSAL = np.array([[[[1, 0, 0], [2, 1, 0], [2, 2, 1]]]], dtype=np.uint8)


def test_causal_has_the_layout_the_docstring_states():
    runs = Runs.from_dense(CAUSAL)
    assert runs.shape == (1, 1, 3, 3)
    assert runs.offsets.tolist() == [0, 1, 3, 5]
    assert runs.start.tolist() == [0, 0, 1, 0, 2]
    assert runs.stop.tolist() == [1, 1, 2, 2, 3]
    assert runs.kind.tolist() == [PARTIAL, FULL, PARTIAL, FULL, PARTIAL]
    assert runs.nbytes == 4 * 8 + 5 * (4 + 4 + 1)


def test_row_lists_its_runs():
    runs = Runs.from_dense(np.concatenate([CAUSAL, CAUSAL[..., ::-1]], axis=1))
    assert runs.row(0, 0, 1) == [(0, 1, FULL), (1, 2, PARTIAL)]
    assert runs.row(0, 1, 0) == [(2, 3, PARTIAL)]
    assert runs.row(0, 1, 2) == [(0, 1, PARTIAL), (1, 3, FULL)]


def test_arrays_are_read_only():
    runs = Runs.from_dense(CAUSAL)
    for array in (runs.offsets, runs.start, runs.stop, runs.kind):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@given(TABLES)
def test_dense_table_returns(table):
    runs = Runs.from_dense(table)
    runs.check()
    assert np.array_equal(runs.to_dense(), table)
    assert runs.to_dense().dtype == np.uint8


@given(TABLES)
def test_transposed_equals_dense_transposition(table):
    transposed = Runs.from_dense(table).transposed()
    transposed.check()
    assert transposed == Runs.from_dense(table.swapaxes(2, 3))
    assert transposed.transposed() == Runs.from_dense(table)


@given(TABLES, st.randoms(use_true_random=False))
def test_rectangles_in_any_order_are_merged(table, random):
    b, h, row, col = np.nonzero(table)
    order = list(range(len(b)))
    random.shuffle(order)
    b, h, row, col = (x[order] for x in (b, h, row, col))
    _, heads, _, _ = table.shape
    runs = Runs.from_rectangles(
        table.shape,
        head=b * heads + h,
        top=row,
        bottom=row + 1,
        left=col,
        right=col + 1,
        kind=table[b, h, row, col],
    )
    runs.check()
    assert runs == Runs.from_dense(table)


def test_tall_rectangles_are_spread_over_their_rows():
    runs = Runs.from_rectangles(
        (1, 2, 4, 5),
        head=np.array([1, 0]),
        top=np.array([1, 0]),
        bottom=np.array([4, 2]),
        left=np.array([0, 2]),
        right=np.array([3, 5]),
        kind=np.array([FULL, PARTIAL], dtype=np.uint8),
    )
    table = np.zeros((1, 2, 4, 5), dtype=np.uint8)
    table[0, 1, 1:4, 0:3] = FULL
    table[0, 0, 0:2, 2:5] = PARTIAL
    assert runs == Runs.from_dense(table)


@given(TABLES)
def test_counts(table):
    runs = Runs.from_dense(table)
    assert runs.counts() == {kind: int((table == kind).sum()) for kind in BlockKind}
    assert np.array_equal(runs.row_counts(), (table != EMPTY).sum(axis=-1))
    for kind in (PARTIAL, FULL):
        assert np.array_equal(runs.row_counts(kind), (table == kind).sum(axis=-1))


@pytest.mark.parametrize(
    ("picks", "index"),
    [
        ({}, np.s_[:]),
        ({"batch": 1}, np.s_[1:2]),
        ({"heads": [2, 0, 0]}, np.s_[:, [2, 0, 0]]),
        ({"rows": slice(1, 3)}, np.s_[:, :, 1:3]),
        ({"rows": slice(2, 2)}, np.s_[:, :, 2:2]),
        ({"batch": slice(None, None, -1), "rows": np.array([3, 1])}, np.s_[::-1, :, [3, 1]]),
    ],
)
def test_take(picks, index):
    table = np.random.default_rng(3).integers(0, 3, (2, 3, 4, 6)).astype(np.uint8)
    taken = Runs.from_dense(table).take(**picks)
    taken.check()
    assert taken == Runs.from_dense(table[index])


def test_take_refuses_positions_out_of_range():
    with pytest.raises(IndexError, match="out of bounds"):
        Runs.from_dense(CAUSAL).take(rows=3)


@given(TABLES, st.data())
def test_take_columns(table, data):
    first = data.draw(st.integers(0, table.shape[3]))
    last = data.draw(st.integers(first, table.shape[3]))
    taken = Runs.from_dense(table).take_columns(first, last)
    taken.check()
    assert taken == Runs.from_dense(table[..., first:last])


def test_equality_compares_shape_and_runs():
    runs = Runs.from_dense(CAUSAL)
    assert runs == Runs.from_dense(CAUSAL.copy())
    assert runs != Runs.from_dense(CAUSAL[:, :, :2])
    assert runs != Runs.from_dense(np.where(CAUSAL == FULL, PARTIAL, CAUSAL))
    assert Runs.from_dense(np.zeros((1, 2, 1, 1))) != Runs.from_dense(np.zeros((2, 1, 1, 1)))
    assert runs != "runs"


def _with(**changes):
    runs = Runs.from_dense(CAUSAL)
    arrays = {name: getattr(runs, name) for name in ("shape", "offsets", "start", "stop", "kind")}
    return Runs(**{**arrays, **changes})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"offsets": np.array([0, 1, 3, 5], np.int32)}, "offsets are int64"),
        ({"shape": (1, 1, 4, 3)}, "one offset a row"),
        ({"offsets": np.array([1, 1, 3, 5])}, "begin with 0"),
        ({"offsets": np.array([0, 1, 3, 6])}, "end with the number"),
        ({"offsets": np.array([0, 4, 3, 5])}, "never descend"),
        ({"start": np.array([0, 0, 1, 0, 2])}, "columns are int32"),
        ({"kind": np.array([1, 2, 1, 2, 1])}, "kinds are uint8"),
        ({"kind": np.array([1, 2, 1, 2], np.uint8)}, "parallel"),
        ({"start": np.array([-1, 0, 1, 0, 2], np.int32)}, "not negative"),
        ({"start": np.array([1, 0, 1, 0, 2], np.int32)}, "no run is empty"),
        ({"stop": np.array([1, 1, 2, 2, 4], np.int32)}, "inside the table"),
        ({"kind": np.array([0, 2, 1, 2, 1], np.uint8)}, "PARTIAL or FULL"),
        ({"stop": np.array([1, 2, 2, 2, 3], np.int32)}, "disjoint"),
        ({"kind": np.array([1, 2, 2, 2, 1], np.uint8)}, "differ in kind"),
    ],
)
def test_check_finds_every_broken_invariant(changes, fault):
    with pytest.raises(AssertionError, match=fault):
        _with(**changes).check()


def test_a_million_tokens_of_causal_never_meet_a_matrix():
    count = 8192
    row = np.arange(count)
    runs = Runs.from_rectangles(
        (1, 1, count, count),
        head=np.zeros(2 * count - 1, np.int64),
        top=np.concatenate([row[1:], row]),
        bottom=np.concatenate([row[1:], row]) + 1,
        left=np.concatenate([0 * row[1:], row]),
        right=np.concatenate([row[1:], row + 1]),
        kind=np.repeat(np.array([FULL, PARTIAL], np.uint8), [count - 1, count]),
    )
    transposed = runs.transposed()
    transposed.check()
    assert transposed.row(0, 0, 5) == [(5, 6, PARTIAL), (6, count, FULL)]
    assert transposed.counts() == runs.counts()
    assert runs.nbytes < 1 << 20
