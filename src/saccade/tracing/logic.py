"""Rules for comparisons, logic, bits and choices.

`& | ^ ~` on bools are logic and on integers bits, as in torch; `logical_*` take any number for a truth value
first.
"""

from __future__ import annotations

import math

import torch

from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, const, make
from saccade.ir.ops import OPS, Op
from saccade.tracing.dtypes import TORCH
from saccade.tracing.operands import INTEGERS, align, pair, traced, value_of
from saccade.tracing.value import Operand, Value, broadcast, broadcast_shapes

__all__ = [
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "equal",
    "greater",
    "greater_equal",
    "is_finite",
    "is_inf",
    "is_nan",
    "is_neginf",
    "is_posinf",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "masked_fill",
    "nan_to_num",
    "not_equal",
    "shift_left",
    "shift_right",
    "where",
    "where_method",
]


_TRUE, _FALSE = const(True, DType.BOOL), const(False, DType.BOOL)

# What combinations of masks start from. Left out, so that a mask alone and a combination of one are equal.
_NEUTRAL = {Op.AND: _TRUE, Op.OR: _FALSE, Op.XOR: _FALSE}


def _compare(op: Op, x: Operand, y: Operand) -> Value:
    model, _, shape, a, b = pair(x, y)
    return model.derive(make(op, (a, b)), DType.BOOL, shape)


def _compare_swapped(op: Op, x: Operand, y: Operand) -> Value:
    model, _, shape, a, b = pair(x, y)
    return model.derive(make(op, (b, a)), DType.BOOL, shape)


def equal(x: Operand, y: Operand) -> Value:
    """`x == y`."""
    return _compare(Op.EQ, x, y)


def not_equal(x: Operand, y: Operand) -> Value:
    """`x != y`."""
    return _compare(Op.NE, x, y)


def less(x: Operand, y: Operand) -> Value:
    """`x < y`."""
    return _compare(Op.LT, x, y)


def less_equal(x: Operand, y: Operand) -> Value:
    """`x <= y`."""
    return _compare(Op.LE, x, y)


def greater(x: Operand, y: Operand) -> Value:
    """`x > y`."""
    return _compare_swapped(Op.LT, x, y)


def greater_equal(x: Operand, y: Operand) -> Value:
    """`x >= y`."""
    return _compare_swapped(Op.LE, x, y)


def _bitwise(op: Op, x: Operand, y: Operand) -> Value:
    model, stored, shape, a, b = pair(x, y)
    if stored.is_float:
        raise _wants_bits(op, stored)
    neutral = _NEUTRAL[op]
    if a is neutral or b is neutral:
        return model.derive(b if a is neutral else a, stored, shape)
    if op is Op.XOR and _TRUE in (a, b):
        return model.derive(make(Op.NOT, (b if a is _TRUE else a,)), stored, shape)
    return model.derive(make(op, (a, b)), stored, shape)


def _wants_bits(op: Op, stored: DType) -> TraceError:
    return TraceError(
        f"{OPS[op].text} expects bools or integers, got {stored.value}; "
        "compare the number first, as in `score > 0`"
    )


def bitwise_and(x: Operand, y: Operand) -> Value:
    """`x & y`."""
    return _bitwise(Op.AND, x, y)


def bitwise_or(x: Operand, y: Operand) -> Value:
    """`x | y`."""
    return _bitwise(Op.OR, x, y)


def bitwise_xor(x: Operand, y: Operand) -> Value:
    """`x ^ y`."""
    return _bitwise(Op.XOR, x, y)


def bitwise_not(x: Value) -> Value:
    """`~x`."""
    if x.stored.is_float:
        raise _wants_bits(Op.NOT, x.stored)
    inverted = make(Op.NOT, (x.expr,))
    # Computed in 64 bits, the complement of an unsigned byte is negative.
    return x.derive(cast(inverted, x.stored) if x.stored is DType.UINT8 else inverted, x.stored, x.shape)


def _shift(op: Op, x: Operand, y: Operand) -> Value:
    model, stored, shape, a, b = pair(x, y, specialise=INTEGERS)
    if not stored.is_int:
        raise TraceError(f"{OPS[op].text} expects integers, got {stored.value}; convert with .long()")
    return model.derive(make(op, (a, b)), stored, shape)


def shift_left(x: Operand, y: Operand) -> Value:
    """`x << y`."""
    return _shift(Op.SHL, x, y)


