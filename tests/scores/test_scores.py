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
from saccade.scores import (
    Score,
    alibi,
    bias,
    checkerboard,
    distance_decay,
    graphormer_bias,
    head_scale,
    relative_bias,
    softcap,
    t5_bias,
)

PATHS = torch.zeros(4, 5, dtype=torch.int64)


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


@given(st.integers(1, 6), st.floats(0.01, 1))
def test_distance_decay_multiplies_weights_by_a_power_of_the_distance(heads, decay):
    scores = np.random.default_rng(0).normal(size=(1, heads, 4, 6))
    distance = abs(np.arange(4)[:, None] - np.arange(6))
    made = changed(distance_decay(decay), scores)
    np.testing.assert_allclose(np.exp(made), np.exp(scores) * decay**distance, rtol=1e-11)
    factors = np.linspace(decay / 2, decay, heads)
    made = changed(distance_decay(torch.tensor(factors)), scores)
    expected = np.exp(scores) * factors[:, None, None] ** distance
    np.testing.assert_allclose(np.exp(made), expected, rtol=1e-11)


@given(st.booleans(), st.booleans())
def test_graphormer_bias_adds_the_entry_of_the_distance(per_head, per_batch):
    generator = np.random.default_rng(1)
    table, distances = generator.normal(size=(3, 6)), generator.integers(-1, 5, size=(2, 4, 5))
    score = graphormer_bias(
        torch.tensor(table if per_head else table[0]), torch.tensor(distances if per_batch else distances[0])
    )
    made = changed(score, np.zeros((2, 3, 4, 5)))
    for b, h, q, kv in itertools.product(range(2), range(3), range(4), range(5)):
        # A pair without a path, -1, has the last entry, which no distance reads.
        entry = distances[b if per_batch else 0, q, kv] % 6
        assert made[b, h, q, kv] == table[h if per_head else 0, entry]


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
    scores += [softcap(2.0, approximate=True), checkerboard, head_scale(table[0]), head_scale(table[0] + 1)]
    scores += [distance_decay(0.5), distance_decay(0.75), distance_decay(table[0])]
    scores += [t5_bias(torch.zeros(4, 2), n, 8, both) for n, both in ((4, True), (4, False))]
    scores += [
        t5_bias(torch.zeros(4, 2), 4, 9),
        graphormer_bias(table, PATHS),
        graphormer_bias(table, PATHS + 1),
    ]
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
        (softcap(2.0, approximate=True), "softcap(2.0, approximate=True)"),
        (checkerboard, "checkerboard"),
        (head_scale(torch.ones(4)), "head_scale(float32[4])"),
        (distance_decay(0.5), "distance_decay(0.5)"),
        (t5_bias(torch.ones(32, 8)), "t5_bias(float32[32, 8])"),
        (
            t5_bias(torch.ones(4, 8), 4, bidirectional=False),
            "t5_bias(float32[4, 8], buckets=4, bidirectional=False)",
        ),
        (
            graphormer_bias(torch.ones(2, 5), PATHS),
            "graphormer_bias(table=float32[2, 5], distances=int64[4, 5])",
        ),
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
        (lambda: softcap(2.0, 1), ArgumentTypeError, "approximate must be True or False, got int 1"),
        (lambda: head_scale(torch.tensor([1])), DTypeError, "scale must be floating, got dtype=torch.int64"),
        (
            lambda: head_scale(torch.tensor(1.0)),
            ShapeError,
            r"scale must be \[Hq\].*got shape=\[\]; one number for all heads is flex_attention\(scale=...\)",
        ),
        (lambda: distance_decay(0), ArgumentError, "above 0 and at most 1, got decay=0; it is the factor"),
        (lambda: distance_decay(1.5), ArgumentError, "above 0 and at most 1, got decay=1.5"),
        (lambda: distance_decay(math.nan), ArgumentError, "above 0 and at most 1, got decay=nan"),
        (lambda: distance_decay("1"), ArgumentTypeError, r"a number or a tensor \[Hq\], got str '1'"),
        (lambda: distance_decay(True), ArgumentTypeError, r"a number or a tensor \[Hq\], got bool True"),
        (
            lambda: distance_decay(torch.tensor([1])),
            DTypeError,
            "decay must be floating, got dtype=torch.int64",
        ),
        (
            lambda: distance_decay(torch.ones(2, 2)),
            ShapeError,
            r"decay must be \[Hq\].*got shape=\[2, 2\]; for all heads alike pass a number",
        ),
        (
            lambda: graphormer_bias(PATHS, torch.ones(2, 2)),
            DTypeError,
            "table must be floating, got dtype=torch.int64; the distances are the second argument",
        ),
        (
            lambda: graphormer_bias(torch.ones(2, 2, 2), PATHS),
            ShapeError,
            r"table must be \[Hq, n\] or \[n\].*got shape=\[2, 2, 2\]",
        ),
        (
            lambda: graphormer_bias(torch.ones(2), torch.ones(2, 2)),
            DTypeError,
            r"distances must be integers, got dtype=torch.float32; write .long\(\), with -1",
        ),
        (
            lambda: graphormer_bias(torch.ones(2), PATHS[0]),
            ShapeError,
            r"distances must be \[Q, K\] or \[B, Q, K\], got shape=\[5\]",
        ),
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
