"""The error function.

erf x = x + x · P(x²)        |x| < 1
erf x = 1 - 2^Q(|x| - 3/2)   beyond, signed
"""

from __future__ import annotations

from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive
from saccade.codegen.cpu.vector_math.polynomial import Fit
from saccade.codegen.cpu.vector_math.real import Real, where

__all__ = ["erf"]

# erf(x) / x - 1 of x², relative to erf(x) / x
ERF_INNER = {
    "f32": Fit(
        0.0,
        1.0,
        3e-9,
        (
            0.12837916612625122,
            -0.3761262595653534,
            0.1128358542919159,
            -0.026853812858462334,
            0.005188327748328447,
            -0.0008010195451788604,
            7.853866554796696e-05,
        ),
    ),
    "f64": Fit(
        0.0,
        1.0,
        3.2e-17,
        (
            0.12837916709551256,
            -0.3761263890318352,
            0.11283791670944185,
            -0.026866170643111534,
            0.005223977606119031,
            -0.0008548325929341408,
            0.00012055293577709793,
            -1.4924712317577584e-05,
            1.644713176289836e-06,
            -1.6206315216985952e-07,
            1.3710986646190439e-08,
            -7.779480003192624e-10,
        ),
    ),
}
# log2(erfc(t + 3/2)), by its effect on erf
ERF_OUTER = {
    "f32": Fit(
        -0.5,
        2.5,
        4e-8,
        (
            -4.8827900886535645,
            -5.062129974365234,
            -1.2878097295761108,
            -0.03725051134824753,
            0.008686358109116554,
            -0.0018325771670788527,
            0.00026888781576417387,
        ),
    ),
    "f64": Fit(
        -0.5,
        4.5,
        1e-16,
        (
            -4.882789953523952,
            -5.062129516194538,
            -1.2878077782755437,
            -0.037256359627314724,
            0.008665903215785597,
            -0.0018137802823363254,
            0.00031156927639495384,
            -3.242268575457071e-05,
            -3.8190295745609875e-06,
            3.420724786855822e-06,
            -1.180216755098307e-06,
            2.7631090621560093e-07,
            -4.0274093902757684e-08,
            3.159175235970058e-10,
            1.4681516141044078e-09,
            -3.273606121756841e-10,
            2.55412868889479e-11,
        ),
    ),
}

# Where erf is 1, rounded.
_LIMIT = {"f32": 4.0, "f64": 6.0}


def erf(x: Real) -> Real:
    """Return the error function of x."""
    name = x.format.name
    magnitude = abs(x)
    inner = magnitude.times_plus(ERF_INNER[name](magnitude * magnitude), magnitude)
    exponent = ERF_OUTER[name](magnitude.at_most(_LIMIT[name]) - 1.5)
    outer = 1.0 - Real(x.emitter, exp2_of_nonpositive(x.emitter, exponent.value))
    # The larger part also for NaN, which it keeps.
    return where(magnitude < 1.0, inner, outer).signed_as(x)
