"""Torch's type promotion, for values that are never tensors.

Operands fall into three categories: tensors with axes, tensors without, Python numbers. A lower category
changes the result's type only when its kind (bool < integer < float) is the higher one. A Python float that
decides means float32, whatever `torch.set_default_dtype` says: a program must not depend on global state.
"""

from __future__ import annotations

import torch

from saccade.ir.dtype import DType
from saccade.tracing.dtypes import STORED, TORCH

__all__ = ["NUMBER_DTYPE", "WITH_NUMBER", "as_float", "common_dtype", "join"]

NUMBER_DTYPE: dict[type, DType] = {
    bool: DType.BOOL,
    int: DType.INT64,
    float: DType.FLOAT32,
    # Lengths under torch.compile and torch.export: numbers that must not be looked at.
    torch.SymInt: DType.INT64,
    torch.SymFloat: DType.FLOAT32,
}

_JOIN: dict[tuple[DType, DType], DType] = {
    (a, b): STORED[torch.promote_types(TORCH[a], TORCH[b])] for a in DType for b in DType
}


def join(a: DType, b: DType) -> DType:
    """The type of an operation between two operands of one category."""
    return _JOIN[a, b]


def _across(higher: DType | None, lower: DType | None) -> DType | None:
    """The type of an operation between two categories; None stands for a category without operands."""
    if higher is None or lower is None:
        return lower if higher is None else higher
    if higher.is_float or not (higher is DType.BOOL or lower.is_float):
        return higher
    return join(higher, lower)


WITH_NUMBER: dict[tuple[DType, type], DType] = {
    (stored, kind): _across(stored, number) or stored
    for stored in DType
    for kind, number in NUMBER_DTYPE.items()
}
"""The type of an operation between a value and a Python number, by the type of each."""


def common_dtype(shaped: DType | None, scalar: DType | None, number: DType | None) -> DType:
    """The type of an operation, from the joined type of each category (None: no operand of it).

    Example:
        >>> common_dtype(DType.BFLOAT16, DType.FLOAT32, DType.FLOAT32)
        DType.BFLOAT16
        >>> common_dtype(None, DType.INT64, DType.FLOAT32)
        DType.FLOAT32
    """
    result = _across(shaped, _across(scalar, number))
    assert result is not None, "an operation has operands"
    return result


def as_float(stored: DType) -> DType:
    """The type in which a function of real numbers, such as `exp`, is computed for a `stored` argument."""
    return stored if stored.is_float else DType.FLOAT32