def shift_right(x: Operand, y: Operand) -> Value:
    """`x >> y`."""
    return _shift(Op.SHR, x, y)


def _truth(expr: Expr) -> Expr:
    return cast(expr, DType.BOOL)


def _logical(op: Op, x: Operand, y: Operand) -> Value:
    model = traced(x, y)
    values = [value_of(operand, model) for operand in (x, y)]
    shape = broadcast_shapes(*(value.shape for value in values))
    exprs = tuple(broadcast(_truth(value.expr), value.shape, shape) for value in values)
    return model.derive(make(op, exprs), DType.BOOL, shape)


def logical_and(x: Operand, y: Operand) -> Value:
    """Whether both are nonzero."""
    return _logical(Op.AND, x, y)


def logical_or(x: Operand, y: Operand) -> Value:
    """Whether either is nonzero."""
    return _logical(Op.OR, x, y)


def logical_xor(x: Operand, y: Operand) -> Value:
    """Whether exactly one is nonzero."""
    return _logical(Op.XOR, x, y)


def logical_not(x: Value) -> Value:
    """Whether `x` is zero."""
    return x.derive(make(Op.NOT, (_truth(x.expr),)), DType.BOOL, x.shape)


def where(condition: Operand, x: Operand | None = None, y: Operand | None = None) -> Value:
    """`x` where `condition` holds, else `y`; what the other side would compute has no say."""
    if x is None or y is None:
        raise TraceError(
            "where() expects a condition and two values, got the condition alone, whose result has a shape "
            "that depends on data; write torch.where(condition, a, b)"
        )
    model = traced(condition, x, y)
    chosen_by = value_of(condition, model)
    if chosen_by.stored is not DType.BOOL:
        raise TraceError(
            f"where() expects a bool condition, got {chosen_by.stored.value}; "
            "compare it first, as in `x != 0`"
        )
    if isinstance(x, Value) or isinstance(y, Value):
        _, stored, narrow, a, b = pair(x, y)
    else:
        _, stored, narrow, (a, b) = align(x, y, model=model)
    if chosen_by.shape == narrow:
        return model.derive(make(Op.WHERE, (chosen_by.expr, a, b)), stored, narrow)
    shape = broadcast_shapes(chosen_by.shape, narrow)
    args = (
        broadcast(chosen_by.expr, chosen_by.shape, shape),
        broadcast(a, narrow, shape),
        broadcast(b, narrow, shape),
    )
    return model.derive(make(Op.WHERE, args), stored, shape)


def where_method(x: Operand, condition: Operand, y: Operand) -> Value:
    """`x.where(condition, y)`: the method's order of arguments."""
    return where(condition, x, y)


def masked_fill(x: Value, mask: Operand, value: Operand) -> Value:
    """`x` with `value`, converted to x's type, where `mask` holds."""
    filling = value_of(value, x, x.stored)
    return where(mask, x.derive(filling.of_type(x.stored), x.stored, filling.shape), x)


def is_nan(x: Value) -> Value:
    """Whether `x` is NaN."""
    return x.derive(make(Op.NE, (x.expr, x.expr)), DType.BOOL, x.shape)


def is_posinf(x: Value) -> Value:
    """Whether `x` is positive infinity."""
    return _equals(x, math.inf)


def is_neginf(x: Value) -> Value:
    """Whether `x` is negative infinity."""
    return _equals(x, -math.inf)


def is_inf(x: Value) -> Value:
    """Whether `x` is an infinity of either sign."""
    return bitwise_or(is_posinf(x), is_neginf(x))


def is_finite(x: Value) -> Value:
    """Whether `x` is neither an infinity nor NaN."""
    return bitwise_not(bitwise_or(is_inf(x), is_nan(x)))


def _equals(x: Value, value: float) -> Value:
    if not x.stored.is_float:
        return x.derive(const(False, DType.BOOL), DType.BOOL, x.shape)
    return x.derive(make(Op.EQ, (x.expr, const(value, x.expr.dtype))), DType.BOOL, x.shape)


def nan_to_num(x: Value, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Value:
    """`x` with NaN and the infinities replaced; infinities by the extremes of x's type unless given."""
    if not x.stored.is_float:
        return x
    largest = torch.finfo(TORCH[x.stored]).max
    x = masked_fill(x, is_posinf(x), largest if posinf is None else posinf)
    x = masked_fill(x, is_neginf(x), -largest if neginf is None else neginf)
    return masked_fill(x, is_nan(x), nan)
