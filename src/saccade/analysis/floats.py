"""Transfer functions of float ops: intervals in the type the program computes in, NaN apart.

IEEE rounding is monotone, so the ends of a correctly rounded op computed in its own type bound it exactly.
Elementary functions are not correctly rounded: their ends are moved outward by a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saccade.analysis.interval import Array, Bools, Number, either, where_any
from saccade.ir.elementwise import ELEMENTWISE
from saccade.ir.ops import Op

# numpy's float32 functions stay within 4 ulps; the rest is reserve.
_ULPS = 16


def outward(lo: Array, hi: Array, ulps: float = _ULPS) -> tuple[Array, Array]:
    """The interval with its ends moved outward; an end at the infinity inside becomes the largest number."""
    kind = np.finfo(lo.dtype)
    relative, tiny = lo.dtype.type(ulps * kind.eps), lo.dtype.type(ulps * kind.smallest_subnormal)
    low = np.where(np.isposinf(lo), kind.max, lo)
    high = np.where(np.isneginf(hi), kind.min, hi)
    low = np.where(np.isfinite(low), low - np.abs(low) * relative - tiny, low)
    high = np.where(np.isfinite(high), high + np.abs(high) * relative + tiny, high)
    return low, high


def _infinite(a: Number) -> Bools:
    return np.isinf(a.lo) | np.isinf(a.hi)


def _number(lo: Array, hi: Array, lost: Bools, nan: Bools | None, poison: Bools | None) -> Number:
    """A number, anything at all where `lost`."""
    if not lost.any():
        return Number(lo, hi, nan, poison)
    infinity = lo.dtype.type(np.inf)
    return Number(np.where(lost, -infinity, lo), np.where(lost, infinity, hi), either(nan, lost), poison)


def add(a: Number, b: Number) -> Number:
    """Bound a + b; infinities of both signs may meet in NaN."""
    lost = _infinite(a) & _infinite(b)
    return _number(a.lo + b.lo, a.hi + b.hi, lost, either(a.nan, b.nan), either(a.poison, b.poison))


def sub(a: Number, b: Number) -> Number:
    """Bound a - b."""
    return add(a, neg(b))


def neg(a: Number) -> Number:
    """-a."""
    return Number(-a.hi, -a.lo, a.nan, a.poison)


def absolute(a: Number) -> Number:
    """|a|."""
    low, high = np.abs(a.lo), np.abs(a.hi)
    crosses = (a.lo < 0) & (a.hi > 0)
    lo = np.where(crosses, low.dtype.type(0), np.minimum(low, high))
    return Number(lo, np.maximum(low, high), a.nan, a.poison)


def _holds_zero(a: Number) -> Bools:
    return (a.lo <= 0) & (a.hi >= 0)


def _corners(op: Callable[[Array, Array], Array], a: Number, b: Number) -> tuple[Array, Array]:
    values = [op(x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return np.minimum.reduce(np.broadcast_arrays(*values)), np.maximum.reduce(np.broadcast_arrays(*values))


def mul(a: Number, b: Number) -> Number:
    """Bound a * b; 0 times an infinity is NaN."""
    lost = (_infinite(a) & _holds_zero(b)) | (_infinite(b) & _holds_zero(a))
    return _number(*_corners(np.multiply, a, b), lost, either(a.nan, b.nan), either(a.poison, b.poison))


def div(a: Number, b: Number) -> Number:
    """Bound a / b; anything where b may be 0 or both may be infinite."""
    lost = _holds_zero(b) | (_infinite(a) & _infinite(b))
    return _number(*_corners(np.divide, a, b), lost, either(a.nan, b.nan), either(a.poison, b.poison))


def remainder(a: Number, b: Number) -> Number:
    """Bound a - floor(a / b) * b: between 0 and b."""
    zero = b.lo.dtype.type(0)
    lo, hi = outward(np.minimum(b.lo, zero), np.maximum(b.hi, zero))
    lost = _holds_zero(b) | _infinite(a) | _infinite(b)
    shape = np.broadcast_shapes(np.shape(lost), np.shape(lo))
    return _number(
        np.broadcast_to(lo, shape),
        np.broadcast_to(hi, shape),
        lost,
        either(a.nan, b.nan),
        either(a.poison, b.poison),
    )


def power(a: Number, b: Number) -> Number:
    """Bound a ** b: for any base where the exponent is a known integer >= 1, else finite positive ones."""
    poison, nan = either(a.poison, b.poison), either(a.nan, b.nan)
    exponent = float(b.lo) if np.ndim(b.lo) == 0 and b.lo == b.hi else None
    if exponent is not None and exponent >= 1 and exponent.is_integer():
        lo, hi = _corners(np.power, a, b)
        if exponent % 2 == 0:
            lo = np.where(_holds_zero(a), lo.dtype.type(0), lo)
        lo, hi = outward(lo, hi)
        return Number(lo, hi, nan, poison)
    lost = (a.lo <= 0) | _infinite(a) | _infinite(b)
    return _number(*outward(*_corners(np.power, a, b)), lost, nan, poison)


def minimum(a: Number, b: Number) -> Number:
    """The smaller of a and b, NaN if either is."""
    return Number(
        np.minimum(a.lo, b.lo), np.minimum(a.hi, b.hi), either(a.nan, b.nan), either(a.poison, b.poison)
    )


def maximum(a: Number, b: Number) -> Number:
    """The larger of a and b, NaN if either is."""
    return Number(
        np.maximum(a.lo, b.lo), np.maximum(a.hi, b.hi), either(a.nan, b.nan), either(a.poison, b.poison)
    )


def rounding(op: Op) -> Callable[[Number], Number]:
    """FLOOR, CEIL, TRUNC or ROUND: exact and never decreasing."""
    function = ELEMENTWISE[op]

    def apply(a: Number) -> Number:
        return Number(function(a.lo), function(a.hi), a.nan, a.poison)

    return apply


def increasing(op: Op, least: float | None = None) -> Callable[[Number], Number]:
    """An elementary function that never decreases, NaN below `least`."""
    function = ELEMENTWISE[op]

    def apply(a: Number) -> Number:
        if least is None:
            lo, hi = outward(function(a.lo), function(a.hi))
            return Number(lo, hi, a.nan, a.poison)
        floor = a.lo.dtype.type(least)
        lo, hi = outward(function(np.maximum(a.lo, floor)), function(np.maximum(a.hi, floor)))
        return Number(lo, hi, either(a.nan, where_any(a.lo < floor)), a.poison)

    return apply


def rsqrt(a: Number) -> Number:
    """1 / sqrt(a), which falls; at 0 it is an infinity of the sign of zero."""
    function = ELEMENTWISE[Op.RSQRT]
    zero = a.lo.dtype.type(0)
    lo, hi = outward(function(np.maximum(a.hi, zero)), function(np.maximum(a.lo, zero)))
    return _number(lo, hi, a.lo <= 0, a.nan, a.poison)


def within(op: Op, least: float, most: float) -> Callable[[Number], Number]:
    """A bounded function, NaN at infinities: known at a point, between `least` and `most` otherwise."""
    function = ELEMENTWISE[op]

    def apply(a: Number) -> Number:
        kind = a.lo.dtype.type
        finite = np.isfinite(a.lo) & np.isfinite(a.hi)
        known = (a.lo == a.hi) & finite
        lo, hi = outward(*(2 * [np.where(known, function(a.lo), kind(0))]))
        lo, hi = np.where(known, lo, kind(least)), np.where(known, hi, kind(most))
        return Number(lo, hi, either(a.nan, where_any(~finite)), a.poison)

    return apply


def erf(a: Number) -> Number:
    """The error function by its sign and bound."""
    kind = a.lo.dtype.type
    lo = np.where(a.lo >= 0, kind(0), kind(-1))
    return Number(lo, np.where(a.hi <= 0, kind(0), kind(1)), a.nan, a.poison)


def total(a: Number, extent: int) -> Number:
    """The sum of `extent` terms, each in `a`, with the rounding of a sum in sequence."""
    count = a.lo.dtype.type(extent)
    lost = _infinite(a)
    size = np.maximum(np.abs(a.lo), np.abs(a.hi)) * count
    slack = size * a.lo.dtype.type(2 * extent * np.finfo(a.lo.dtype).eps)
    lo, hi = outward(a.lo * count - slack, a.hi * count + slack)
    return _number(lo, hi, lost | ~np.isfinite(size), a.nan, a.poison)
