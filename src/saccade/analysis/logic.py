"""Transfer functions of booleans: comparisons, Kleene's AND and OR with poison, choice, conversions.

Comparisons take integers and floats alike; a NaN compares False, except to NE.
"""

from __future__ import annotations

import numpy as np

from saccade.analysis.interval import (
    INT_MAX,
    INT_MIN,
    NUMPY_TYPE,
    Array,
    Bools,
    Number,
    Truth,
    Value,
    either,
    where_any,
)
from saccade.ir.dtype import DType
from saccade.ir.elementwise import convert


def _or_false(mask: Bools | None) -> Bools:
    return np.False_ if mask is None else mask  # type: ignore[return-value]


def conjunction(a: Truth, b: Truth) -> Truth:
    """Decide a & b: False & poison = False."""
    true, false = a.true & b.true, a.false | b.false
    if a.poison is None and b.poison is None:
        return Truth(true, false)
    # Poison wins unless the other side can only be False.
    pa, pb = _or_false(a.poison), _or_false(b.poison)
    return Truth(true, false, where_any((pa & (b.true | pb)) | (pb & (a.true | pa))))


def disjunction(a: Truth, b: Truth) -> Truth:
    """Decide a | b: True | poison = True."""
    return negation(conjunction(negation(a), negation(b)))


def negation(a: Truth) -> Truth:
    """Decide ~a."""
    return Truth(a.false, a.true, a.poison)


def parity(a: Truth, b: Truth) -> Truth:
    """Decide a ^ b, which is a != b."""
    true = (a.true & b.false) | (a.false & b.true)
    false = (a.true & b.true) | (a.false & b.false)
    return Truth(true, false, either(a.poison, b.poison))


def equal_truth(a: Truth, b: Truth) -> Truth:
    """Decide a == b."""
    return negation(parity(a, b))


def less_truth(a: Truth, b: Truth) -> Truth:
    """Decide a < b: False before True."""
    false = (a.true & (b.true | b.false)) | (b.false & a.false)
    return Truth(a.false & b.true, false, either(a.poison, b.poison))


def less_equal_truth(a: Truth, b: Truth) -> Truth:
    """Decide a <= b."""
    return negation(less_truth(b, a))


def _compared(true: Bools, false: Bools, a: Number, b: Number) -> Truth:
    """A comparison that is False where either side is NaN."""
    return Truth(true, _or_false(either(false, a.nan, b.nan)), either(a.poison, b.poison))


def equal(a: Number, b: Number) -> Truth:
    """Decide a == b."""
    true = (a.lo <= b.hi) & (b.lo <= a.hi)
    modulus = np.gcd(a.modulus, b.modulus)
    if modulus != 1 and (a.residue - b.residue if modulus == 0 else (a.residue - b.residue) % modulus):
        true = np.zeros_like(true)
    return _compared(true, (a.lo != b.hi) | (a.hi != b.lo), a, b)


def not_equal(a: Number, b: Number) -> Truth:
    """Decide a != b."""
    return negation(equal(a, b))


def less(a: Number, b: Number) -> Truth:
    """Decide a < b."""
    return _compared(a.lo < b.hi, a.hi >= b.lo, a, b)


def less_equal(a: Number, b: Number) -> Truth:
    """Decide a <= b."""
    return _compared(a.lo <= b.hi, a.hi > b.lo, a, b)


def where_truth(condition: Truth, a: Truth, b: Truth) -> Truth:
    """Decide a if condition else b."""
    true = (condition.true & a.true) | (condition.false & b.true)
    false = (condition.true & a.false) | (condition.false & b.false)
    return Truth(true, false, _chosen_poison(condition, a, b))


def _chosen_poison(condition: Truth, a: Value, b: Value) -> Bools | None:
    """Poison of a choice: the condition's, or that of a side that may be taken."""
    return either(
        condition.poison,
        None if a.poison is None else where_any(a.poison & condition.true),
        None if b.poison is None else where_any(b.poison & condition.false),
    )


def where_number(condition: Truth, a: Number, b: Number) -> Number:
    """Bound a if condition else b: the hull of the sides that may be taken."""
    only_a, only_b = condition.true & ~condition.false, condition.false & ~condition.true
    lo = np.where(only_a, a.lo, np.where(only_b, b.lo, np.minimum(a.lo, b.lo)))
    hi = np.where(only_a, a.hi, np.where(only_b, b.hi, np.maximum(a.hi, b.hi)))
    nan = either(
        None if a.nan is None else where_any(a.nan & ~only_b),
        None if b.nan is None else where_any(b.nan & ~only_a),
    )
    return Number(lo, hi, nan, _chosen_poison(condition, a, b))


def from_truth(a: Truth, target: DType) -> Number:
    """A boolean as 0 or 1."""
    # Where only poison is possible, any interval will do as long as lo <= hi.
    lo = np.where(a.false, 0, 1)
    hi = np.maximum(lo, a.true)
    kind = NUMPY_TYPE[target.value_type]
    return Number(lo.astype(kind), hi.astype(kind), None, a.poison)


def to_truth(a: Number) -> Truth:
    """Decide a != 0; NaN is True."""
    zero = (a.lo <= 0) & (a.hi >= 0)
    true = (a.lo != 0) | (a.hi != 0)
    return Truth(true if a.nan is None else true | a.nan, zero, a.poison)


def to_integer(a: Number, target: DType) -> Number:
    """Truncate toward zero and wrap; an interval that does not fit becomes the target's whole range."""
    least, most = target.int_range
    lo: Array = a.lo
    hi: Array = a.hi
    if a.lo.dtype.kind == "f":
        fits = (a.lo >= -(2.0**63)) & (a.hi < 2.0**63)
        if a.nan is not None:
            fits = fits & ~a.nan
        lo = np.where(fits, np.where(fits, a.lo, 0).astype(np.int64), INT_MIN)
        hi = np.where(fits, np.where(fits, a.hi, 0).astype(np.int64), INT_MAX)
    fits = (lo >= least) & (hi <= most)
    if fits.all():
        unchanged = a.lo.dtype.kind == "i"
        return (
            Number(lo, hi, None, a.poison, a.modulus, a.residue)
            if unchanged
            else Number(lo, hi, None, a.poison)
        )
    return Number(np.where(fits, lo, least), np.where(fits, hi, most), None, a.poison)


def to_float(a: Number, target: DType) -> Number:
    """Round to a float type, which is monotone."""
    return Number(convert(a.lo, target), convert(a.hi, target), a.nan, a.poison)
