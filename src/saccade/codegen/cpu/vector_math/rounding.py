"""Rounding to integers: floor, ceil, trunc, round; the sign of a zero is that of the argument.

Where there is no instruction, the sum with 2^fraction_bits rounds; a number that large is an integer already.
"""

from __future__ import annotations

from saccade.codegen.cpu.vector_math.real import Real, where

__all__ = ["ceil", "floor", "nearest", "trunc"]


def nearest(x: Real) -> Real:
    """Return the nearest integer, halves to even."""
    if x.emitter.isa.rounds:
        return _by_instruction("roundeven", x)
    magnitude, large = abs(x), 2.0**x.format.fraction_bits
    return where(magnitude < large, (magnitude + large - large).signed_as(x), x)


def floor(x: Real) -> Real:
    """Return the largest integer <= x."""
    if x.emitter.isa.rounds:
        return _by_instruction("floor", x)
    rounded = nearest(x)
    return where(rounded > x, rounded - 1.0, rounded)


def ceil(x: Real) -> Real:
    """Return the smallest integer >= x."""
    if x.emitter.isa.rounds:
        return _by_instruction("ceil", x)
    return -floor(-x)


def trunc(x: Real) -> Real:
    """Return x rounded toward zero."""
    if x.emitter.isa.rounds:
        return _by_instruction("trunc", x)
    return floor(abs(x)).signed_as(x)


def _by_instruction(name: str, x: Real) -> Real:
    return Real(x.emitter, x.emitter.intrinsic(f"llvm.{name}", x.value.type, [x.value]))
