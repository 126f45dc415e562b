"""Transfer functions of integer ops: intervals of int64 with wrap-around, and congruences.

A result that could pass the ends of int64 becomes the whole range, since the program's arithmetic wraps
there.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from saccade.analysis.interval import INT_MAX, INT_MIN, Array, Bools, Number, either, where_any

Congruence = tuple[int, int]
"""(modulus, residue), as in `Number`."""

ANYTHING: Congruence = (1, 0)


def reduced(modulus: int, residue: int) -> Congruence:
    """The congruence with its residue in range."""
    return (0, residue) if modulus == 0 else (modulus, residue % modulus)


def _number(
    lo: Array, hi: Array, lost: Bools, poison: Bools | None, congruence: Congruence = ANYTHING
) -> Number:
    """A number, the whole range where `lost`."""
    if lost.any():
        lo, hi = np.where(lost, INT_MIN, lo), np.where(lost, INT_MAX, hi)
        congruence = ANYTHING
    return Number(lo, hi, None, poison, *congruence)


def add(a: Number, b: Number) -> Number:
    """Bound a + b."""
    lo, hi = a.lo + b.lo, a.hi + b.hi
    # A sum overflows where its sign differs from the sign of both terms.
    lost = (((a.lo ^ lo) & (b.lo ^ lo)) < 0) | (((a.hi ^ hi) & (b.hi ^ hi)) < 0)
    known = reduced(gcd(a.modulus, b.modulus), a.residue + b.residue)
    return _number(lo, hi, lost, either(a.poison, b.poison), known)


def neg(a: Number) -> Number:
    """-a."""
    return _number(-a.hi, -a.lo, np.equal(a.lo, INT_MIN), a.poison, reduced(a.modulus, -a.residue))


def sub(a: Number, b: Number) -> Number:
    """Bound a - b."""
    lo, hi = a.lo - b.hi, a.hi - b.lo
    lost = (((a.lo ^ b.hi) & (a.lo ^ lo)) < 0) | (((a.hi ^ b.lo) & (a.hi ^ hi)) < 0)
    known = reduced(gcd(a.modulus, b.modulus), a.residue - b.residue)
    return _number(lo, hi, lost, either(a.poison, b.poison), known)


def mul(a: Number, b: Number) -> Number:
    """Bound a * b."""
    corners = [x * y for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    largest = np.maximum(np.abs(a.lo.astype(np.float64)), np.abs(a.hi.astype(np.float64))) * np.maximum(
        np.abs(b.lo.astype(np.float64)), np.abs(b.hi.astype(np.float64))
    )
    # (m s + r)(n t + p) = m n s t + m p s + n r t + r p
    modulus = gcd(a.modulus * b.modulus, a.modulus * b.residue, b.modulus * a.residue)
    known = reduced(modulus, a.residue * b.residue)
    return _number(*_hull(corners), largest >= 2.0**62, either(a.poison, b.poison), known)


def _hull(corners: list[Array]) -> tuple[Array, Array]:
    """The least and the greatest of several bounds."""
    lo = hi = corners[0]
    for corner in corners[1:]:
        lo, hi = np.minimum(lo, corner), np.maximum(hi, corner)
    return lo, hi


def absolute(a: Number) -> Number:
    """|a|."""
    crosses = (a.lo < 0) & (a.hi > 0)
    low, high = np.abs(a.lo), np.abs(a.hi)
    lo = np.where(crosses, 0, np.minimum(low, high))
    return _number(lo, np.maximum(low, high), np.equal(a.lo, INT_MIN), a.poison)


def minimum(a: Number, b: Number) -> Number:
    """The smaller of a and b."""
    return Number(np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi), None, either(a.poison, b.poison))


def maximum(a: Number, b: Number) -> Number:
    """The larger of a and b."""
    return Number(np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi), None, either(a.poison, b.poison))


def floor_div(a: Number, b: Number) -> Number:
    """floor(a / b); poison where b may be 0."""
    zero = (b.lo <= 0) & (b.hi >= 0)
    least, most = np.where(zero, 1, b.lo), np.where(zero, 1, b.hi)
    corners = [a.lo // least, a.hi // least]
    if b.lo is not b.hi:
        corners += [a.lo // most, a.hi // most]
    lo, hi = _hull(corners)
    poison = either(a.poison, b.poison)
    if zero.any():
        # |a // b| <= |a| for every divisor of magnitude 1 or more.
        size = np.maximum(np.abs(a.lo), np.abs(a.hi))
        lo, hi = np.where(zero, -size, lo), np.where(zero, size, hi)
        poison = either(poison, zero)
    divisor, known = b.constant, ANYTHING
    if divisor and a.modulus % divisor == 0:
        # (m t + r) // d = (m / d) t + r // d where d divides m
        known = reduced(abs(a.modulus // divisor), a.residue // divisor)
    return _number(lo, hi, np.equal(a.lo, INT_MIN), poison, known)


def remainder(a: Number, b: Number) -> Number:
    """Bound a - floor(a / b) * b; poison where b may be 0."""
    zero = (b.lo <= 0) & (b.hi >= 0)
    lo, hi = np.minimum(b.lo + 1, 0), np.maximum(b.hi - 1, 0)
    small = (a.lo >= 0) & (b.lo > 0)
    hi = np.where(small, np.minimum(hi, a.hi), hi)
    # With one quotient for the whole interval the remainder is a plain difference.
    divisor = np.where(zero, 1, b.lo)
    quotient = a.lo // divisor
    same = (b.lo == b.hi) & ~zero & (quotient == a.hi // divisor) & (a.lo != INT_MIN)
    lo, hi = np.where(same, a.lo - quotient * divisor, lo), np.where(same, a.hi - quotient * divisor, hi)
    poison = either(a.poison, b.poison, where_any(zero))
    known = ANYTHING
    if b.constant:
        known = reduced(gcd(a.modulus, b.constant), a.residue)
        if known[0] == abs(b.constant) and a.modulus:
            value = np.int64(a.residue % b.constant)
            return Number(value, value, None, poison, 0, int(value))
    return Number(lo, hi, None, poison, *known)


def _bits(a: Number, b: Number) -> Array:
    """The least 2**n - 1 with -2**n <= x <= 2**n - 1 for every x of both."""
    mask: Array = np.maximum(
        np.maximum(a.lo ^ (a.lo >> 63), a.hi ^ (a.hi >> 63)),
        np.maximum(b.lo ^ (b.lo >> 63), b.hi ^ (b.hi >> 63)),
    )
    for shift in (1, 2, 4, 8, 16, 32):
        mask |= mask >> shift
    return mask


def bit_and(a: Number, b: Number) -> Number:
    """Bound a & b, bit by bit; a mask 2**n - 1 is the remainder by 2**n."""
    for value, mask in ((a, b), (b, a)):
        ones = mask.constant
        if ones is not None and 0 <= ones < INT_MAX and ones & (ones + 1) == 0:
            size = np.int64(ones + 1)
            return remainder(value, Number(size, size, None, mask.poison, 0, ones + 1))
    bits = _bits(a, b)
    lo = np.where((a.lo >= 0) | (b.lo >= 0), 0, -bits - 1)
    # The result is at most any operand that is not negative.
    hi = np.where(
        a.lo >= 0, np.where(b.lo >= 0, np.minimum(a.hi, b.hi), a.hi), np.where(b.lo >= 0, b.hi, bits)
    )
    return Number(lo, hi, None, either(a.poison, b.poison))


def bit_or(a: Number, b: Number) -> Number:
    """Bound a | b, bit by bit."""
    bits = _bits(a, b)
    both = (a.lo >= 0) & (b.lo >= 0)
    lo = np.where(both, np.maximum(a.lo, b.lo), -bits - 1)
    hi = np.where((a.hi < 0) | (b.hi < 0), -1, bits)
    return Number(lo, hi, None, either(a.poison, b.poison))


def bit_xor(a: Number, b: Number) -> Number:
    """Bound a ^ b, bit by bit."""
    bits = _bits(a, b)
    lo = np.where((a.lo >= 0) & (b.lo >= 0), 0, -bits - 1)
    return Number(lo, bits, None, either(a.poison, b.poison))


def bit_not(a: Number) -> Number:
    """~a = -a - 1."""
    return Number(~a.hi, ~a.lo, None, a.poison, *reduced(a.modulus, -1 - a.residue))


def shl(a: Number, b: Number) -> Number:
    """Bound a << b modulo 2**64; a known shift is a product, 0 where it leaves 0..63."""
    shift = b.constant
    poison = either(a.poison, b.poison)
    if shift is None:
        shape = np.broadcast_shapes(np.shape(a.lo), np.shape(b.lo))
        return _number(a.lo, a.hi, np.ones(shape, bool), poison)
    if not 0 <= shift < 63:
        # 63 leaves the lowest bit alone: 0 or the least integer.
        least = np.int64(INT_MIN if shift == 63 else 0)
        return Number(least, np.int64(0), None, poison)
    factor = np.int64(1 << shift)
    product = mul(a, Number(factor, factor, None, None, 0, 1 << shift))
    return Number(product.lo, product.hi, None, poison, product.modulus, product.residue)


def shr(a: Number, b: Number) -> Number:
    """floor(a / 2**b); the sign of a where b leaves 0..63."""
    # Such a shift is one by 63.
    shifts = [np.where((bound < 0) | (bound > 63), 63, bound) for bound in (b.lo, b.hi)]
    least = np.minimum(*shifts)
    # From a negative shift to a positive one the interval also passes 0.
    least = np.where((b.lo < 0) & (b.hi >= 0), 0, least)
    most = np.where((b.lo < 0) | (b.hi > 63), 63, np.maximum(*shifts))
    corners = [x >> y for x in (a.lo, a.hi) for y in (least, most)]
    return Number(*_hull(corners), None, either(a.poison, b.poison))
