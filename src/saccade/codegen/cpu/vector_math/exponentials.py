"""2^x, e^x and what is made of them: expm1, tanh, sigmoid.

    2^x = 2^n · 2^f    n the nearest integer to x, |f| <= 1/2
    e^x = 2^n · e^r    n the nearest integer to x / ln 2, |r| <= ln 2 / 2

n is read from the low bits of a sum with a large number, so no float is ever converted to an integer.
"""

from __future__ import annotations

import math

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.vector_math.polynomial import Fit
from saccade.codegen.cpu.vector_math.real import Real, where

__all__ = ["exp", "exp2", "exp2_of_nonpositive", "expm1", "sigmoid", "tanh"]

_HALF_LN2 = 0.34657359027997264

# 2^f: the constant term 1 is exact, so that 2^0 is.
EXP2_COARSE = Fit(
    -0.5,
    0.5,
    2.9e-6,
    (1.0, 0.6931241750717163, 0.24024099111557007, 0.055906426161527634, 0.009582853876054287),
)
EXP2_QUICK = Fit(
    -0.5,
    0.5,
    1.1e-7,
    (
        1.0,
        0.6931470036506653,
        0.24022242426872253,
        0.05550733581185341,
        0.009671512991189957,
        0.0013264735462144017,
    ),
)
EXP2 = {
    "f32": Fit(
        -0.5,
        0.5,
        1.7e-8,
        (
            1.0,
            0.6931471824645996,
            0.24022647738456726,
            0.055503323674201965,
            0.00961843691766262,
            0.0013398873852565885,
            0.0001535336341476068,
        ),
    ),
    "f64": Fit(
        -0.5,
        0.5,
        2.8e-17,
        (
            1.0,
            0.6931471805599453,
            0.2402265069591013,
            0.055504108664820084,
            0.00961812910759412,
            0.001333355814677463,
            0.00015403530457112067,
            1.525273349311665e-05,
            1.3215435282336804e-06,
            1.0178199576815802e-07,
            7.073783241791062e-09,
            4.4347705024668045e-10,
        ),
    ),
}

# (e^r - 1 - r) / r², relative to e^r - 1
EXPM1 = {
    "f32": Fit(
        -_HALF_LN2,
        _HALF_LN2,
        2e-8,
        (
            0.4999999701976776,
            0.1666654348373413,
            0.04166720062494278,
            0.008366520516574383,
            0.001388252479955554,
        ),
    ),
    "f64": Fit(
        -_HALF_LN2,
        _HALF_LN2,
        3.5e-17,
        (
            0.5000000000000006,
            0.16666666666666588,
            0.04166666666657676,
            0.00833333333338957,
            0.001388888893156466,
            0.00019841269718966464,
            2.4801505273930218e-05,
            2.7557407578952724e-06,
            2.762603786642148e-07,
            2.505376360870253e-08,
        ),
    ),
}

