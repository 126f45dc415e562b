"""Each row of the transfer table against the interpreter's values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from saccade.analysis.interval import INT_MAX, INT_MIN, Number, Truth, exactly, whole
from saccade.analysis.transfer import TRANSFER
from saccade.ir.dtype import DType
from saccade.ir.expr import axis, cast, const, load, make, number, var
from saccade.ir.interpret import evaluate
from saccade.ir.ops import OPS, Op, TypeRule

BOOL, INT64, FLOAT32, FLOAT64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64

SMALL = (-5, -3, -2, -1, 0, 1, 2, 4, 7)
LARGE = (INT_MIN, INT_MIN + 1, -(2**32), -3, 0, 1, 2**62, INT_MAX - 1, INT_MAX)
SHIFTS = (-70, -1, 0, 1, 2, 5, 62, 63, 64, 70)
REALS = (-np.inf, -1e38, -90.0, -1.0, -0.5, 0.0, 1e-40, 0.5, 3.0, 88.0, np.inf)
TAME = (-90.0, -2.5, -1.0, -0.5, 0.5, 1.0, 1.5, 3.0, 88.0)

INDICES = ("q_idx", "kv_idx", "h")


class NoScene:
    """The leaves' surroundings, for rows that have none."""


def every_value(node, samples):
    """The node's values for all combinations of its arguments' samples, and where they are poison."""
    count = len(samples)
    variables = {
        name: np.arange(len(values)).reshape([-1 if i == k else 1 for i in range(count)])
        for k, (name, values) in enumerate(zip(INDICES, samples, strict=False))
    }
    shape = tuple(len(values) for values in samples)
    captures = [
        np.array(values, np.dtype({INT64: "i8", FLOAT32: "f4", FLOAT64: "f8"}[arg.dtype]))
        for values, arg in zip(samples, node.args, strict=True)
    ]
    result = evaluate(node, variables, captures)
    poison = np.zeros(shape, bool) if result.poison is None else np.broadcast_to(result.poison != 0, shape)
    return np.broadcast_to(result.value, shape), poison, captures


def arguments(*dtypes):
    return tuple(load(slot, (var(INDICES[slot]),), dtype) for slot, dtype in enumerate(dtypes))


def assert_bounds(node, *samples):
    """Whatever stretch of its samples each argument is in, the value is inside what the row says."""
    values, poison, captures = every_value(node, samples)
    stretches = [[(i, j) for i in range(len(s)) for j in range(i, len(s))] for s in samples]
    cases = list(itertools.product(*stretches))
    args = []
    for position, capture in enumerate(captures):
        first, last = np.array([case[position] for case in cases]).T
        args.append(Number(capture[first], capture[last]))
    with np.errstate(all="ignore"):
        known = TRANSFER[node.op](node, args, NoScene())
    count = len(cases)
    for i, case in enumerate(cases):
        part = tuple(slice(first, last + 1) for first, last in case)
        assert_holds(known, i, count, values[part], poison[part], (node.op, case))


def assert_holds(known, i, count, values, poison, context):
    at = {name: _entry(getattr(known, name), i, count) for name in known.__slots__ if name not in _STATIC}
    assert not poison.any() or at["poison"], context
    sound = values[~poison]
    if isinstance(known, Truth):
        assert at["true"] or not sound.any(), context
        assert at["false"] or sound.all(), context
        return
    assert known.lo.dtype == values.dtype, context
    assert at["lo"] <= at["hi"], context
    if values.dtype.kind == "f":
        assert at["nan"] or not np.isnan(sound).any(), context
        sound = sound[~np.isnan(sound)]
    if sound.size:
        assert at["lo"] <= sound.min(), context
        assert at["hi"] >= sound.max(), context


_STATIC = ("modulus", "residue")


def _entry(array, i, count):
    return False if array is None else np.broadcast_to(array, (count,))[i]


def test_table_is_total():
    assert set(TRANSFER) == set(Op)


INTEGER_OPS = [
    op
    for op in Op
    if OPS[op].rule in (TypeRule.NUMERIC, TypeRule.INTEGER, TypeRule.LOGIC, TypeRule.COMPARE)
    and op not in (Op.SUM, Op.MAX, Op.MIN)
]
FLOAT_OPS = [
    op
    for op in Op
    if OPS[op].rule in (TypeRule.NUMERIC, TypeRule.FLOAT, TypeRule.COMPARE)
    and op not in (Op.SUM, Op.MAX, Op.MIN)
]


