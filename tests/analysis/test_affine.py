"""Affine forms: what they collect, where they refuse, what they bound."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.analysis.affine import COMPARED_WITH_ZERO, Affine, Range, affine, fits
from saccade.analysis.interval import INT_MAX, INT_MIN, Number
from saccade.ir.dtype import DType
from saccade.ir.expr import const, load, make, number, var, walk
from saccade.ir.ops import Op

INT64 = DType.INT64
Q, K = var("q_idx"), var("kv_idx")
THREE = number(0, INT64)


def add(a, b):
    return make(Op.ADD, (a, b))


def sub(a, b):
    return make(Op.SUB, (a, b))


def mul(a, b):
    return make(Op.MUL, (a, b))


def form_of(root, limit=1000, **overrides):
    """The form where numbers are 3 and all else lies in 0..limit."""
    ranges = {}
    for node in walk(root):
        if node.op is Op.CONST:
            ranges[node] = Range(node.attr, node.attr, True)
        elif node.op is Op.NUMBER:
            ranges[node] = Range(3, 3, True)
        elif node.dtype is INT64:
            ranges[node] = Range(0, limit, False)
    ranges.update({node: overrides[node.op.name] for node in ranges if node.op.name in overrides})
    return affine(root, ranges), ranges


@pytest.mark.parametrize(
    ("root", "terms", "constant"),
    [
        (sub(add(Q, THREE), K), {Q: 1, K: -1}, 3),
        (sub(add(Q, K), K), {Q: 1, K: 0}, 0),
        (make(Op.NEG, (sub(Q, K),)), {Q: -1, K: 1}, 0),
        (make(Op.NOT, (Q,)), {Q: -1}, -1),
        (mul(THREE, add(Q, const(-1, INT64))), {Q: 3}, -3),
        (mul(Q, K), {mul(Q, K): 1}, 0),
        (make(Op.SHL, (add(Q, K), const(2, INT64))), {Q: 4, K: 4}, 0),
        (make(Op.SHL, (Q, K)), {make(Op.SHL, (Q, K)): 1}, 0),
        (make(Op.CAST, (sub(Q, K),), DType.INT32), {Q: 1, K: -1}, 0),
        (add(load(0, (Q,), INT64), make(Op.FLOOR_DIV, (Q, THREE))), None, 0),
    ],
)
def test_forms_collect_atoms(root, terms, constant):
    form, _ = form_of(root)
    if terms is None:
        terms = dict.fromkeys(root.args, 1)
    assert form.terms == terms
    assert form.constant == constant


@pytest.mark.parametrize(
    ("root", "overrides"),
    [
        (add(Q, K), {"VAR": Range(0, 2**62, False)}),
        (sub(Q, K), {"VAR": Range(INT_MIN, INT_MAX, False)}),
        (make(Op.NEG, (Q,)), {"VAR": Range(INT_MIN, 0, False)}),
        (mul(Q, THREE), {"NUMBER": Range(2**62, 2**62, True)}),
        (make(Op.SHL, (Q, THREE)), {"NUMBER": Range(63, 63, True)}),
        (make(Op.SHL, (Q, THREE)), {"NUMBER": Range(-1, -1, True)}),
        (make(Op.CAST, (Q,), DType.INT8), {}),
        (make(Op.CAST, (load(0, (Q,), DType.FLOAT32),), INT64), {}),
    ],
)
def test_what_may_wrap_or_is_no_sum_stays_an_atom(root, overrides):
    ranges = form_of(root, **overrides)[1] | {root: Range(0, 1, False)}
    assert affine(root, ranges).terms == {root: 1}


def test_a_node_whose_arguments_have_no_range_is_an_atom():
    root = sub(var("b"), Q)
    assert affine(root, {root: Range(0, 9, False), Q: Range(0, 9, False)}).terms == {root: 1}


def test_forms_that_may_leave_int64_do_not_fit():
    form, ranges = form_of(sub(Q, K))
    assert fits(form, ranges)
    assert fits(Affine({Q: 1}, INT_MAX - 1000), ranges)
    assert not fits(Affine({Q: 1}, INT_MAX - 999), ranges)
    assert not fits(Affine({Q: 2**60}, 0), ranges)


def test_bounds_use_each_atom_once():
    form = Affine({Q: 2, K: -3, THREE: 0}, 5)
    q_idx, kv_idx = Number(np.array([1]), np.array([4])), Number(np.array([10]), np.array([20]))
    poison = np.array([True])
    known = form.bounds([q_idx, kv_idx, Number(np.int64(0), np.int64(9), poison=poison)])
    assert known.lo.tolist() == [2 * 1 - 3 * 20 + 5]
    assert known.hi.tolist() == [2 * 4 - 3 * 10 + 5]
    assert known.poison.tolist() == [True]


def test_bounds_keep_congruences():
    q_idx = Number(np.array([0]), np.array([9]))
    known = Affine({Q: 4, K: 6}, 3).bounds([q_idx, q_idx])
    assert (known.modulus, known.residue) == (2, 1)
    assert COMPARED_WITH_ZERO[Op.EQ](known).true.tolist() == [False]
    assert COMPARED_WITH_ZERO[Op.NE](known).false.tolist() == [False]


def test_a_form_without_terms_is_its_constant():
    known = Affine({}, 7).bounds([])
    assert (int(known.lo), int(known.hi), known.constant) == (7, 7, 7)


@pytest.mark.parametrize("op", list(COMPARED_WITH_ZERO), ids=repr)
@pytest.mark.parametrize(("lo", "hi"), [(lo, hi) for lo in range(-2, 3) for hi in range(lo, 3)])
def test_comparisons_with_zero_are_exact(op, lo, hi):
    known = COMPARED_WITH_ZERO[op](Number(np.array([lo]), np.array([hi])))
    compare = {Op.EQ: np.equal, Op.NE: np.not_equal, Op.LT: np.less, Op.LE: np.less_equal}[op]
    outcomes = compare(np.arange(lo, hi + 1), 0)
    assert known.true.tolist() == [outcomes.any()]
    assert known.false.tolist() == [not outcomes.all()]
