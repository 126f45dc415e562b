"""The table of operations: total over `Op`, and each row on the values where arithmetic is hard."""

from __future__ import annotations

import numpy as np
import pytest

from codegen.cpu.program.grid_kernel import Grid, host_isas
from codegen.cpu.program.test_code import assert_equal
from saccade.codegen.cpu.program.operations import ELSEWHERE, OPERATIONS
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.expr import Expr, cast, const, load, make, var
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import CaptureType, ModKind, Structure

BOOL, INT64, FLOAT32, FLOAT64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
ISAS = host_isas()

WIDE = [0, 1, -1, 2, 3, -7, 31, 32, 63, 64, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63)]
NARROW = [0, 1, -1, 2, 3, -7, 10, 31, 32, 63, 64, 1000003, 2**31 - 1, -(2**31), -(2**31) + 1, 12345]
REAL = [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 3.5, 1e-40, 65504.0, 65519.0, 65520.0, 3.0e38, 2.0**31, 2.0**63]
REAL += [-(2.0**31), -(2.0**63), 255.9, -129.0, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875, 6e-8]


@pytest.mark.parametrize("op", Op)
def test_every_op_has_a_row_or_a_reason(op: Op):
    assert (op in OPERATIONS) != bool(ELSEWHERE.get(op))


def over(a: list[float], b: list[float], stored: DType, body: object) -> Grid:
    """A program of `a[q_idx]` and `b[kv_idx]` at every pair of their values; its result becomes a score."""
    value_type = stored.value_type
    x = load(0, [var("q_idx")], value_type)
    y = load(1, [var("kv_idx")], value_type)
    root: Expr = body(x, y)  # type: ignore[operator]
    kind = ModKind.MASK if root.dtype is BOOL else ModKind.SCORE
    captures = tuple(np.array(values).astype(NUMPY_TYPE[stored]) for values in (a, b))
    structure = Structure(kind, root, (CaptureType(stored, 1),) * 2)
    return Grid(structure, captures, batch=1, heads=1, q_len=len(a), kv_len=len(b))


def low_bits(value: Expr) -> Expr:
    """What a FLOAT64 can hold of an int64: its low 52 bits."""
    return cast(make(Op.AND, (value, const(2**52 - 1, INT64))), FLOAT64)


def high_bits(value: Expr) -> Expr:
    return cast(make(Op.SHR, (value, const(12, INT64))), FLOAT64)