@pytest.mark.parametrize("op", INTEGER_OPS, ids=repr)
@pytest.mark.parametrize("samples", [SMALL, LARGE], ids=["small", "large"])
def test_integer_rows_hold_every_value(op, samples):
    others = SHIFTS if op in (Op.SHL, Op.SHR) else samples
    node = make(op, arguments(*[INT64] * OPS[op].arity))
    assert_bounds(node, *[samples, others][: OPS[op].arity])


@pytest.mark.parametrize("op", FLOAT_OPS, ids=repr)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
def test_float_rows_hold_every_value(op, dtype):
    arity = OPS[op].arity
    node = make(op, arguments(*[dtype] * arity))
    # Between infinities many rows give up; among tame numbers they must not.
    assert_bounds(node, *[REALS if dtype is FLOAT32 else TAME] * arity)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("op", [Op.SHL, Op.SHR], ids=repr)
def test_known_shifts(op, shift):
    for value in (*SMALL, *LARGE):
        node = make(op, (const(value, INT64), const(shift, INT64)))
        bounds = TRANSFER[op](node, [exactly(np.asarray(x), INT64) for x in (value, shift)], NoScene())
        assert bounds.lo <= evaluate(node, {}).value <= bounds.hi


@pytest.mark.parametrize("exponent", [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_known_exponents(exponent):
    base = load(0, (var("q_idx"),), FLOAT64)
    node = make(Op.POW, (base, const(exponent, FLOAT64)))
    samples = np.array([-np.inf, -2.0, -1.0, 0.0, 0.5, 3.0, np.inf])
    values = evaluate(node, {"q_idx": np.arange(len(samples))}, [samples]).value
    for i, j in itertools.combinations_with_replacement(range(len(samples)), 2):
        power = exactly(np.asarray(exponent), FLOAT64)
        with np.errstate(all="ignore"):
            known = TRANSFER[Op.POW](node, [Number(samples[i : i + 1], samples[j : j + 1]), power], NoScene())
        assert_holds(known, 0, 1, values[i : j + 1], np.zeros(j + 1 - i, bool), (exponent, i, j))


def test_even_powers_are_tight():
    node = make(Op.POW, (load(0, (var("q_idx"),), FLOAT64), const(2.0, FLOAT64)))
    two = exactly(np.asarray(2.0), FLOAT64)
    known = TRANSFER[Op.POW](node, [Number(np.array([-3.0]), np.array([2.0])), two], NoScene())
    assert known.nan is None
    assert -1e-300 <= known.lo[0] <= 0.0
    assert 9.0 <= known.hi[0] < 9.001


CAST_TARGETS = tuple(DType)


@pytest.mark.parametrize("target", CAST_TARGETS, ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("source", [INT64, FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
def test_casts_hold_every_value(source, target):
    node = make(Op.CAST, arguments(source), target)
    for samples in (SMALL, LARGE) if source is INT64 else (REALS, TAME):
        assert_bounds(node, samples)


def test_casts_of_nan_to_integers_may_give_anything():
    node = make(Op.CAST, arguments(FLOAT32), DType.INT8)
    value = Number(np.float32([3]), np.float32([3]), nan=np.array([True]))
    known = TRANSFER[Op.CAST](node, [value], NoScene())
    assert (known.lo.tolist(), known.hi.tolist()) == ([-128], [127])


SETS = ["".join(kept) for n in (1, 2, 3) for kept in itertools.combinations("TFP", n)]


def as_truth(kinds):
    return Truth(np.array(["T" in kinds]), np.array(["F" in kinds]), np.array(["P" in kinds]))


def as_kinds(truth):
    poison = truth.poison is not None and truth.poison.any()
    return "".join(
        kind for kind, may in zip("TFP", (truth.true.any(), truth.false.any(), poison), strict=True) if may
    )


def truth_of(op, args, attr=None):
    """The op on single truth values, by the interpreter: an index out of range stands for poison."""
    leaves = []
    for arg in args:
        index = const(1 if arg == "P" else 0, INT64)
        leaves.append(make(Op.EQ, (load(0, (index,), BOOL), const(arg != "F", BOOL))))
    result = evaluate(make(op, tuple(leaves), attr), {}, [np.array([True])])
    if result.is_poisoned:
        return "P"
    return "T" if result.value else "F"


@pytest.mark.parametrize(
    "op", [Op.AND, Op.OR, Op.XOR, Op.NOT, Op.EQ, Op.NE, Op.LT, Op.LE, Op.WHERE], ids=repr
)
def test_truth_rows_are_exact(op):
    arity = OPS[op].arity
    leaf = const(True, BOOL)
    node = make(op, (leaf,) * arity)
    outcomes = {args: truth_of(op, args) for args in itertools.product("TFP", repeat=arity)}
    for sets in itertools.product(SETS, repeat=arity):
        known = TRANSFER[op](node, [as_truth(kinds) for kinds in sets], NoScene())
        expected = {outcomes[args] for args in itertools.product(*sets)}
        assert set(as_kinds(known)) == expected, sets


@pytest.mark.parametrize("target", [BOOL, INT64, DType.UINT8, FLOAT32, DType.BFLOAT16], ids=lambda d: d.value)
def test_casts_of_truths(target):
    node = make(Op.CAST, (const(True, BOOL),), target)
    for kinds in SETS:
        known = TRANSFER[Op.CAST](node, [as_truth(kinds)], NoScene())
        if target is BOOL:
            assert as_kinds(known) == kinds
            continue
        assert known.lo.dtype == {INT64: np.int64, FLOAT32: np.float32}[target.value_type]
        assert known.lo[0] <= known.hi[0]
        assert not ("F" in kinds and known.lo[0] != 0)
        assert not ("T" in kinds and known.hi[0] != 1)
        assert known.poison[0] == ("P" in kinds)


def test_where_takes_the_hull_of_sides_that_may_be_taken():
    leaf = load(0, (), FLOAT32)
    node = make(Op.WHERE, (const(True, BOOL), leaf, leaf))
    low = Number(np.float32([1]), np.float32([2]), nan=np.array([True]))
    high = Number(np.float32([5]), np.float32([6]), poison=np.array([True]))
    expected = {
        "T": (1, 2, True, None),
        "F": (5, 6, None, True),
        "TF": (1, 6, True, True),
        "TP": (1, 2, True, True),
    }
    for kinds, (lo, hi, nan, poison) in expected.items():
        known = TRANSFER[Op.WHERE](node, [as_truth(kinds), low, high], NoScene())
        assert (known.lo[0], known.hi[0]) == (lo, hi)
        assert (known.nan is not None and known.nan[0]) == bool(nan)
        assert (known.poison is not None and known.poison[0]) == bool(poison)


@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE], ids=repr)
def test_nan_compares_false_except_to_ne(op):
    leaf = load(0, (), FLOAT32)
    value = Number(np.float32([3]), np.float32([3]), nan=np.array([True]))
    one = Number(np.float32([4]), np.float32([4]))
    known = TRANSFER[op](make(op, (leaf, leaf)), [value, one], NoScene())
    assert as_kinds(known) == {Op.EQ: "F", Op.NE: "T", Op.LT: "TF", Op.LE: "TF"}[op]


@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE], ids=repr)
def test_comparisons_of_numbers_are_exact(op):
    stretches = list(itertools.combinations_with_replacement(range(4), 2))
    leaf = load(0, (), FLOAT32)
    compare = {Op.EQ: np.equal, Op.NE: np.not_equal, Op.LT: np.less, Op.LE: np.less_equal}[op]
    for a, b in itertools.product(stretches, repeat=2):
        sides = [Number(np.float32([lo]), np.float32([hi])) for lo, hi in (a, b)]
        known = TRANSFER[op](make(op, (leaf, leaf)), sides, NoScene())
        outcomes = compare.outer(np.arange(a[0], a[1] + 1), np.arange(b[0], b[1] + 1))
        assert known.true.tolist() == [outcomes.any()]
        assert known.false.tolist() == [not outcomes.all()]


@pytest.mark.parametrize("extent", [0, 1, 3, 1000])
@pytest.mark.parametrize("dtype", [INT64, FLOAT32], ids=lambda dtype: dtype.value)
def test_sums_multiply_their_terms_range(dtype, extent):
    node = make(Op.SUM, (cast(axis(0), dtype),), (0, extent))
    kind = np.int64 if dtype is INT64 else np.float32
    known = TRANSFER[Op.SUM](node, [Number(kind([-1]), kind([2]))], NoScene())
    assert -extent * 1.01 - 1e-6 <= known.lo.min() <= -extent
    assert extent * 2 <= known.hi.max() <= extent * 2.01 + 1e-6
    infinite = Number(np.float32([0]), np.float32([np.inf]))
    if dtype is FLOAT32 and extent:
        assert np.isinf(TRANSFER[Op.SUM](node, [infinite], NoScene()).hi).all()


def test_leaves():
    class Scene:
        def variable(self, name):
            return {"q_idx": Number(np.array([2]), np.array([5]))}[name]

        def number(self, slot):
            return (7, 0.5)[slot]

        def axis(self, k):
            return Number(np.int64(0), np.int64(k))

    q_idx = var("q_idx")
    assert TRANSFER[Op.VAR](q_idx, [], Scene()).hi.tolist() == [5]
    unknown = TRANSFER[Op.VAR](var("score", FLOAT32), [], Scene())
    assert (float(unknown.lo), float(unknown.hi), bool(unknown.nan)) == (-np.inf, np.inf, True)
    assert TRANSFER[Op.CONST](const(3, INT64), [], Scene()).constant == 3
    assert TRANSFER[Op.NUMBER](number(0, INT64), [], Scene()).constant == 7
    assert float(TRANSFER[Op.NUMBER](number(1, FLOAT32), [], Scene()).lo) == 0.5
    assert int(TRANSFER[Op.AXIS](axis(4), [], Scene()).hi) == 4
    tanh = make(Op.TANH, (var("score", FLOAT32),))
    custom = make(Op.CUSTOM, (tanh, var("score", FLOAT32), tanh), 1)
    assert TRANSFER[Op.CUSTOM](custom, [unknown], Scene()) is unknown


def test_constant_nan_is_all_but_no_number():
    known = TRANSFER[Op.CONST](const(np.nan, FLOAT64), [], NoScene())
    assert bool(known.nan)
    assert known.lo <= known.hi


def test_whole_integers_have_no_nan():
    assert (whole(INT64).lo, whole(INT64).hi, whole(INT64).nan) == (INT_MIN, INT_MAX, None)


CONGRUENCES = [(0, 5), (0, -3), (0, 0), (1, 0), (2, 1), (4, 2), (6, 3), (12, 7)]


def members(modulus, residue):
    return [residue] if modulus == 0 else [residue + modulus * k for k in range(-3, 4)]


@pytest.mark.parametrize(
    "op", [Op.ADD, Op.SUB, Op.MUL, Op.FLOOR_DIV, Op.REMAINDER, Op.AND, Op.SHL, Op.EQ], ids=repr
)
def test_congruences_hold(op):
    node = make(op, arguments(INT64, INT64))
    for a, b in itertools.product(CONGRUENCES, repeat=2):
        left, right = (np.array(members(*known)) for known in (a, b))
        args = [Number(x.min(), x.max(), None, None, *known) for x, known in ((left, a), (right, b))]
        with np.errstate(all="ignore"):
            known = TRANSFER[op](node, args, NoScene())
        pairs = {"q_idx": np.arange(len(left))[:, None], "kv_idx": np.arange(len(right))}
        result = evaluate(node, pairs, [left, right])
        shape = (len(left), len(right))
        values = np.broadcast_to(result.value, shape)
        if result.poison is not None:
            values = values[np.broadcast_to(result.poison == 0, shape)]
        if op is Op.EQ:
            assert known.true.any() or not values.any()
        elif known.modulus == 0:
            assert (values == known.residue).all(), (a, b)
        else:
            assert (values % known.modulus == known.residue).all(), (a, b)


def test_congruences_decide():
    q_idx = Number(np.array([0]), np.array([99]))
    two, three = (exactly(np.asarray(n), INT64) for n in (2, 3))
    leaf = var("q_idx")
    even = TRANSFER[Op.MUL](make(Op.MUL, (leaf, leaf)), [q_idx, two], NoScene())
    assert (even.modulus, even.residue) == (2, 0)
    odd = TRANSFER[Op.ADD](make(Op.ADD, (leaf, leaf)), [even, three], NoScene())
    assert TRANSFER[Op.REMAINDER](make(Op.REMAINDER, (leaf, leaf)), [odd, two], NoScene()).constant == 1
    assert as_kinds(TRANSFER[Op.EQ](make(Op.EQ, (leaf, leaf)), [even, odd], NoScene())) == "F"


@pytest.mark.parametrize("width", [8, 12])
def test_quotients_and_remainders_are_exact_within_one_row(width):
    first = np.arange(0, 5 * width, width)
    positions = Number(first + 1, first + width - 1)
    size = exactly(np.asarray(width), INT64)
    leaf = var("q_idx")
    row = TRANSFER[Op.FLOOR_DIV](make(Op.FLOOR_DIV, (leaf, leaf)), [positions, size], NoScene())
    col = TRANSFER[Op.REMAINDER](make(Op.REMAINDER, (leaf, leaf)), [positions, size], NoScene())
    assert row.lo.tolist() == row.hi.tolist() == [0, 1, 2, 3, 4]
    assert set(col.lo.tolist()) == {1}
    assert set(col.hi.tolist()) == {width - 1}


def test_masking_with_ones_is_a_remainder():
    leaf = var("q_idx")
    ones = exactly(np.asarray(15), INT64)
    known = TRANSFER[Op.AND](
        make(Op.AND, (leaf, leaf)), [Number(np.array([-6]), np.array([-3])), ones], NoScene()
    )
    assert (known.lo.tolist(), known.hi.tolist()) == ([10], [13])
