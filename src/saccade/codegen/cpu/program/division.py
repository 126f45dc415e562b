"""Integer quotients and remainders that round down, without a trap.

Processors have no vector division of integers. A constant divisor becomes shifts or a product (in 32-bit
lanes; LLVM does it). Of a run-time divisor 32-bit lanes are divided as doubles, exactly: a / b that is not
whole is at least 1 / |b| from the next integer, relatively 1 / |a| >= 2**-31, far above a double's rounding.
Only 64-bit lanes are divided one by one. A divisor of 0 never executes, and neither does -2**63 // -1, which
traps as well: lanes without a value are divided by 1.
"""

from __future__ import annotations

from llvmlite import ir

from saccade.codegen.cpu.emitter import F64, I32, Emitter, Value, element_of, like
from saccade.ir.ops import Op

__all__ = ["divide"]


def divide(e: Emitter, op: Op, a: Value, b: Value, *, constant: int | None, counts: bool) -> Value:
    """Return `a // b` or `a % b` as `Op.FLOOR_DIV` and `Op.REMAINDER` mean them; anything where b is 0.

    Args:
        e: The function under construction.
        op: FLOOR_DIV or REMAINDER.
        a: The dividend, I32 or I64.
        b: The divisor, of the same width.
        constant: The divisor, where code is specialised on it.
        counts: Whether the dividend is known not to be negative.
    """
    a, b = e.matched(a, b)
    quotient = op is Op.FLOOR_DIV
    zero = e.whole(0, a.type)
    if constant == 0:
        return zero
    if constant in (1, -1):
        return (a if constant == 1 else e.builder.sub(zero, a)) if quotient else zero
    if constant is not None and constant > 0:
        if constant & (constant - 1) == 0:
            shift = e.whole(constant.bit_length() - 1, a.type)
            return e.builder.ashr(a, shift) if quotient else e.builder.and_(a, e.whole(constant - 1, a.type))
        if counts:
            return (e.builder.udiv if quotient else e.builder.urem)(a, b)
    if constant is not None:
        truncated = e.builder.sdiv(a, b)
    else:
        b = e.select(e.compare("==", b, zero), e.whole(1, b.type), b)
        as_doubles = isinstance(a.type, ir.VectorType) and element_of(a) == I32
        truncated = (_as_doubles if as_doubles else _one_by_one)(e, a, b)
    return _rounded_down(e, quotient, a, b, truncated)


def _rounded_down(e: Emitter, quotient: bool, a: Value, b: Value, truncated: Value) -> Value:
    """The quotient or remainder, from the quotient rounded toward zero."""
    zero = e.whole(0, a.type)
    rest = e.builder.sub(a, e.builder.mul(truncated, b))
    # A rest of the other sign than the divisor's is one divisor short.
    short = e.builder.and_(e.compare("!=", rest, zero), e.compare("<", e.builder.xor(rest, b), zero))
    if quotient:
        return e.builder.add(truncated, e.builder.sext(short, a.type))
    return e.select(short, e.builder.add(rest, b), rest)


def _as_doubles(e: Emitter, a: Value, b: Value) -> Value:
    real = like(a, F64)
    quotient = e.builder.fdiv(e.builder.sitofp(a, real), e.builder.sitofp(b, real))
    # -2**31 / -1 alone passes the integers, and wraps; its remainder is 0 then.
    wrapped = e.select(e.compare("<", quotient, e.real(2.0**31, real)), quotient, e.real(-(2.0**31), real))
    return e.builder.fptosi(wrapped, a.type)


def _one_by_one(e: Emitter, a: Value, b: Value) -> Value:
    minus = e.compare("==", b, e.whole(-1, b.type))
    divided = e.builder.sdiv(a, e.select(minus, e.whole(1, b.type), b))
    return e.select(minus, e.builder.sub(e.whole(0, a.type), a), divided)
