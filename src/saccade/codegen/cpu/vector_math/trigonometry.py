"""sin, cos, tan and atan.

sin, cos, tan:  x = n · π/2 + r,  |r| <= π/4, reduced in FLOAT64 for both formats; see `reduction`
atan:           one quotient brings |x| below tan(π/8)
"""

from __future__ import annotations

from saccade.codegen.cpu.emitter import F32, F64, I32, like
from saccade.codegen.cpu.vector_math.polynomial import Fit
from saccade.codegen.cpu.vector_math.real import Real, Whole, where
from saccade.codegen.cpu.vector_math.reduction import reduced

__all__ = ["atan", "cos", "sin", "tan"]

_SQUARED_QUARTER_PI = 0.6168502750680849

# (sin(r) / r - 1) / r² of r², relative to 1
SIN = {
    "f32": Fit(
        0.0, _SQUARED_QUARTER_PI, 8e-9, (-0.16666655242443085, 0.008332177996635437, -0.00019517233886290342)
    ),
    "f64": Fit(
        0.0,
        _SQUARED_QUARTER_PI,
        2e-17,
        (
            -0.16666666666666632,
            0.008333333333322413,
            -0.0001984126982980771,
            2.7557313691865466e-06,
            -2.505075810544871e-08,
            1.5896795034760382e-10,
        ),
    ),
}
# (cos(r) - 1 + r²/2) / r⁴ of r², relative to 1
COS = {
    "f32": Fit(
        0.0, _SQUARED_QUARTER_PI, 1e-9, (0.04166664555668831, -0.0013887366512790322, 2.4438379114144482e-05)
    ),
    "f64": Fit(
        0.0,
        _SQUARED_QUARTER_PI,
        5e-18,
        (
            0.0416666666666666,
            -0.0013888888888874125,
            2.480158728948215e-05,
            -2.755731435231791e-07,
            2.087572327071559e-09,
            -1.135964765454769e-11,
        ),
    ),
}
# (atan(t) / t - 1) / t² of t², relative to 1
ATAN = {
    "f32": Fit(
        0.0,
        0.17157287525380993,
        4e-9,
        (
            -0.33333316445350647,
            0.19998487830162048,
            -0.14243826270103455,
            0.10595827549695969,
            -0.06082988530397415,
        ),
    ),
    "f64": Fit(
        0.0,
        0.17157287525380993,
        1e-17,
        (
            -0.333333333333332,
            0.19999999999954,
            -0.1428571428023963,
            0.11111110785673785,
            -0.09090897822583978,
            0.07692061382060736,
            -0.06663117396738154,
            0.05847986588740459,
            -0.050397424201934674,
            0.038075642474070595,
            -0.017919284914334817,
        ),
    ),
}

_TAN_EIGHTH, _TAN_THREE_EIGHTHS = 0.41421356237309503, 2.414213562373095
# π/2 in two parts; π/4 is their half.
_HALF_PI = {
    "f32": (1.5707963705062866, -4.371138828673793e-08),
    "f64": (1.5707963267948966, 6.123233995736766e-17),
}
# |x| below which sin x and tan x are x, rounded, a zero's sign included.
_TINY = {"f32": 2.0**-13, "f64": 2.0**-27}


def sin(x: Real) -> Real:
    """Return sin x."""
    sine, cosine, turns = _sin_and_cos(x)
    result = _negated(where((turns & 1).differs(0), cosine, sine), turns)
    return where(abs(x) < _TINY[x.format.name], x, result)


def cos(x: Real) -> Real:
    """Return cos x."""
    sine, cosine, turns = _sin_and_cos(x)
    return _negated(where((turns & 1).differs(0), sine, cosine), turns + 1)


def tan(x: Real) -> Real:
    """Return tan x."""
    sine, cosine, turns = _sin_and_cos(x)
    odd = (turns & 1).differs(0)
    result = where(odd, -cosine, sine) / where(odd, sine, cosine)
    return where(abs(x) < _TINY[x.format.name], x, result)


def atan(x: Real) -> Real:
    """Return arctan x."""
    name = x.format.name
    magnitude = abs(x)
    # atan x = π/4 + atan((x - 1) / (x + 1)) = π/2 + atan(-1 / x)
    middle, large = magnitude > _TAN_EIGHTH, magnitude > _TAN_THREE_EIGHTHS
    one = x.constant(1.0)
    above = where(large, -one, where(middle, magnitude - 1.0, magnitude))
    below = where(large, magnitude, where(middle, magnitude + 1.0, one))
    high, low = (
        where(large, x.constant(part), where(middle, x.constant(part / 2), x.constant(0.0)))
        for part in _HALF_PI[name]
    )
    t = above / below
    square = t * t
    return (high + (t + (t * square).times_plus(ATAN[name](square), low))).signed_as(x)


def _sin_and_cos(x: Real) -> tuple[Real, Real, Whole]:
    """The sine and cosine of r, and the number of quarter turns, modulo 4."""
    if x.format.name == "f32":
        r, _, turns = reduced(x.converted(F64))
        narrow = x.emitter.builder.trunc(turns.value, like(x.value, I32))
        return *_near_0(r.converted(F32), x.constant(0.0)), Whole(x.emitter, narrow)
    high, low, turns = reduced(x)
    return *_near_0(high, low), turns


def _near_0(r: Real, low: Real) -> tuple[Real, Real]:
    """The sine and cosine of r + low for |r| <= π/4."""
    name = r.format.name
    square = r * r
    half = square * 0.5
    # sin(r + d) = sin r + d cos r, cos(r + d) = cos r - d sin r; and 1 - r²/2 keeps what it rounds off
    sine = r + (r * square).times_plus(SIN[name](square), low * (1.0 - half))
    most = 1.0 - half
    cosine = most + (1.0 - most - half + (square * square).times_plus(COS[name](square), -(r * low)))
    return sine, cosine


def _negated(x: Real, turns: Whole) -> Real:
    """x, or -x where bit 1 of the number of turns is set."""
    return (x.bits ^ ((turns & 2) << x.format.bits - 2)).as_real()
