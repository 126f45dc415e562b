"""Range extrema of captured tensors, over every range of small ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from saccade.analysis import captured
from saccade.analysis.captured import CapturedRanges
from saccade.analysis.identity import renumbered
from saccade.analysis.interval import Number, exactly
from saccade.ir.dtype import DType

rng = np.random.default_rng(5)


def every_range(size):
    """int64[N] first and last of every range."""
    first, last = np.array(list(itertools.combinations_with_replacement(range(size), 2))).T
    return first, last


def stretch(first, last):
    return Number(np.asarray(first), np.asarray(last))


ONE_DIMENSION = {
    "random": rng.integers(-100, 100, 67),
    "sorted": np.sort(rng.integers(-100, 100, 67)),
    "descending": -np.sort(rng.integers(-100, 100, 67)).astype(np.int32),
    "one": np.array([3], dtype=np.uint8),
    "two": np.array([3, -2], dtype=np.int8),
    "cells": rng.integers(-9, 9, 64).astype(np.int16),
}


@pytest.mark.parametrize("name", list(ONE_DIMENSION))
def test_one_moving_dimension_is_exact(name):
    values = ONE_DIMENSION[name]
    first, last = every_range(len(values))
    known = CapturedRanges(values, DType.INT64).bounds([stretch(first, last)], (0,))
    assert known.lo.dtype == np.int64
    assert known.poison is None
    assert known.lo.tolist() == [values[i : j + 1].min() for i, j in zip(first, last, strict=True)]
    assert known.hi.tolist() == [values[i : j + 1].max() for i, j in zip(first, last, strict=True)]


def test_large_tensors_take_larger_cells(monkeypatch):
    monkeypatch.setattr(captured, "_MOST_CELLS", 4)
    test_one_moving_dimension_is_exact("random")


def test_booleans_are_truths():
    values = rng.random(40) < 0.3
    first, last = every_range(40)
    known = CapturedRanges(values, DType.BOOL).bounds([stretch(first, last)], (0,))
    assert known.true.tolist() == [values[i : j + 1].any() for i, j in zip(first, last, strict=True)]
    assert known.false.tolist() == [not values[i : j + 1].all() for i, j in zip(first, last, strict=True)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_keep_nan_apart(dtype):
    values = rng.normal(size=50).astype(dtype)
    values[[3, 20, 21, 22]] = np.nan
    values[10] = -np.inf
    first, last = every_range(50)
    kind = DType.FLOAT64 if dtype is np.float64 else DType.FLOAT32
    known = CapturedRanges(values, kind).bounds([stretch(first, last)], (0,))
    for n, (i, j) in enumerate(zip(first, last, strict=True)):
        numbers = values[i : j + 1][~np.isnan(values[i : j + 1])]
        assert known.nan[n] or len(numbers) == j + 1 - i
        assert known.lo[n] <= known.hi[n]
        if len(numbers):
            assert (known.lo[n], known.hi[n]) == (numbers.min(), numbers.max())


def test_other_dimensions_select_a_row():
    values = rng.integers(0, 99, (3, 40, 2))
    first, last = every_range(40)
    count = len(first)
    b, c = rng.integers(0, 3, count), rng.integers(0, 2, count)
    indices = [exactly(b, DType.INT64), stretch(first, last), exactly(c, DType.INT64)]
    known = CapturedRanges(values, DType.INT64).bounds(indices, (1,))
    parts = [values[b[n], first[n] : last[n] + 1, c[n]] for n in range(count)]
    assert known.lo.tolist() == [part.min() for part in parts]
    assert known.hi.tolist() == [part.max() for part in parts]


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 17), (64, 64), (70, 130)])
def test_two_moving_dimensions_are_covered(shape):
    values = rng.integers(-1000, 1000, (2, *shape))
    count = 300
    row = rng.integers(0, 2, count)
    top, left = (rng.integers(0, size, count) for size in shape)
    bottom, right = (
        np.array([rng.integers(a, size) for a in x]) for x, size in ((top, shape[0]), (left, shape[1]))
    )
    indices = [exactly(row, DType.INT64), stretch(top, bottom), stretch(left, right)]
    known = CapturedRanges(values, DType.INT64).bounds(indices, (1, 2))
    for n in range(count):
        part = values[row[n], top[n] : bottom[n] + 1, left[n] : right[n] + 1]
        assert known.lo[n] <= part.min()
        assert known.hi[n] >= part.max()


def test_two_moving_dimensions_are_exact_on_aligned_blocks():
    values = rng.integers(-1000, 1000, (200, 160))
    top, left = (x.ravel() for x in np.meshgrid(np.arange(0, 200, 32), np.arange(0, 160, 32), indexing="ij"))
    bottom, right = np.minimum(top + 31, 199), np.minimum(left + 31, 159)
    known = CapturedRanges(values, DType.INT64).bounds([stretch(top, bottom), stretch(left, right)], (0, 1))
    parts = [values[a : b + 1, c : d + 1] for a, b, c, d in zip(top, bottom, left, right, strict=True)]
    assert known.lo.tolist() == [part.min() for part in parts]
    assert known.hi.tolist() == [part.max() for part in parts]


def test_two_moving_dimensions_are_exact_on_a_few_elements():
    values = rng.integers(-1000, 1000, (40, 50))
    top, left = (rng.integers(0, size - 4, 200) for size in values.shape)
    bottom, right = top + rng.integers(0, 4, 200), left + rng.integers(0, 4, 200)
    known = CapturedRanges(values, DType.INT64).bounds([stretch(top, bottom), stretch(left, right)], (0, 1))
    parts = [values[a : b + 1, c : d + 1] for a, b, c, d in zip(top, bottom, left, right, strict=True)]
    assert known.lo.tolist() == [part.min() for part in parts]
    assert known.hi.tolist() == [part.max() for part in parts]


def test_three_moving_dimensions_give_the_whole_row():
    values = rng.integers(0, 99, (2, 3, 4, 5))
    everything = [stretch(np.array([0]), np.array([1])) for _ in range(3)]
    known = CapturedRanges(values, DType.INT64).bounds(
        [exactly(np.array([1]), DType.INT64), *everything], (1, 2, 3)
    )
    assert (known.lo.tolist(), known.hi.tolist()) == ([values[1].min()], [values[1].max()])


def test_negative_indices_count_from_the_end():
    values = np.array([9, 1, 8, 2])
    first, last = np.array([-4, -1, -2, -9, 2, 0]), np.array([-3, -1, 1, -3, 7, 3])
    known = CapturedRanges(values, DType.INT64).bounds([stretch(first, last)], (0,))
    assert known.lo.tolist() == [1, 2, 1, 1, 2, 1]
    assert known.hi.tolist() == [9, 2, 9, 9, 8, 9]
    assert known.poison.tolist() == [False, False, False, True, True, False]


def test_empty_tensors_are_all_poison():
    known = CapturedRanges(np.zeros((3, 0)), DType.FLOAT64).bounds(
        [stretch([0], [1]), stretch([0], [1])], (0, 1)
    )
    assert known.poison.tolist() == [True]
    truth = CapturedRanges(np.zeros(0, bool), DType.BOOL).bounds([stretch([0], [1])], (0,))
    assert truth.poison.tolist() == [True]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7, 7, 7, 7, 3, 3, 3, 3, 7, 7, 7, 7], [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]),
        ([[0] * 8 + [-1] * 4, [5] * 8 + [2] * 4], [[0] * 8 + [1] * 4, [2] * 8 + [3] * 4]),
        # The second row begins with the id that the first ends with.
        (
            [[0] * 8 + [-1] * 4, [-1] * 4 + [2] * 4 + [-1] * 4],
            [[0] * 8 + [1] * 4, [2] * 4 + [3] * 4 + [2] * 4],
        ),
    ],
)
def test_renumbered_ids_are_equal_where_ids_are(ids, expected):
    new = renumbered(np.array(ids))
    assert new.tolist() == expected


@pytest.mark.parametrize("ids", [[1, 1, 2, 5], [[3, 4], [0, 1]], [4, 1, 3, 0], []])
def test_ids_that_ascend_or_change_too_often_stay(ids):
    ids = np.array(ids)
    assert renumbered(ids) is ids