INTEGER_OPS = [
    op
    for op in Op
    if OPS[op].rule in (TypeRule.NUMERIC, TypeRule.INTEGER, TypeRule.LOGIC)
    and OPS[op].arity in (1, 2)
    and op not in (Op.SUM, Op.MAX, Op.MIN)
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("view", [low_bits, high_bits])
@pytest.mark.parametrize(("stored", "values"), [(INT64, WIDE), (DType.INT32, NARROW)], ids=["wide", "narrow"])
@pytest.mark.parametrize("op", INTEGER_OPS)
def test_integers(op: Op, stored: DType, values: list[float], view: object, isa: str):
    arity = OPS[op].arity
    assert_equal(over(values, values, stored, lambda x, y: view(make(op, (x, y)[:arity]))), isa)  # type: ignore[operator]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("divisor", [0, 1, -1, 2, -2, 3, -3, 7, 64, 2**31 - 1, -(2**31), 2**40, -(2**63)])
@pytest.mark.parametrize("op", [Op.FLOOR_DIV, Op.REMAINDER])
@pytest.mark.parametrize(("stored", "values"), [(INT64, WIDE), (DType.INT32, NARROW)], ids=["wide", "narrow"])
def test_constant_divisors(op: Op, divisor: int, stored: DType, values: list[float], isa: str):
    def body(x: Expr, y: Expr) -> Expr:
        return cast(make(op, (make(Op.XOR, (x, y)), const(divisor, INT64))), FLOAT64)

    assert_equal(over(values, [0, -1], stored, body), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", [DType.INT32, INT64], ids=["narrow", "wide"])
@pytest.mark.parametrize("op", [Op.FLOOR_DIV, Op.REMAINDER])
def test_quotients_next_to_whole_ones(op: Op, stored: DType, isa: str):
    """Dividends one off a multiple: what a rounded quotient gets wrong first."""
    draw = np.random.default_rng(3)
    divisors = draw.integers(-(2**31), 2**31, 48)
    divisors[::2] >>= draw.integers(0, 31, 24)
    near = divisors[:32] * draw.integers(-3, 4, 32) + draw.integers(-1, 2, 32)
    dividends = np.clip(near, -(2**31), 2**31 - 1)
    grid = over(dividends.tolist(), divisors.tolist(), stored, lambda x, y: cast(make(op, (x, y)), FLOAT64))
    assert_equal(grid, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("amount", [0, 1, 31, 32, 33, 63, 64, -1, 2**32])
@pytest.mark.parametrize("op", [Op.SHL, Op.SHR])
@pytest.mark.parametrize(("stored", "values"), [(INT64, WIDE), (DType.INT32, NARROW)], ids=["wide", "narrow"])
def test_constant_shifts(op: Op, amount: int, stored: DType, values: list[float], isa: str):
    def body(x: Expr, y: Expr) -> Expr:
        return cast(make(op, (make(Op.XOR, (x, y)), const(amount, INT64))), FLOAT64)

    assert_equal(over(values, [0, -1], stored, body), isa)


FLOAT_OPS = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.REMAINDER, Op.MINIMUM, Op.MAXIMUM, Op.NEG, Op.ABS]
FLOAT_OPS += [Op.SQRT, Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", [FLOAT32, FLOAT64], ids=["f32", "f64"])
@pytest.mark.parametrize("op", FLOAT_OPS)
def test_floats(op: Op, stored: DType, isa: str):
    arity = OPS[op].arity
    assert_equal(over(REAL, REAL, stored, lambda x, y: make(op, (x, y)[:arity])), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("known_first", [True, False])
@pytest.mark.parametrize("op", [Op.MINIMUM, Op.MAXIMUM])
def test_nan_beside_what_is_known_to_be_a_number(op: Op, known_first: bool, isa: str):
    for known in (
        const(1.0, FLOAT32),
        const(0.0, FLOAT32),
        const(np.nan, FLOAT32),
        cast(var("kv_idx"), FLOAT32),
    ):

        def body(x: Expr, y: Expr, known: Expr = known) -> Expr:
            return make(op, (known, x) if known_first else (x, known))

        assert_equal(over(REAL, REAL, FLOAT32, body), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", [FLOAT32, FLOAT64], ids=["f32", "f64"])
@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE])
def test_comparisons_of_floats(op: Op, stored: DType, isa: str):
    assert_equal(over(REAL, REAL, stored, lambda x, y: make(op, (x, y))), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE, Op.AND, Op.OR, Op.XOR])
@pytest.mark.parametrize(
    ("stored", "values"),
    [(BOOL, [0, 1]), (INT64, WIDE), (DType.INT32, NARROW)],
    ids=["bool", "wide", "narrow"],
)
def test_truths(op: Op, stored: DType, values: list[float], isa: str):
    def body(x: Expr, y: Expr) -> Expr:
        root = make(op, (x, y))
        return root if root.dtype is BOOL else make(Op.NE, (root, const(3, INT64)))

    assert_equal(over(values, values, stored, body), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("target", DType)
@pytest.mark.parametrize(
    "stored", [BOOL, DType.INT32, INT64, FLOAT32, FLOAT64], ids=lambda stored: stored.value
)
def test_casts(stored: DType, target: DType, isa: str):
    values = {BOOL: [0, 1], DType.INT32: NARROW, INT64: WIDE}.get(stored, REAL)

    def body(x: Expr, y: Expr) -> Expr:
        # At the pair level, by a choice that is always the first.
        chosen = make(Op.WHERE, (make(Op.LE, (var("kv_idx"), var("q_idx"))), x, y))
        return cast(cast(chosen, target), FLOAT64 if target is not FLOAT32 else FLOAT32)

    assert_equal(over(values, values, stored, body), isa)
