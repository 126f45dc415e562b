"""Fitted polynomials, as data; each stands beside the function it serves.

How the coefficients were made: Remez's exchange algorithm in 60-digit arithmetic minimises the largest error
of the final function over the interval, relative to that function; then each coefficient is rounded to the
format. A `Fit` states its interval and its error, and the tests measure that error anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.vector_math.real import Real

__all__ = ["Fit"]


@final
@dataclass(frozen=True)
class Fit:
    """A polynomial and where it serves.

    Attributes:
        low: The interval's lower end.
        high: Its upper end.
        error: The largest error of the function built on it, relative to that function, before rounding.
        coefficients: At least two, the constant one first.
    """

    low: float
    high: float
    error: float
    coefficients: tuple[float, ...]

    def __call__(self, x: Real) -> Real:
        """Return the polynomial at x."""
        *lower, second, highest = self.coefficients
        result = x.times_plus(highest, second)
        for coefficient in reversed(lower):
            result = result.times_plus(x, coefficient)
        return result

    def doubled(self) -> Fit:
        """Return twice this polynomial of twice the argument; its coefficients are as exact."""
        coefficients = tuple(2.0 ** (power + 1) * c for power, c in enumerate(self.coefficients))
        return Fit(self.low / 2, self.high / 2, self.error, coefficients)