# ln 2 in two parts, the first so short that its product with n is exact.
LN2 = {
    "f32": (0.693115234375, 3.194618329871446e-05),
    "f64": (float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}

# From here on tanh is 1, rounded.
_TANH_LIMIT = {"f32": 10.0, "f64": 20.0}
# Beyond these e^x is 0 or infinite, rounded.
_EXP_RANGE = {"f32": (-104.0, 89.0), "f64": (-746.0, 710.0)}
_EXP2_RANGE = {"f32": (-151.0, 128.0), "f64": (-1076.0, 1024.0)}
# Below these e^x - 1 is -1, rounded.
_EXPM1_LOW = {"f32": -20.0, "f64": -40.0}


def exp2_of_nonpositive(e: Emitter, x: Value, *, coarse: bool = False) -> Value:
    """Return 2^x for x <= 0, cheaply: what the softmax evaluates once a pair.

    Exactly 1 at 0, NaN of NaN; within 2.2 ulp down to -126.5 (FLOAT64: -1022.5) and exactly 0 below.

    Args:
        e: The function under construction.
        x: Numbers <= 0, or NaN. Positive ones below 127 are right too; of larger ones nothing is said.
        coarse: Whether a relative error of 3e-6 will do (FLOAT32), as it does for bfloat16 weights.
    """
    given = Real(e, x)
    format_ = given.format
    clamped = given.at_least(-float(format_.bias))
    # The low bits of the sum are n + bias, the exponent that 2^n is stored with; 0 there is the number 0.
    rounder = format_.rounder + format_.bias
    shifted = clamped + rounder
    fraction = clamped - (shifted - rounder)
    fit = EXP2["f64"] if format_.name == "f64" else EXP2_COARSE if coarse else EXP2_QUICK
    # A product, not a sum of exponents: NaN times anything is NaN.
    power_of_two = (shifted.bits << format_.fraction_bits).as_real()
    return (fit(fraction) * power_of_two).value


def exp2(x: Real) -> Real:
    """Return 2^x; also right where the result is subnormal."""
    low, high = _EXP2_RANGE[x.format.name]
    clamped = x.at_least(low).at_most(high)
    shifted = clamped + x.format.rounder
    fraction = clamped - (shifted - x.format.rounder)
    return scaled(EXP2[x.format.name](fraction), shifted)


def exp(x: Real) -> Real:
    """Return e^x; also right where the result is subnormal."""
    low, high = _EXP_RANGE[x.format.name]
    shifted, r = _reduced(x.at_least(low).at_most(high))
    return scaled(_expm1_near_0(r) + 1.0, shifted)


def expm1(x: Real) -> Real:
    """Return e^x - 1."""
    format_ = x.format
    shifted, r = _reduced(x.at_least(_EXPM1_LOW[format_.name]).at_most(_EXP_RANGE[format_.name][1]))
    # e^x - 1 = 2 · (h · (e^r - 1) + h - 1/2) with h = 2^(n-1), which is finite at the largest n.
    exponent = shifted.bits - (format_.rounder_bits - format_.bias + 1)
    h = (exponent << format_.fraction_bits).as_real()
    result = _expm1_near_0(r).times_plus(h, h - 0.5) * 2.0
    return where(abs(x) < format_.epsilon / 4, x, result)


def tanh(x: Real) -> Real:
    """Return tanh x, by one division; odd to the last bit."""
    # tanh |x| = m / (m + 1) with m = (e^(2|x|) - 1) / 2 = 2^n · (e^2r - 1) / 2 + (2^n - 1) / 2, where
    # |x| = n · ln(2) / 2 + r. The larger n, the less an error of r matters.
    format_ = x.format
    magnitude = abs(x).at_most(_TANH_LIMIT[format_.name])
    rounder = format_.rounder + format_.bias
    shifted = magnitude.times_plus(2 * math.log2(math.e), rounder)
    r = (shifted - rounder).times_plus(-math.log(2) / 2, magnitude)
    near_0 = (r * r).times_plus(EXPM1[format_.name].doubled()(r), r)
    power_of_two = (shifted.bits << format_.fraction_bits).as_real()
    m = near_0.times_plus(power_of_two, power_of_two.times_plus(0.5, -0.5))
    return (m / (m + 1.0)).signed_as(x)


def sigmoid(x: Real) -> Real:
    """Return 1 / (1 + e^-x); in the tail it is e^x to the last subnormal."""
    tail = exp(-abs(x))
    return where(x < 0.0, tail, x.constant(1.0)) / (tail + 1.0)


def scaled(x: Real, shifted: Real) -> Real:
    """Return x · 2^n in two steps, for an n whose power of two alone would not be a number.

    Args:
        x: About 1.
        shifted: n + rounder, |n| <= 1.1 · bias.
    """
    format_ = x.format
    doubled = shifted.bits - (format_.rounder_bits - 2 * format_.bias)
    half = doubled >> 1
    first, second = ((part << format_.fraction_bits).as_real() for part in (half, doubled - half))
    return x * first * second


def _reduced(x: Real) -> tuple[Real, Real]:
    """N + rounder, and r = x - n · ln 2."""
    shifted = x.times_plus(math.log2(math.e), x.format.rounder)
    n = shifted - x.format.rounder
    high, low = LN2[x.format.name]
    return shifted, n.times_plus(-low, n.times_plus(-high, x))


def _expm1_near_0(r: Real) -> Real:
    """e^r - 1 for |r| <= ln 2 / 2."""
    return (r * r).times_plus(EXPM1[r.format.name](r), r)
