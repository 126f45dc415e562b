"""Rules keep value, NaN and poison; each is met, and what looks like a rule but is none is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from ir.strategies import Case, mask_structures, score_structures
from saccade.errors import ProgramError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, load, make, number, var, walk
from saccade.ir.interpret import evaluate
from saccade.ir.ops import INDEX_VARIABLES, Op
from saccade.ir.rewrite import RULES, Hole, Pattern, Rule, is_total, lower, simplify
from saccade.ir.structure import CaptureType
from saccade.ir.text import format_expression, parse_structure
from saccade.ir.verify import verify_expression

BOOL, I64, F32 = DType.BOOL, DType.INT64, DType.FLOAT32


def assert_equal_results(
    before: Expr, after: Expr, variables: dict[str, np.ndarray], *data: Sequence[Any]
) -> None:
    results = [evaluate(root, variables, *data) for root in (before, after)]
    shape = np.broadcast_shapes(*(array.shape for array in variables.values()))
    poisoned = [np.broadcast_to(0 if r.poison is None else r.poison, shape) != 0 for r in results]
    np.testing.assert_array_equal(*poisoned)
    values = [np.where(poisoned[0], 0, np.broadcast_to(r.value, shape)) for r in results]
    np.testing.assert_array_equal(*values)
    if values[0].dtype.kind == "f":
        np.testing.assert_array_equal(*(np.signbit(value) & ~np.isnan(value) for value in values))


def assert_same_meaning(case: Case, rewritten: Expr) -> None:
    assert_equal_results(case.structure.root, rewritten, case.variables(), case.captures, case.numbers)


@given(mask_structures())
def test_masks_keep_their_meaning(case: Case):
    assert_same_meaning(case, simplify(case.structure.root))


@given(score_structures())
def test_scores_keep_their_meaning(case: Case):
    assert_same_meaning(case, simplify(case.structure.root))


@given(score_structures(dtype=DType.FLOAT64))
def test_lowered_scores_keep_their_meaning(case: Case):
    lowered = lower(case.structure.root)
    assert_same_meaning(case, lowered)
    assert not any(node.op is Op.CUSTOM for node in walk(lowered))


# Each rule alone, on values with NaN, infinities, zeros of both signs and poison

FLOATS = np.array([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan], np.float32)
INTS = np.array([0, 1, -1, 2, -3, 63, -(2**63), 2**63 - 1])
TRUTHS = np.array([False, True])
# Of each type a table to load from; one index beyond its end is poison.
TABLES = {BOOL: (0, TRUTHS), I64: (1, INTS), F32: (2, FLOATS)}
CAPTURES = [CaptureType(dtype, 1) for dtype in TABLES]


def operand(dtype: DType, index: str) -> Expr:
    """An expression of `dtype` that takes every value of its table, and poison."""
    slot, table = TABLES[dtype]
    return load(slot, [make(Op.REMAINDER, (var(index), const(len(table) + 1, I64)))], dtype)


def instance(pattern: Pattern, holes: dict[Hole, Expr], dtype: DType) -> Expr:
    """A pattern filled in; literals take `dtype`."""
    if isinstance(pattern, Hole):
        return holes[pattern]
    if not isinstance(pattern, tuple):
        return const(pattern, dtype)
    return make(pattern[0], tuple(instance(part, holes, dtype) for part in pattern[1:]))


def holes_of(pattern: Pattern) -> list[Hole]:
    if isinstance(pattern, Hole):
        return [pattern]
    return [hole for part in pattern[1:] for hole in holes_of(part)] if isinstance(pattern, tuple) else []


def literal_types(pattern: Pattern) -> set[type]:
    if isinstance(pattern, tuple):
        return set().union(*(literal_types(part) for part in pattern[1:]))
    return set() if isinstance(pattern, Hole) else {type(pattern)}


def total_operand(dtype: DType) -> Expr:
    """An expression of `dtype` that cannot be poison."""
    if dtype is BOOL:
        return make(Op.LT, (var("q_idx"), var("kv_idx")))
    return var("h") if dtype is I64 else make(Op.CAST, (var("h"),), F32)


VARIABLE = {Hole("x"): "q_idx", Hole("y"): "kv_idx", Hole("z"): "h", Hole("c"): "b"}


def example(rule: Rule, dtype: DType) -> Expr:
    """The left side of a rule with x of `dtype`; poison wherever the rule allows it."""
    holes = {}
    for hole in holes_of(rule.before):
        kind = BOOL if hole == Hole("c") else dtype
        holes[hole] = total_operand(kind) if hole in rule.total else operand(kind, VARIABLE[hole])
    literals = BOOL if literal_types(rule.before) == {bool} else dtype
    return instance(rule.before, holes, literals)


def is_well_typed(root: Expr) -> bool:
    try:
        verify_expression(root, CAPTURES, (), variables=frozenset(INDEX_VARIABLES))
    except ProgramError:
        return False
    return True


CASES = [
    (rule, dtype)
    for rule in RULES
    for dtype in TABLES
    if dtype in rule.types and is_well_typed(example(rule, dtype))
]


@pytest.mark.parametrize(("rule", "dtype"), CASES)
def test_each_rule_fires_and_holds(rule: Rule, dtype: DType):
    before = example(rule, dtype)
    after = simplify(before)
    assert after is not before
    variables = {
        name: np.arange(9).reshape((-1,) + (1,) * place) for place, name in enumerate(INDEX_VARIABLES)
    }
    assert_equal_results(before, after, variables, [table for _, table in TABLES.values()], ())


def test_every_rule_has_a_case():
    assert {id(rule) for rule, _ in CASES} == {id(rule) for rule in RULES}


# What is folded, and what is not


def simplified(text: str) -> str:
    head = "score(c0: f32[1], c1: bool[1], n0: i64) -> f32\n"
    root = parse_structure(head + text).root
    return format_expression(simplify(root))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score + f32(1 + 2 * 3)", "score + 7.0"),
        ("score + f32(-7 // 2)", "score + -4.0"),
        ("score * sqrt(0.25)", "score * 0.5"),
        ("score + neg(0.0)", "score"),
        ("score - -0.0", "score + 0.0"),
        ("2.0 * score", "score * 2.0"),
        ("where(1 < 2, score, 0.0)", "score"),
        ("where(~(q_idx < h), score, 0.0)", "where(h <= q_idx, score, 0.0)"),
        ("where((True & (q_idx < h)) == True, score, 0.0)", "where(q_idx < h, score, 0.0)"),
        ("score + f32(q_idx % 1)", "score + 0.0"),
        ("score + f32(i64(f32(q_idx < h)))", "score + f32(q_idx < h)"),
        ("score + f32(f64(score))", "score + score"),
        ("score + f16(f16(score))", "score + f16(score)"),
        ("score + f32(i8(300))", "score + 44.0"),
        ("score + f16(0.1)", "score + 0.0999755859375"),
        ("score + f32(sum(axis0 < 3, n0))", "score + f32(n0 * 3)"),
        ("score + sum(axis0 < 0, c0[axis0])", "score + 0.0"),
        ("score + sum(axis0 < 1, c0[axis0 + h])", "score + c0[h]"),
        ("max(axis0 < 5, score)", "score"),
        ("floor(ceil(score))", "ceil(score)"),
    ],
)
def test_simplifies(text: str, expected: str):
    assert simplified(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "score + 0.0",  # -0.0 + 0.0 is 0.0
        "score * 0.0",  # NaN, infinities
        "score - score",
        "score / score",
        "0.0 - score",
        "where(c1[h], score, score)",  # the condition may be poison
        "score + f32(i64(c0[h]) * 0)",
        "where(c1[h] & ~c1[h], score, 0.0)",
        "where(c1[h] | ~c1[h], score, 0.0)",
        "f32(~(score < 1.0))",  # NaN is unordered
        "where(score == score, score, 0.0)",
        "where(score <= score, score, 0.0)",
        "sum(axis0 < 3, score)",  # rounds thrice
        "score + f32(q_idx // 0)",  # poison
        "score + f32(q_idx % 0 * 0)",
        "score + f32(1 // 0)",
        "c0[h] ** 0.0",
        "f16(score) + 0.0",
        "score + f32(f64(i64(score)))",
    ],
)
def test_leaves_alone(text: str):
    head = "score(c0: f32[1], c1: bool[1], n0: i64) -> f32\n"
    root = parse_structure(head + text).root
    assert simplify(root) is root


def test_logic_drops_decided_poison():
    """Kleene decides before poison is asked, so these need no totality."""
    assert simplified("where(c1[h] & False, score, 1.0)") == "1.0"
    assert simplified("where(c1[h] | True, score, 1.0)") == "score"


def test_total_expressions():
    assert is_total(make(Op.FLOOR_DIV, (var("q_idx"), const(2, I64))))
    assert is_total(load(0, [], F32))
    assert not is_total(make(Op.FLOOR_DIV, (var("q_idx"), number(0, I64))))
    assert not is_total(make(Op.ADD, (load(0, [var("h")], I64), const(1, I64))))


def test_simplifying_twice_changes_nothing():
    root = parse_structure("mask(n0: i64) -> bool\n~~(q_idx * 1 - -n0 < kv_idx + 0) & True").root
    once = simplify(root)
    assert format_expression(once) == "q_idx + n0 < kv_idx"
    assert simplify(once) is once


def test_lower_drops_custom_wherever_it_is():
    text = "score() -> f32\ntanh(custom(custom(score, score, cotangent) * 2.0, score, cotangent))"
    assert format_expression(lower(parse_structure(text).root)) == "tanh(score * 2.0)"


def test_simplify_keeps_the_users_gradient():
    root = parse_structure("score() -> f32\ncustom(score * 1.0, score, cotangent * 1.0)").root
    assert format_expression(simplify(root)) == "custom(score, score, cotangent)"


def test_thousands_of_nodes():
    root: Expr = var("score", F32)
    for _ in range(3000):
        root = make(Op.NEG, (make(Op.MUL, (make(Op.SIN, (root,)), const(1.0, F32))),))
    assert not any(node.op is Op.MUL for node in walk(simplify(root)))
