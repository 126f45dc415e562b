"""a ** b, in FLOAT64 for both formats: 2^(b · log2 |a|), with a logarithm of twice the precision."""

from __future__ import annotations

import math

from saccade.codegen.cpu.emitter import F32, F64
from saccade.codegen.cpu.vector_math.exponentials import EXP2, scaled
from saccade.codegen.cpu.vector_math.logarithms import LOG2_E, exponent_and_fraction
from saccade.codegen.cpu.vector_math.polynomial import Fit
from saccade.codegen.cpu.vector_math.real import Real, Whole, where
from saccade.codegen.cpu.vector_math.wide import Pair, exact_product, exact_sum, ordered_sum

__all__ = ["power"]

# (2 artanh(s) / s - 2 - 2/3 s²) / s⁴ of s², relative to 2 artanh(s) / s
ARTANH_TAIL = Fit(
    0.0,
    0.029437251522859434,
    2e-20,
    (
        0.40000000000002256,
        0.2857142857009844,
        0.22222222520128612,
        0.18181784348799157,
        0.15386758190592592,
        0.1325679737602499,
        0.13196521105649542,
    ),
)
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)

# Beyond these exponents 2^x is 0 or infinite, rounded.
_LOW, _HIGH = -1080.0, 1030.0


def power(a: Real, b: Real) -> Real:
    """Return a ** b as IEEE 754 has it: 1 where b = 0 or a = 1, NaN of a negative a to a fraction."""
    result = _power(a.converted(F64), b.converted(F64))
    return result.converted(F32) if a.format.name == "f32" else result


def _power(a: Real, b: Real) -> Real:
    e = a.emitter
    base, exponent = abs(a), abs(b)
    large = 2.0**a.format.fraction_bits
    summed = where(exponent < large, exponent + large, exponent)
    whole = e.binary("or_", exponent >= large, (summed - large).equals(exponent))
    odd = e.binary("and_", whole, exponent < 2 * large)
    odd = e.binary("and_", odd, (summed.bits & 1).differs(0))
    # The sign, also of zeros and infinities.
    sign_bits = e.builder.select(odd, (a.bits & a.format.sign_bit).value, e.whole(0, a.bits.value.type))
    infinite_power_of_1 = e.binary("and_", base.equals(1.0), exponent.equals(math.inf))
    magnitude = where(infinite_power_of_1, a.constant(1.0), _magnitude(base, b))
    result = (magnitude.bits | Whole(e, sign_bits)).as_real()
    finite_negative = e.binary("and_", a < 0.0, base < math.inf)
    broken = e.binary("and_", finite_negative, e.builder.not_(whole))
    broken = e.binary("and_", broken, exponent < math.inf)
    result = where(broken, a.constant(math.nan), result)
    return where(e.binary("or_", b.equals(0.0), a.equals(1.0)), a.constant(1.0), result)


def _magnitude(base: Real, b: Real) -> Real:
    """The power of base to b for base >= 0, but for an infinite power of 1."""
    log = _log2(base)
    product = exact_product(b, log.high)
    clamped = product.high.at_least(_LOW).at_most(_HIGH)
    # Where the product overflows or is clamped, its low part means nothing.
    inside = product.high.emitter.binary("and_", product.high > _LOW, product.high < _HIGH)
    low = where(inside, b.times_plus(log.low, product.low), b.constant(0.0))
    shifted = clamped + clamped.format.rounder
    fraction = clamped - (shifted - clamped.format.rounder) + low
    return scaled(EXP2["f64"](fraction), shifted)


def _log2(x: Real) -> Pair:
    """log2 x for x >= 0, NaN of NaN, to about 2^-66 of it."""
    k, f = exponent_and_fraction(x)
    near = _log_near_1(f).times(Pair(*(x.constant(part) for part in LOG2_E["f64"])))
    total = exact_sum(k, near.high)
    result = ordered_sum(total.high, total.low + near.low)
    special = where(x.equals(0.0), x.constant(-math.inf), x)
    inside = x.emitter.binary("and_", x > 0.0, x < math.inf)
    return Pair(where(inside, result.high, special), where(inside, result.low, x.constant(0.0)))


def _log_near_1(f: Real) -> Pair:
    """ln(1 + f) = 2 s + s · (2/3 s² + R(s²) s⁴),  s = f / (2 + f)."""
    below = exact_sum(f.constant(2.0), f)
    s_high = f / below.high
    product = exact_product(s_high, below.high)
    s = Pair(s_high, (f - product.high - product.low - s_high * below.low) / below.high)
    square = s.times(s)
    two_thirds = Pair(*(f.constant(part) for part in _TWO_THIRDS))
    inner = ordered_sum(two_thirds.high, square.high * ARTANH_TAIL(square.high))
    rest = s.times(square.times(Pair(inner.high, inner.low + two_thirds.low)))
    total = ordered_sum(s.high * 2.0, rest.high)
    return ordered_sum(total.high, total.low + (s.low * 2.0 + rest.low))
