"""ln, log2 and log1p.

x = 2^k · (1 + f),  sqrt(1/2) <= 1 + f < sqrt(2);   ln x = k · ln 2 + ln(1 + f)
"""

from __future__ import annotations

import math
import struct

from saccade.codegen.cpu.vector_math.exponentials import LN2
from saccade.codegen.cpu.vector_math.polynomial import Fit
from saccade.codegen.cpu.vector_math.real import FloatFormat, Real, Whole, where

__all__ = ["exponent_and_fraction", "log", "log1p", "log2"]

# (ln(1 + f) - f + f²/2) / f³, relative to ln(1 + f)
LOG1P_F32 = Fit(
    -0.29289321881345254,
    0.41421356237309515,
    8e-9,
    (
        0.3333333134651184,
        -0.2500081956386566,
        0.20001228153705597,
        -0.1662335991859436,
        0.1420174390077591,
        -0.131601482629776,
        0.12761640548706055,
        -0.07634644210338593,
    ),
)
# (2 artanh(s) / s - 2) / s² of s², relative to 2 artanh(s) / s
ARTANH_F64 = Fit(
    0.0,
    0.029437251522859434,
    2e-18,
    (
        0.6666666666666734,
        0.3999999999941396,
        0.28571428742562555,
        0.2222219855375728,
        0.181835654080833,
        0.15314021111244783,
        0.14796261124501628,
    ),
)

# 1 / ln 2 in two parts
LOG2_E = {
    "f32": (1.4426950216293335, 1.925963033500011e-08),
    "f64": (math.log2(math.e), 2.0355273740931033e-17),
}


def log(x: Real) -> Real:
    """Return ln x."""
    k, f = exponent_and_fraction(x)
    return _outside(x, _log_of(k, f))


def log2(x: Real) -> Real:
    """Return the logarithm to base 2, exact for powers of two."""
    k, f = exponent_and_fraction(x)
    near = _log_of(None, f)
    high, low = LOG2_E[x.format.name]
    return _outside(x, near.times_plus(low, near.times_plus(high, k)))


def log1p(x: Real) -> Real:
    """Return ln(1 + x)."""
    format_ = x.format
    total = x + 1.0
    exponent, significand = _split(total)
    # What the rounding of 1 + x lost, as a part of 2^k; of a large x that is nothing.
    lost = where(x < 1.0, x - (total - 1.0), 1.0 - (total - x))
    unit = (-exponent + 2 * format_.bias << format_.fraction_bits).as_real()
    f = significand - 1.0 + where(x < 4.0 / format_.epsilon, lost * unit, x.constant(0.0))
    result = _outside(total, _log_of(_unbiased(exponent, format_), f))
    return where(abs(x) < format_.epsilon / 4, x, result)


def exponent_and_fraction(x: Real) -> tuple[Real, Real]:
    """Return k and f, exactly, of a positive finite x; anything of another."""
    format_ = x.format
    lift = format_.fraction_bits + 1
    subnormal = x < format_.smallest_normal
    exponent, significand = _split(where(subnormal, x * 2.0**lift, x))
    k = _unbiased(exponent, format_)
    return where(subnormal, k - float(lift), k), significand - 1.0


def _split(x: Real) -> tuple[Whole, Real]:
    """The exponent k + bias and 1 + f of a positive normal x."""
    format_ = x.format
    one = format_.bias << format_.fraction_bits
    exponent = x.bits + (one - _bits_of_root_half(format_)) >> format_.fraction_bits
    return exponent, (x.bits - (exponent << format_.fraction_bits) + one).as_real()


def _unbiased(exponent: Whole, format_: FloatFormat) -> Real:
    """The exponent k as a number: it is written into the low bits of 2^fraction_bits."""
    large = 2.0**format_.fraction_bits
    written = exponent | (format_.fraction_bits + format_.bias << format_.fraction_bits)
    return written.as_real() - (large + format_.bias)


def _log_of(k: Real | None, f: Real) -> Real:
    """The logarithm k · ln 2 + ln(1 + f); small terms are added first."""
    high, low = LN2[f.format.name]
    half_square = f * f * 0.5
    if f.format.name == "f32":
        rest = f * (f * f) * LOG1P_F32(f) - half_square
        if k is None:
            return f + rest
        return k.times_plus(high, f + k.times_plus(low, rest))
    # ln(1 + f) = 2 artanh(s) = f - f²/2 + s · (f²/2 + s² · R(s²)),  s = f / (2 + f)
    s = f / (f + 2.0)
    square = s * s
    rest = s * (half_square + square * ARTANH_F64(square))
    if k is None:
        return f - (half_square - rest)
    return k.times_plus(high, f - (half_square - k.times_plus(low, rest)))


def _outside(x: Real, result: Real) -> Real:
    """The logarithm of any x, given that of a positive finite one."""
    special = where(x > 0.0, x, x.constant(math.nan))
    special = where(x.equals(0.0), x.constant(-math.inf), special)
    infinity = x.constant(math.inf)
    return where(x.emitter.binary("and_", x > 0.0, x < infinity), result, special)


def _bits_of_root_half(format_: FloatFormat) -> int:
    code = "f" if format_.name == "f32" else "d"
    return int.from_bytes(struct.pack(f"<{code}", math.sqrt(0.5)), "little")
