"""The tables of coefficients: each, rounded as it is, keeps the error it states."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from saccade.codegen.cpu.vector_math import error_function, exponentials, logarithms, powers, trigonometry
from saccade.codegen.cpu.vector_math.polynomial import Fit

Array = npt.NDArray[Any]
LONG = np.longdouble

needs_long_doubles = pytest.mark.skipif(
    np.finfo(LONG).nmant < 60, reason="this platform's long double is too short to measure FLOAT64 fits"
)


def value(fit: Fit, x: Array) -> Array:
    result = np.zeros_like(x)
    for coefficient in reversed(fit.coefficients):
        result = result * x + LONG(coefficient)
    return result


def points(fit: Fit) -> Array:
    x = np.linspace(LONG(fit.low), LONG(fit.high), 2001)
    return x[x != 0]


def relative(built: Array, truth: Array) -> float:
    return float(np.abs(built / truth - 1).max())


def exp2_error(fit: Fit) -> float:
    x = points(fit)
    return relative(value(fit, x), np.exp2(x))


def expm1_error(fit: Fit) -> float:
    x = points(fit)
    return relative(x + x * x * value(fit, x), np.expm1(x))


def log1p_error(fit: Fit) -> float:
    x = points(fit)
    return relative(x - x * x / 2 + x**3 * value(fit, x), np.log1p(x))


def artanh_error(fit: Fit) -> float:
    square = points(fit)
    s = np.sqrt(square)
    return relative(s * (2 + square * value(fit, square)), 2 * np.arctanh(s))


def sin_error(fit: Fit) -> float:
    square = points(fit)
    r = np.sqrt(square)
    return relative(r + r * square * value(fit, square), np.sin(r))


def cos_error(fit: Fit) -> float:
    square = points(fit)
    return relative(1 - square / 2 + square**2 * value(fit, square), np.cos(np.sqrt(square)))


def atan_error(fit: Fit) -> float:
    square = points(fit)
    t = np.sqrt(square)
    return relative(t + t * square * value(fit, square), np.arctan(t))


def artanh_tail_error(fit: Fit) -> float:
    square = points(fit)
    s = np.sqrt(square)
    return relative(s * (2 + square * LONG(2) / 3 + square**2 * value(fit, square)), 2 * np.arctanh(s))


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@cache
def erf(x: float) -> np.longdouble:
    """The error function by its power series, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        total = term = Decimal(x)
        n = 0
        while abs(term) > Decimal("1e-45"):
            n += 1
            term *= -Decimal(x) * Decimal(x) / n
            total += term / (2 * n + 1)
        return LONG(str(2 * total / PI.sqrt()))


def erf_inner_error(fit: Fit) -> float:
    x = np.linspace(1 / 64, 1, 64)
    truth = np.array([erf(float(one)) for one in x])
    return relative(x + x * value(fit, LONG(1) * x * x), truth)


def erf_outer_error(fit: Fit) -> float:
    x = np.linspace(1, fit.high + 1.5, 128)
    truth = np.array([erf(float(one)) for one in x])
    return relative(1 - np.exp2(value(fit, LONG(1) * x - LONG(1.5))), truth)


LIMIT = 4e-19  # what long doubles can tell apart

FITS: list[tuple[str, Fit, Callable[[Fit], float]]] = [
    ("exp2 coarse", exponentials.EXP2_COARSE, exp2_error),
    ("exp2 quick", exponentials.EXP2_QUICK, exp2_error),
    *((f"exp2 {name}", fit, exp2_error) for name, fit in exponentials.EXP2.items()),
    *((f"expm1 {name}", fit, expm1_error) for name, fit in exponentials.EXPM1.items()),
    ("log1p f32", logarithms.LOG1P_F32, log1p_error),
    ("artanh f64", logarithms.ARTANH_F64, artanh_error),
    *((f"sin {name}", fit, sin_error) for name, fit in trigonometry.SIN.items()),
    *((f"cos {name}", fit, cos_error) for name, fit in trigonometry.COS.items()),
    *((f"atan {name}", fit, atan_error) for name, fit in trigonometry.ATAN.items()),
    ("artanh tail", powers.ARTANH_TAIL, artanh_tail_error),
    *((f"erf inner {name}", fit, erf_inner_error) for name, fit in error_function.ERF_INNER.items()),
    *((f"erf outer {name}", fit, erf_outer_error) for name, fit in error_function.ERF_OUTER.items()),
]


@needs_long_doubles
@pytest.mark.parametrize(("fit", "error"), [pytest.param(f, error, id=name) for name, f, error in FITS])
def test_a_fit_keeps_its_error_and_states_it_tightly(fit: Fit, error: Callable[[Fit], float]) -> None:
    measured = error(fit)
    assert measured <= fit.error + LIMIT
    assert fit.error <= 4 * measured + LIMIT
