"""Every table keyed by `Op` has a row for every op, or a refusal that says why."""

from __future__ import annotations

import pytest

from saccade.ir.elementwise import ELEMENTWISE, REDUCE
from saccade.ir.grad import NO_GRADIENT, RULES
from saccade.ir.ops import INDEX_VARIABLES, OPS, REDUCTIONS, VALUE_TYPES, VARIABLES, Op, TypeRule
from saccade.ir.syntax import CALLS, INFIX, OWN_FORM, PREFIX, REDUCTION_NAMES

# Evaluated by `interpret` itself, for the reason given.
NOT_ELEMENTWISE = {
    Op.VAR: "given by the caller",
    Op.CONST: "its own value",
    Op.NUMBER: "given by the caller",
    Op.AXIS: "bound by a reduction",
    Op.LOAD: "reads a capture, or is poison",
    Op.CAST: "depends on its target: `convert`",
    Op.CUSTOM: "the value of its first argument",
}


@pytest.mark.parametrize("op", Op)
def test_every_op_is_described(op: Op):
    info = OPS[op]
    assert info.text.islower()
    assert info.meaning
    assert info.arity is None or info.arity >= 0


def test_names_in_text_are_unique():
    assert len({info.text for info in OPS.values()}) == len(Op)


@pytest.mark.parametrize("op", Op)
def test_every_op_is_written_in_one_way(op: Op):
    called = OPS[op].text in CALLS and CALLS[OPS[op].text] is op
    assert (op in INFIX) + (op in PREFIX) + (op in OWN_FORM) + (called and op is not Op.NEG) == 1
    assert (OPS[op].text in REDUCTION_NAMES) == (op in REDUCTIONS)


@pytest.mark.parametrize("op", Op)
def test_every_op_is_interpreted(op: Op):
    assert (op in ELEMENTWISE) + (op in REDUCE) + (op in NOT_ELEMENTWISE) == 1
    assert (op in REDUCE) == (op in REDUCTIONS)


@pytest.mark.parametrize("op", Op)
def test_every_op_has_a_gradient_or_a_reason(op: Op):
    assert (op in RULES) != bool(NO_GRADIENT.get(op))
    if OPS[op].rule in (TypeRule.INTEGER, TypeRule.LOGIC, TypeRule.COMPARE):
        assert op in NO_GRADIENT


def test_the_vocabulary_of_leaves():
    assert set(INDEX_VARIABLES) < set(VARIABLES)
    assert all(dtype.value_type is dtype for dtype in VALUE_TYPES)
