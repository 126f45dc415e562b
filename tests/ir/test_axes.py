"""Renaming reduction axes keeps the meaning and leaves none bound twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from ir.strategies import Case, score_structures
from saccade.ir.axes import free_axes, separate_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, const, make, var, walk
from saccade.ir.interpret import evaluate
from saccade.ir.ops import REDUCTIONS, Op

I64 = DType.INT64


def total(body: Expr, k: int, extent: int) -> Expr:
    return make(Op.SUM, (body,), (k, extent))


def add(a: Expr, b: Expr) -> Expr:
    return make(Op.ADD, (a, b))


def bound(root: Expr) -> list[int]:
    return [node.attr[0] for node in walk(root) if node.op in REDUCTIONS]


def test_free_axes():
    body = add(axis(0), axis(70))
    assert free_axes(body) == {0, 70}
    assert free_axes(total(body, 70, 3)) == {0}
    assert free_axes(var("q_idx")) == frozenset()


def test_siblings_are_separated():
    root = add(total(axis(0), 0, 2), total(axis(0), 0, 3))
    found = separate_axes(root)
    assert sorted(bound(found)) == [0, 1]
    assert evaluate(found, {}).value == 1 + 3


def test_an_inner_reduction_hides_an_outer_axis():
    inner = total(axis(0), 0, 3)  # 0 + 1 + 2
    root = total(make(Op.MUL, (inner, axis(0))), 0, 4)  # 3 * (0 + 1 + 2 + 3)
    found = separate_axes(root)
    assert len(set(bound(found))) == 2
    assert evaluate(found, {}).value == 18 == evaluate(root, {}).value


def test_a_reduction_shared_by_two_scopes():
    inner = total(add(axis(0), axis(1)), 1, 3)  # 3 * axis0 + 3
    root = add(total(inner, 0, 2), total(make(Op.MUL, (inner, const(2, I64))), 0, 3))
    found = separate_axes(root)
    assert len(bound(found)) == len(set(bound(found))) == 4
    assert evaluate(found, {}).value == 9 + 36


def test_free_and_taken_axes_are_kept():
    root = add(axis(0), total(add(axis(0), axis(1)), 1, 3))
    found = separate_axes(root, taken=[1, 2])
    assert free_axes(found) == {0}
    assert bound(found) == [3]
    assert evaluate(found, {}, axes={0: np.arange(2)}).value.tolist() == [3, 7]


def test_what_reads_no_axis_is_shared():
    closed = total(axis(0), 0, 3)
    found = separate_axes(total(add(closed, axis(1)), 1, 2))
    assert len(bound(found)) == 2


@given(score_structures())
def test_keeps_the_meaning(case: Case):
    variables = case.variables()
    root = add(case.structure.root, total(case.structure.root, 0, 2))
    found = separate_axes(root)
    assert len(bound(found)) == len(set(bound(found)))
    before, after = (evaluate(r, variables, case.captures, case.numbers) for r in (root, found))
    assert before.is_poisoned == after.is_poisoned
    if not before.is_poisoned:
        np.testing.assert_array_equal(before.value, after.value)
