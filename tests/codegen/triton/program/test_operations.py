"""The table of operations: total over `Op`, and each row on the values where arithmetic is hard."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

from codegen.triton.program.grid_module import Grid, compiled_grid
from codegen.triton.program.kernel_server import KernelServer
from codegen.triton.program.test_programs import assert_equal
from saccade.codegen.triton.program.operations import ELSEWHERE, OPERATIONS
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.expr import Expr, cast, const, load, make, var
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import CaptureType, ModKind, Structure

BOOL, INT64, FLOAT32, FLOAT64 = DType.BOOL, DType.INT64, DType.FLOAT32, DType.FLOAT64
Body = Callable[[Expr, Expr], Expr]

WIDE = [0, 1, -1, 2, 3, -7, 31, 32, 63, 64, 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63)]
NARROW = [0, 1, -1, 2, 3, -7, 10, 31, 32, 63, 64, 1000003, 2**31 - 1, -(2**31), -(2**31) + 1, 12345]
REAL = [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 1e-40, 65520.0, 3.0e38, 2.0**31, -(2.0**31), -(2.0**63), -129.9]
REAL += [np.inf, -np.inf, np.nan]
INTEGERS = pytest.mark.parametrize(
    ("stored", "values"), [(INT64, WIDE), (DType.INT32, NARROW)], ids=["wide", "narrow"]
)
FLOATS = pytest.mark.parametrize("stored", [FLOAT32, FLOAT64], ids=["f32", "f64"])


@pytest.mark.parametrize("op", Op)
def test_every_op_has_a_row_or_a_reason(op: Op):
    assert (op in OPERATIONS) != bool(ELSEWHERE.get(op))


def over(a: list[float], b: list[float], stored: DType, body: Body) -> Grid:
    """A program of `a[q_idx]` and `b[kv_idx]` at every pair of their values."""
    value_type = stored.value_type
    root = body(load(0, [var("q_idx")], value_type), load(1, [var("kv_idx")], value_type))
    kind = ModKind.MASK if root.dtype is BOOL else ModKind.SCORE
    with np.errstate(over="ignore"):
        captures = tuple(np.array(values).astype(NUMPY_TYPE[stored]) for values in (a, b))
    structure = Structure(kind, root, (CaptureType(stored, 1),) * 2)
    return Grid(structure, captures, batch=1, heads=1, q_len=len(a), kv_len=len(b))


def low_bits(value: Expr) -> Expr:
    """What a FLOAT64 can hold of an int64: its low 52 bits."""
    return cast(make(Op.AND, (value, const(2**52 - 1, INT64))), FLOAT64)


def high_bits(value: Expr) -> Expr:
    return cast(make(Op.SHR, (value, const(12, INT64))), FLOAT64)


def mixed(values: list[Expr]) -> Expr:
    """One number that depends on every bit of some integers."""
    return low_bits(
        reduce(lambda a, b: make(Op.XOR, (make(Op.MUL, (a, const(1_000_003, INT64))), b)), values)
    )


INTEGER_OPS = [
    op
    for op in Op
    if OPS[op].rule in (TypeRule.NUMERIC, TypeRule.INTEGER, TypeRule.LOGIC)
    and op not in (Op.SUM, Op.MAX, Op.MIN)
]


@INTEGERS
@pytest.mark.parametrize("op", INTEGER_OPS)
def test_integers(op: Op, stored: DType, values: list[float], interpreter: KernelServer):
    arity = OPS[op].arity

    for view in (low_bits, high_bits):
        grid = over(values, values, stored, lambda x, y, view=view: view(make(op, (x, y)[:arity])))
        assert_equal(grid, interpreter)


@INTEGERS
@pytest.mark.parametrize("op", [Op.FLOOR_DIV, Op.REMAINDER])
def test_constant_divisors(op: Op, stored: DType, values: list[float], interpreter: KernelServer):
    divisors = [1, -1, 2, -2, 3, -3, 7, 64, 2**31 - 1, -(2**31), 2**40, -(2**63)]

    def body(x: Expr, y: Expr) -> Expr:
        dividend = make(Op.XOR, (x, y))
        return mixed([make(op, (dividend, const(divisor, INT64))) for divisor in divisors])

    assert_equal(over(values, [0, -1], stored, body), interpreter)
    nothing = over(values, [0, -1], stored, lambda x, y: low_bits(make(op, (x, const(0, INT64)))))
    assert_equal(nothing, interpreter)


def test_positions_are_divided_plainly(interpreter: KernelServer):
    for op in (Op.FLOOR_DIV, Op.REMAINDER):
        root = cast(make(op, (var("q_idx"), const(3, INT64))), FLOAT32)
        assert_equal(Grid(Structure(ModKind.SCORE, root), batch=1, heads=1, q_len=9), interpreter)


@INTEGERS
@pytest.mark.parametrize("op", [Op.SHL, Op.SHR])
def test_constant_shifts(op: Op, stored: DType, values: list[float], interpreter: KernelServer):
    amounts = [0, 1, 31, 32, 33, 63, 64, -1, 2**32]

    def body(x: Expr, y: Expr) -> Expr:
        return mixed([make(op, (make(Op.XOR, (x, y)), const(amount, INT64))) for amount in amounts])

    assert_equal(over(values, [0, -1], stored, body), interpreter)


FLOAT_OPS = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.REMAINDER, Op.MINIMUM, Op.MAXIMUM, Op.NEG, Op.ABS]
FLOAT_OPS += [Op.SQRT, Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND]


@FLOATS
@pytest.mark.parametrize("op", FLOAT_OPS)
def test_floats(op: Op, stored: DType, interpreter: KernelServer):
    arity = OPS[op].arity
    assert_equal(over(REAL, REAL, stored, lambda x, y: make(op, (x, y)[:arity])), interpreter)


@FLOATS
@pytest.mark.parametrize("value", [0.1, -0.0, 4.0, 1e-40, np.inf, np.nan])
def test_float_literals(value: float, stored: DType, interpreter: KernelServer):
    """In an operator, in a call, and as both sides of a choice."""
    known = const(value, stored)

    def body(x: Expr, y: Expr) -> Expr:
        chosen = make(Op.WHERE, (make(Op.LT, (x, y)), known, const(0.3, stored)))
        return make(Op.MAXIMUM, (make(Op.ADD, (make(Op.DIV, (x, known)), chosen)), known))

    assert_equal(over(REAL, REAL, stored, body), interpreter)


COMPARISONS = [Op.EQ, Op.NE, Op.LT, Op.LE]


@FLOATS
@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons_of_floats(op: Op, stored: DType, interpreter: KernelServer):
    assert_equal(over(REAL, REAL, stored, lambda x, y: make(op, (x, y))), interpreter)


@pytest.mark.parametrize("op", [*COMPARISONS, Op.AND, Op.OR, Op.XOR])
@pytest.mark.parametrize(
    ("stored", "values"),
    [(BOOL, [0, 1]), (INT64, WIDE), (DType.INT32, NARROW)],
    ids=["bool", "wide", "narrow"],
)
def test_truths(op: Op, stored: DType, values: list[float], interpreter: KernelServer):
    def body(x: Expr, y: Expr) -> Expr:
        root = make(op, (x, y))
        return root if root.dtype is BOOL else make(Op.NE, (root, const(3, INT64)))

    assert_equal(over(values, values, stored, body), interpreter)


@pytest.mark.parametrize("target", DType)
@pytest.mark.parametrize("stored", [BOOL, DType.INT32, INT64, FLOAT32, FLOAT64], ids=lambda kind: kind.value)
def test_casts(stored: DType, target: DType, interpreter: KernelServer):
    values = {BOOL: [0, 1], DType.INT32: NARROW, INT64: WIDE}.get(stored, REAL)
    assert_equal(over(values, [0], stored, lambda x, y: cast(cast(x, target), FLOAT64)), interpreter)


def test_a_scalar_comparison_of_floats_meets_a_tile(interpreter: KernelServer):
    """The interpreter spreads a scalar truth as a number of its arguments' type, unless told better."""
    chosen = make(Op.LT, (load(0, [var("h")], FLOAT32), const(0.5, FLOAT32)))
    root = make(Op.XOR, (chosen, make(Op.LE, (var("kv_idx"), var("q_idx")))))
    structure = Structure(ModKind.MASK, make(Op.NOT, (root,)), (CaptureType(FLOAT32, 1),))
    assert_equal(Grid(structure, (np.array([0.0, 1.0], np.float32),)), interpreter)


