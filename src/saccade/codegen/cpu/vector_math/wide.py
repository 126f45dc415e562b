"""Sums and products whose rounding errors are kept, and numbers of two parts made of them.

The error of a sum, and of a product, of two floats is itself a float (Dekker, "A floating-point technique for
extending the available precision", 1971; Knuth, TAOCP 2, 4.2.2). A `Pair` is an unevaluated sum of a number
and a much smaller one: twice the precision.
"""

from __future__ import annotations

from typing import NamedTuple

from saccade.codegen.cpu.vector_math.real import Real

__all__ = ["Pair", "exact_product", "exact_sum", "ordered_sum"]


class Pair(NamedTuple):
    """high + low, where |low| is at most about an ulp of high."""

    high: Real
    low: Real

    def times(self, other: Pair) -> Pair:
        """Return the product, to nearly twice the precision."""
        product = exact_product(self.high, other.high)
        cross = self.high.times_plus(other.low, self.low.times_plus(other.high, product.low))
        return ordered_sum(product.high, cross)


def exact_sum(a: Real, b: Real) -> Pair:
    """Return a + b without error."""
    total = a + b
    part = total - a
    return Pair(total, (a - (total - part)) + (b - part))


def ordered_sum(a: Real, b: Real) -> Pair:
    """Return a + b without error if |a| >= |b| or a is 0."""
    total = a + b
    return Pair(total, b - (total - a))


def exact_product(a: Real, b: Real) -> Pair:
    """Return a · b without error (without a fused multiply-add: but for 2^-104 of it)."""
    product = a * b
    if a.emitter.isa.fma:
        return Pair(product, a.times_plus(b, -product))
    a_high, a_low = halves(a)
    b_high, b_low = halves(b)
    error = a_high * b_high - product + a_high * b_low + a_low * b_high + a_low * b_low
    return Pair(product, error)


def halves(a: Real) -> Pair:
    """Return the leading half of the significand's bits, and the rest, one bit longer."""
    dropped = (a.format.fraction_bits + 2) // 2
    high = (a.bits & -(1 << dropped)).as_real()
    return Pair(high, a - high)
