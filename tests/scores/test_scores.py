"""The library's scores: what they give, that they are values, and what they refuse."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catalogue import Sizes
from catalogue.scores import LIBRARY_SCORES
from oracle import modified_scores
from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.scores import Score, alibi, bias, relative_bias, softcap


def changed(score, scores):
    """[B, H, Q, K] numpy array."""
    everything = torch.ones(scores.shape, dtype=torch.bool)
    return modified_scores(score, torch.tensor(scores), everything).detach().numpy()


@given(st.integers(1, 20))
def test_alibi_lowers_by_the_distance_back(n_heads):
    scores = np.random.default_rng(0).normal(size=(1, n_heads, 3, 5))
    expected = scores.copy()
    for h, q, kv in itertools.product(range(n_heads), range(3), range(5)):
        expected[0, h, q, kv] += 2.0 ** (-8 * (h + 1) / n_heads) * (kv - q)
    np.testing.assert_allclose(changed(alibi(n_heads=n_heads), scores), expected, rtol=1e-12, atol=1e-15)
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / n_heads) for h in range(n_heads)], dtype=torch.float64)
    np.testing.assert_allclose(changed(alibi(slopes=slopes), scores), expected, rtol=1e-12, atol=1e-15)


@given(st.floats(0.01, 100))
def test_softcap_bounds_and_leaves_small_scores(cap):
    scores = np.linspace(-1000, 1000, 24).reshape(1, 2, 3, 4)
    made = changed(softcap(cap), scores)
    np.testing.assert_allclose(made, cap * np.tanh(scores / cap), rtol=1e-12)
    assert (abs(made) <= cap).all()
    small = np.full((1, 1, 1, 1), cap * 1e-6)
    np.testing.assert_allclose(changed(softcap(cap), small), small, rtol=1e-9)


@given(st.sets(st.integers(0, 3)), st.integers(2, 4))
def test_bias_adds_its_table_and_axes_of_size_one_broadcast(ones, axes):
    table = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    table = table[tuple(slice(1) if axis in ones else slice(None) for axis in range(4))][(0,) * (4 - axes)]
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(changed(bias(torch.tensor(table)), scores), scores + table)


@given(st.integers(1, 6), st.booleans())
def test_relative_bias_adds_the_entry_of_the_distance(n, per_head):
    table = np.random.default_rng(1).normal(size=(3, 2 * n - 1))
    scores = np.zeros((1, 3, n, n))
    made = changed(relative_bias(torch.tensor(table if per_head else table[0])), scores)
    for h, q, kv in itertools.product(range(3), range(n), range(n)):
        assert made[0, h, q, kv] == table[h if per_head else 0, kv - q + n - 1]


@pytest.mark.parametrize("case", LIBRARY_SCORES, ids=str)
def test_scores_made_alike_are_equal_and_survive_a_pickle(case):
    score, again = case.build(Sizes()).score, case.build(Sizes()).score
    assert isinstance(score, Score)
    for other in (again, pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):
        assert other == score
        assert hash(other) == hash(score)


def test_scores_of_different_meaning_differ():
    table = torch.zeros(3, 3)
    scores = [alibi(n_heads=2), alibi(n_heads=3), alibi(slopes=table[0]), softcap(2.0), softcap(3.0)]
    scores += [
        bias(table),
        bias(table + 1),
        bias(table.double()),
        relative_bias(table),
        relative_bias(table[0]),
    ]
    for i, one in enumerate(scores):
        for j, other in enumerate(scores):
            assert (one == other) == (i == j), (one, other)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (alibi(n_heads=8), "alibi(n_heads=8)"),
        (alibi(slopes=torch.ones(4)), "alibi(slopes=float32[4])"),
        (softcap(50.0), "softcap(50.0)"),
        (bias(torch.zeros(4, 5, dtype=torch.float64)), "bias(float64[4, 5])"),
        (relative_bias(torch.zeros(2, 7)), "relative_bias(float32[2, 7])"),
    ],
    ids=repr,
)
def test_a_score_prints_as_what_makes_it(score, text):
    assert repr(score) == text


def test_a_score_has_no_truth_value():
    with pytest.raises(ArgumentTypeError, match=r"got bool\(softcap\(2.0\)\).*`is None`"):
        bool(softcap(2.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: alibi(), ArgumentError, "expects n_heads, .* or slopes of your own; got none"),
        (lambda: alibi(2, torch.ones(2)), ArgumentError, "got both"),
        (lambda: alibi(0), ArgumentError, r"alibi\(\): n_heads must be at least 1, got 0"),
        (lambda: alibi(1.5), ArgumentTypeError, "n_heads must be an integer, got float 1.5"),
        (
            lambda: alibi(slopes=torch.tensor([1])),
            DTypeError,
            "slopes must be floating, got dtype=torch.int64",
        ),
        (lambda: alibi(slopes=torch.ones(2, 1)), ShapeError, r"slopes must be \[Hq\].*got shape=\[2, 1\]"),
        (
            lambda: alibi(slopes=[0.5]),
            ArgumentTypeError,
            r"alibi\(\): slopes must be a torch tensor, got list",
        ),
        (lambda: bias([[0.5]]), ArgumentTypeError, r"^bias\(\): table must be a torch tensor, got list"),
        (lambda: relative_bias([0.5]), ArgumentTypeError, r"relative_bias\(\): table must be a torch tensor"),
        (lambda: softcap(0), ArgumentError, "cap must be above 0 and finite, got cap=0"),
        (lambda: softcap(math.inf), ArgumentError, "above 0 and finite, got cap=inf"),
        (lambda: softcap(math.nan), ArgumentError, "above 0 and finite, got cap=nan"),
        (lambda: softcap("2"), ArgumentTypeError, "cap must be a number, got str '2'; for a learned cap"),
        (lambda: softcap(True), ArgumentTypeError, "cap must be a number, got bool True"),
        (lambda: bias(torch.ones(2, 2) > 0), DTypeError, r"floating, got dtype=torch.bool.*dense\(table\)"),
        (lambda: bias(torch.ones(2)), ShapeError, r"bias\(\): table must be \[Q, K\].*got shape=\[2\]"),
        (
            lambda: relative_bias(torch.tensor([1])),
            DTypeError,
            "table must be floating, got dtype=torch.int64",
        ),
        (
            lambda: relative_bias(torch.ones(2, 4)),
            ShapeError,
            r"an odd number of distances, got shape=\[2, 4\]",
        ),
        (
            lambda: relative_bias(torch.ones(1, 2, 3)),
            ShapeError,
            r"\[Hq, 2n - 1\] or \[2n - 1\].*\[1, 2, 3\]",
        ),
    ],
)
def test_an_argument_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