def every_op(x: Expr, y: Expr) -> Expr:
    """A sum of all that floats go through."""
    parts = [make(op, (make(Op.ADD, (x, y)), y)[: OPS[op].arity]) for op in FLOAT_OPS]
    parts += [make(op, (x,)) for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1]
    parts += [make(Op.POW, (x, y)), make(Op.POW, (x, const(0.1, x.dtype)))]
    parts += [cast(cast(x, target), x.dtype) for target in DType]
    return reduce(lambda a, b: make(Op.ADD, (a, b)), parts)


@FLOATS
def test_every_float_op_compiles(stored: DType, compiler: KernelServer):
    text = compiled_grid(over(REAL, REAL, stored, every_op), compiler, "ptx")
    assert ".visible .entry kernel" in text
    assert "rsqrt.approx.f64" not in text  # an approximation


@INTEGERS
def test_every_integer_op_compiles(stored: DType, values: list[float], compiler: KernelServer):
    def body(x: Expr, y: Expr) -> Expr:
        parts = []
        for op in INTEGER_OPS:
            parts += [make(op, (x, other)[: OPS[op].arity]) for other in (y, const(7, INT64))]
        parts += [cast(cast(x, target), INT64) for target in DType]
        parts += [cast(make(op, (x, y)), INT64) for op in COMPARISONS]
        return mixed(parts)

    assert ".visible .entry kernel" in compiled_grid(over(values, values, stored, body), compiler, "ptx")
