"""a - floor(a / b) · b, exactly, by long division in FLOAT64."""

from __future__ import annotations

import math

from saccade.codegen.cpu.emitter import F32, F64
from saccade.codegen.cpu.vector_math.real import Real, where
from saccade.codegen.cpu.vector_math.rounding import floor
from saccade.codegen.cpu.vector_math.wide import halves

__all__ = ["remainder"]

# Bits of the quotient that a step takes off, about: their product with half a significand is exact.
_STEP = 22


def remainder(a: Real, b: Real) -> Real:
    """Return the remainder with the sign of b, a zero's too; NaN where b = 0 or a is infinite.

    For a finite a and an infinite b of the other sign it is b, as the equation has it.
    """
    e = a.emitter
    rest = _rest(a.converted(F64), b.converted(F64))
    if a.format.name == "f32":
        rest = rest.converted(F32)  # exactly
    opposite = e.compare("!=", (a < 0.0), (b < 0.0))
    # NaN stays, for it equals nothing.
    result = where(e.builder.and_(opposite, rest > 0.0), abs(b) - rest, rest)
    return where(result.is_nan(), result, result.signed_as(b))


def _rest(a: Real, b: Real) -> Real:
    """|a| modulo |b|, NaN where it has no value."""
    e = a.emitter
    dividend, divisor = abs(a), abs(b)
    sound = e.binary("and_", dividend < math.inf, divisor > 0.0)
    divisor = where(sound, divisor, a.constant(1.0))
    rest = where(sound, dividend, a.constant(0.0))
    before = e.builder.block
    turn, done = (e.function.append_basic_block(name) for name in ("divide", "divided"))
    e.builder.cbranch(e.any(rest >= divisor), turn, done)
    e.builder.position_at_end(turn)
    current = e.builder.phi(rest.value.type)
    current.add_incoming(rest.value, before)
    following = _step(Real(e, current), divisor)
    current.add_incoming(following.value, turn)
    e.builder.cbranch(e.any(following >= divisor), turn, done)
    e.builder.position_at_end(done)
    result = e.builder.phi(rest.value.type)
    result.add_incoming(rest.value, before)
    result.add_incoming(following.value, turn)
    return where(sound, Real(e, result), a.constant(math.nan))


def _step(rest: Real, divisor: Real) -> Real:
    """Subtract the multiple of a power of two times the divisor that is nearest below."""
    format_ = rest.format
    ahead = _exponent(rest) - _exponent(divisor) - float(_STEP)
    # Three factors, for one may not be a number: 2^(ahead / 3), rounded down, is at least 1.
    third = (where(ahead > 0.0, ahead, rest.constant(0.0)) - 1.0) * (1.0 / 3.0)
    exponent = (third + (format_.rounder + format_.bias)).bits << format_.fraction_bits
    factor = exponent.as_real()
    unit = divisor * factor * factor * factor
    unit = where(divisor < math.inf, unit, divisor)
    # Rounded down, so that no product is larger than the rest and what is left has as many bits as the unit;
    # a division that rounded up to an integer leaves a little less than nothing.
    quotient = floor(rest / unit)
    high, low = halves(unit)
    left = rest - quotient * high - quotient * low
    left = where(left < 0.0, left + unit, left)
    return where(rest >= divisor, left, rest)


def _exponent(x: Real) -> Real:
    """The exponent of a positive number, as a number."""
    format_ = x.format
    lift = format_.fraction_bits + 1
    subnormal = x < format_.smallest_normal
    stored = where(subnormal, x * 2.0**lift, x).bits >> format_.fraction_bits
    written = stored | (format_.fraction_bits + format_.bias << format_.fraction_bits)
    number = written.as_real() - 2.0**format_.fraction_bits
    return where(subnormal, number - float(lift), number)
