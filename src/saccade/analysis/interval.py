"""What is known of a value over a rectangle of pairs: an interval of numbers, or a set of truth values.

One `Number` or `Truth` describes N rectangles at once. This module owns the two forms and their invariants;
how each op maps them is in `integers`, `floats` and `logic`. Invariant: a description holds every value the
expression takes on the rectangle; it may hold more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from saccade.ir.dtype import DType

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

INT_MIN, INT_MAX = DType.INT64.int_range

NUMPY_TYPE: dict[DType, type[np.generic]] = {
    DType.BOOL: np.bool_,
    DType.INT64: np.int64,
    DType.FLOAT32: np.float32,
    DType.FLOAT64: np.float64,
}


@final
@dataclass(frozen=True, slots=True)
class Number:
    """The values of an integer or float expression on N rectangles.

    Attributes:
        lo: int64, float32 or float64, [N] or []: the least value; never NaN.
        hi: the same type and shape: the greatest, ``lo <= hi``. The same object as `lo` where every value is
            known.
        nan: bool [N] or []: whether the value may be NaN, besides those from lo to hi; None: nowhere.
        poison: bool [N] or []: whether the value may be poison; None: nowhere.
        modulus: Every integer value is `residue` modulo this; 0: it equals `residue`; 1: nothing is known.
        residue: ``0 <= residue < modulus``, or the value itself where modulus is 0.
    """

    lo: Array
    hi: Array
    nan: Bools | None = None
    poison: Bools | None = None
    modulus: int = 1
    residue: int = 0

    @property
    def constant(self) -> int | None:
        """The integer that this is on every rectangle, if it is one."""
        return self.residue if self.modulus == 0 and self.poison is None else None


@final
@dataclass(frozen=True, slots=True)
class Truth:
    """The values of a boolean expression on N rectangles: True, False, poison, at least one of them.

    Attributes:
        true: bool [N] or []: whether it may be True.
        false: bool [N] or []: whether it may be False.
        poison: bool [N] or []: whether it may be poison; None: nowhere.
    """

    true: Bools
    false: Bools
    poison: Bools | None = None


Value = Number | Truth


def either(*masks: Bools | None) -> Bools | None:
    """The union of masks, None standing for False everywhere."""
    union: Bools | None = None
    for mask in masks:
        if mask is not None:
            union = mask if union is None else union | mask
    return union


def where_any(mask: Bools) -> Bools | None:
    """The mask itself, or None where it is False everywhere."""
    return mask if mask.any() else None


def whole(dtype: DType, poison: Bools | None = None) -> Number:
    """Any value of a number type."""
    if dtype is DType.INT64:
        return Number(np.int64(INT_MIN), np.int64(INT_MAX), poison=poison)
    kind = NUMPY_TYPE[dtype]
    return Number(np.asarray(-np.inf, kind), np.asarray(np.inf, kind), np.asarray(True), poison)


def exactly(value: Array, dtype: DType, poison: Bools | None = None) -> Value:
    """The description of known values: `value` is [N] or []; entries under `poison` have none."""
    if poison is not None:
        poison = where_any(poison)
    if dtype is DType.BOOL:
        return Truth(value, ~value, poison)
    value = np.asarray(value, NUMPY_TYPE[dtype])
    if dtype is DType.INT64:
        if value.ndim == 0 and poison is None:
            return Number(value, value, modulus=0, residue=int(value))
        return Number(value, value, poison=poison)
    nan = np.isnan(value)
    if not nan.any():
        return Number(value, value, poison=poison)
    infinity = value.dtype.type(np.inf)
    return Number(np.where(nan, -infinity, value), np.where(nan, infinity, value), nan, poison)
