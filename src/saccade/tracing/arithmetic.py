"""Rules for arithmetic: `+ - * / // % **`, extrema, rounding, signs.

Each follows torch on types (bool + bool is a bool, int / int a float32) and on the sign of quotients and
remainders.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, make
from saccade.ir.ops import OPS, Op
from saccade.tracing.logic import shift_left
from saccade.tracing.operands import EVERY_TYPE, INTEGERS, align, pair, traced, value_of
from saccade.tracing.recorder import describe
from saccade.tracing.value import Number, Operand, Value

__all__ = [
    "absolute",
    "add",
    "addcdiv",
    "addcmul",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "divide",
    "float_power",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "lerp",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "positive",
    "power",
    "reciprocal",
    "remainder",
    "round_half_even",
    "rsub",
    "sign",
    "square",
    "subtract",
    "trunc",
]

# What torch makes of arithmetic on two bools; an op without a row refuses them.
_ON_BOOLS = {Op.ADD: Op.OR, Op.MUL: Op.AND, Op.MINIMUM: Op.AND, Op.MAXIMUM: Op.OR}


def _binary(op: Op, x: Operand, y: Operand, *, specialise: frozenset[DType] = frozenset()) -> Value:
    """One op over two operands, of their common type."""
    model, stored, shape, a, b = pair(x, y, specialise=specialise)
    if stored is DType.BOOL:
        op = _on_bools(op)
    return model.derive(make(op, (a, b)), stored, shape)


def _on_bools(op: Op) -> Op:
    logical = _ON_BOOLS.get(op)
    if logical is None:
        raise _no_bools(op)
    return logical


def _no_bools(op: Op) -> TraceError:
    return TraceError(
        f"{OPS[op].text} expects numbers, got bools only; convert one with .int(), or use & | ^ ~ for logic"
    )


def add(x: Operand, y: Operand, *, alpha: Number = 1) -> Value:
    """`x + alpha * y`."""
    return _binary(Op.ADD, x, _scaled(y, alpha, x))


def subtract(x: Operand, y: Operand, *, alpha: Number = 1) -> Value:
    """`x - alpha * y`."""
    return _binary(Op.SUB, x, _scaled(y, alpha, x))


def rsub(x: Operand, y: Operand, *, alpha: Number = 1) -> Value:
    """`y - alpha * x`."""
    return _binary(Op.SUB, y, _scaled(x, alpha, y))


def _scaled(x: Operand, factor: Number, partner: Operand) -> Operand:
    """`factor * x`, where `x` or its `partner` is traced."""
    if factor == 1:
        return x
    if isinstance(x, (bool, int, float)):
        return factor * x
    return multiply(value_of(x, traced(x, partner)), factor)


def multiply(x: Operand, y: Operand) -> Value:
    """`x * y`."""
    return _binary(Op.MUL, x, y)


def addcmul(x: Operand, y: Operand, z: Operand, *, value: Number = 1) -> Value:
    """`x + value * y * z`, all in their common type."""
    return _add_combined(Op.MUL, x, y, z, value)


def addcdiv(x: Operand, y: Operand, z: Operand, *, value: Number = 1) -> Value:
    """`x + value * y / z`, all in their common type."""
    return _add_combined(Op.DIV, x, y, z, value)


def _add_combined(op: Op, x: Operand, y: Operand, z: Operand, value: Number) -> Value:
    model, stored, shape, (a, b, c) = align(x, y, z, real=op is Op.DIV)
    if stored is DType.BOOL:
        raise _no_bools(op)
    if value != 1:
        b = make(Op.MUL, (b, model.recorder.number(value, b.dtype)))
    return model.derive(make(Op.ADD, (a, make(op, (b, c)))), stored, shape)


def lerp(x: Operand, end: Operand, weight: Operand) -> Value:
    """`x + weight * (end - x)`, all in their common type."""
    model, stored, shape, (a, b, w) = align(x, end, weight, real=True)
    return model.derive(make(Op.ADD, (a, make(Op.MUL, (w, make(Op.SUB, (b, a)))))), stored, shape)


def divide(x: Operand, y: Operand, *, rounding_mode: str | None = None) -> Value:
    """The quotient: real, or rounded down (`"floor"`) or toward zero (`"trunc"`)."""
    if rounding_mode == "floor":
        return floor_divide(x, y)
    if rounding_mode == "trunc":
        return _trunc_divide(x, y)
    if rounding_mode is not None:
        raise TraceError(
            f"div() expects rounding_mode None, 'floor' or 'trunc'; got rounding_mode={rounding_mode!r}"
        )
    model, stored, shape, a, b = pair(x, y, real=True)
    return model.derive(make(Op.DIV, (a, b)), stored, shape)


def floor_divide(x: Operand, y: Operand) -> Value:
    """`x // y`, rounded toward minus infinity."""
    model, stored, shape, a, b = pair(x, y, specialise=INTEGERS)
    if not stored.is_float:
        return model.derive(make(_integer(Op.FLOOR_DIV, stored), (a, b)), stored, shape)
    # x - remainder is a multiple of y up to rounding; the quotient at y = 0 is the infinity or NaN of the
    # real one.
    exact = make(Op.DIV, (make(Op.SUB, (a, make(Op.REMAINDER, (a, b)))), b))
    quotient = make(Op.ROUND, (exact,))
    if not (b.op is Op.NUMBER or (b.op is Op.CONST and b.attr != 0)):
        quotient = make(Op.WHERE, (make(Op.EQ, (b, const(0, b.dtype))), make(Op.DIV, (a, b)), quotient))
    return model.derive(quotient, stored, shape)


def _trunc_divide(x: Operand, y: Operand) -> Value:
    model, stored, shape, a, b = pair(x, y, specialise=INTEGERS)
    if stored.is_float:
        return model.derive(make(Op.TRUNC, (make(Op.DIV, (a, b)),)), stored, shape)
    quotient = make(_integer(Op.FLOOR_DIV, stored), (a, b))
    inexact = make(Op.NE, (make(Op.REMAINDER, (a, b)), const(0, a.dtype)))
    one_up = make(Op.ADD, (quotient, const(1, a.dtype)))
    return model.derive(
        make(Op.WHERE, (make(Op.AND, (inexact, _signs_differ(a, b))), one_up, quotient)), stored, shape
    )


def remainder(x: Operand, y: Operand) -> Value:
    """`x % y`, with the sign of `y`."""
    return _binary(Op.REMAINDER, x, y, specialise=INTEGERS)


def fmod(x: Operand, y: Operand) -> Value:
    """The remainder with the sign of `x`."""
    model, stored, shape, a, b = pair(x, y, specialise=INTEGERS)
    floored = make(_integer(Op.REMAINDER, stored), (a, b))
    nonzero = make(Op.NE, (floored, const(0, floored.dtype)))
    flip = make(Op.AND, (nonzero, _signs_differ(a, floored)))
    return model.derive(make(Op.WHERE, (flip, make(Op.SUB, (floored, b)), floored)), stored, shape)


def _signs_differ(a: Expr, b: Expr) -> Expr:
    zero = const(0, a.dtype)
    return make(Op.XOR, (make(Op.LT, (a, zero)), make(Op.LT, (b, zero))))


def _integer(op: Op, stored: DType) -> Op:
    return _on_bools(op) if stored is DType.BOOL else op


def power(x: Operand, exponent: Operand) -> Value:
    """`x ** exponent`; code is specialised on an exponent that is a number."""
    if type(x) is int and x == 2 and isinstance(exponent, Value) and not exponent.stored.is_float:
        return shift_left(1, exponent)  # torch's 2 ** n is 0 too where n < 0 or n > 63
    model, stored, shape, a, b = pair(x, exponent, specialise=EVERY_TYPE)
    if not stored.is_float:
        return model.derive(_integer_power(a, b), DType.INT64 if stored is DType.BOOL else stored, shape)
    special = _POWERS.get(b.attr) if b.op is Op.CONST else None
    return model.derive(special(a) if special else make(Op.POW, (a, b)), stored, shape)


def float_power(x: Operand, exponent: Operand) -> Value:
    """`x ** exponent` in float64."""
    model = traced(x, exponent)
    base = value_of(x, model)
    return power(model.derive(base.of_type(DType.FLOAT64), DType.FLOAT64, base.shape), exponent)


# Exactly these torch computes without its general power function; their derivatives agree with the power's.
_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.0: lambda a: const(1, a.dtype),
    1.0: lambda a: a,
    2.0: lambda a: make(Op.MUL, (a, a)),
    3.0: lambda a: make(Op.MUL, (make(Op.MUL, (a, a)), a)),
    0.5: lambda a: make(Op.SQRT, (a,)),
    -0.5: lambda a: make(Op.RSQRT, (a,)),
    -1.0: lambda a: make(Op.DIV, (const(1, a.dtype), a)),
    -2.0: lambda a: make(Op.DIV, (const(1, a.dtype), make(Op.MUL, (a, a)))),
}


def _integer_power(a: Expr, b: Expr) -> Expr:
    if b.op is Op.CONST and b.dtype is DType.INT64 and b.attr >= 0:
        result = const(1, DType.INT64)
        square, exponent = a, b.attr
        while exponent:  # by the binary digits of the exponent
            if exponent & 1:
                result = make(Op.MUL, (result, square))
            square = make(Op.MUL, (square, square))
            exponent >>= 1
        return result
    given = f"exponent={b.attr}" if b.op is Op.CONST else "a traced exponent"
    raise TraceError(
        f"an integer power needs a constant exponent >= 0, got {given}; make the base a float, as in 2.0 ** h"
    )


def square(x: Operand) -> Value:
    """`x ** 2`."""
    return power(x, 2)


def reciprocal(x: Value) -> Value:
    """`1 / x`."""
    return divide(1, x)


def minimum(x: Operand, y: Operand) -> Value:
    """The smaller; NaN if either is."""
    return _binary(Op.MINIMUM, x, y)


def maximum(x: Operand, y: Operand) -> Value:
    """The larger; NaN if either is."""
    return _binary(Op.MAXIMUM, x, y)


def fmin(x: Operand, y: Operand) -> Value:
    """The smaller of the two that are not NaN."""
    return _ignoring_nan(Op.MINIMUM, x, y)


def fmax(x: Operand, y: Operand) -> Value:
    """The larger of the two that are not NaN."""
    return _ignoring_nan(Op.MAXIMUM, x, y)


def _ignoring_nan(op: Op, x: Operand, y: Operand) -> Value:
    model, stored, shape, a, b = pair(x, y)
    chosen = make(_ON_BOOLS[op] if stored is DType.BOOL else op, (a, b))
    for this, other in ((b, a), (a, b)):
        chosen = make(Op.WHERE, (make(Op.NE, (this, this)), other, chosen))
    return model.derive(chosen, stored, shape)


def clamp(x: Operand, min: Operand | None = None, max: Operand | None = None) -> Value:  # noqa: A002
    """`x` limited from below and above; above wins."""
    if min is None and max is None:
        raise TraceError("clamp() expects min or max, got neither; leave the call out")
    return _limited(x, min, max)


def clamp_min(x: Operand, min: Operand) -> Value:  # noqa: A002
    """`x` limited from below."""
    return _limited(x, min, None)


def clamp_max(x: Operand, max: Operand) -> Value:  # noqa: A002
    """`x` limited from above."""
    return _limited(x, None, max)


def _limited(x: Operand, low: Operand | None, high: Operand | None) -> Value:
    operands = [operand for operand in (x, low, high) if operand is not None]
    model, stored, shape, (limited, *bounds) = align(*operands)
    if low is not None:
        limited = _bounded(Op.MAXIMUM, limited, bounds.pop(0))
    if high is not None:
        limited = _bounded(Op.MINIMUM, limited, bounds.pop(0))
    return model.derive(limited, stored, shape)


def _bounded(op: Op, x: Expr, bound: Expr) -> Expr:
    if not x.dtype.is_float:
        return make(op, (x, bound))
    # Floats choose rather than take an extremum: at a bound torch's derivative is that of x, not half of it.
    beyond = make(Op.LT, (x, bound) if op is Op.MAXIMUM else (bound, x))
    if bound.op not in (Op.CONST, Op.NUMBER):
        beyond = make(Op.OR, (beyond, make(Op.NE, (bound, bound))))
    return make(Op.WHERE, (beyond, bound, x))


def negative(x: Value) -> Value:
    """`-x`."""
    if x.stored is DType.BOOL:
        raise TraceError(
            "neg expects a number, got a bool; use ~ for its complement, or convert it with .int()"
        )
    return x.derive(make(Op.NEG, (x.expr,)), x.stored, x.shape)


def positive(x: Value) -> Value:
    """`+x`."""
    return x


def absolute(x: Value) -> Value:
    """`|x|`."""
    return x if x.stored is DType.BOOL else x.derive(make(Op.ABS, (x.expr,)), x.stored, x.shape)


def sign(x: Value) -> Value:
    """-1, 0 or 1; 0 for NaN."""
    if x.stored is DType.BOOL:
        return x
    zero, one, minus = (const(value, x.expr.dtype) for value in (0, 1, -1))
    below = make(Op.WHERE, (make(Op.LT, (x.expr, zero)), minus, zero))
    return x.derive(make(Op.WHERE, (make(Op.LT, (zero, x.expr)), one, below)), x.stored, x.shape)


def _rounded(op: Op, x: Value) -> Value:
    return x.derive(make(op, (x.expr,)), x.stored, x.shape) if x.stored.is_float else x


def floor(x: Value) -> Value:
    """The largest integer <= x, in x's own type."""
    return _rounded(Op.FLOOR, x)


def ceil(x: Value) -> Value:
    """The smallest integer >= x, in x's own type."""
    return _rounded(Op.CEIL, x)


def trunc(x: Value) -> Value:
    """`x` rounded toward zero, in x's own type."""
    return _rounded(Op.TRUNC, x)


def round_half_even(x: Value, *, decimals: int = 0) -> Value:
    """The nearest integer, halves to even, in x's own type."""
    if decimals != 0:
        raise TraceError(
            f"round() expects decimals=0 in a mod, got decimals={describe(decimals)}; scale before and after"
        )
    return _rounded(Op.ROUND, x)
