"""The meaning of each elementwise op as a numpy function: the reference every engine is held against.

Each function takes arrays of the node's argument types and returns an array of its type. Integer arithmetic
wraps in 64 bits; float32 is computed in float32. Division by an integer zero gives some number here: that it
has none is `interpret`'s to know. Call these under `np.errstate(all="ignore")`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from saccade.ir.dtype import DType
from saccade.ir.ops import Op

Array: TypeAlias = npt.NDArray[Any]

NUMPY_TYPE: dict[DType, type[np.generic]] = {
    DType.BOOL: np.bool_,
    DType.UINT8: np.uint8,
    DType.INT8: np.int8,
    DType.INT16: np.int16,
    DType.INT32: np.int32,
    DType.INT64: np.int64,
    DType.FLOAT16: np.float16,
    DType.BFLOAT16: np.float32,  # numpy has none: arrays of it travel as float32
    DType.FLOAT32: np.float32,
    DType.FLOAT64: np.float64,
}

_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has no erf, and this one is right to the last bit


def _floor_divide(a: Array, b: Array) -> Array:
    zero = b == 0
    return np.floor_divide(a, np.where(zero, 1, b))


def _remainder(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.remainder(a, b))
    zero = b == 0
    return np.remainder(a, np.where(zero, 1, b))


def _shift_left(a: Array, b: Array) -> Array:
    inside = (b >= 0) & (b < 64)
    return np.where(inside, np.left_shift(a, np.where(inside, b, 0)), 0)


def _shift_right(a: Array, b: Array) -> Array:
    inside = (b >= 0) & (b < 64)
    return np.right_shift(a, np.where(inside, b, 63))


ELEMENTWISE: dict[Op, Callable[..., Any]] = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.FLOOR_DIV: _floor_divide,
    Op.REMAINDER: _remainder,
    Op.POW: np.power,
    Op.NEG: np.negative,
    Op.ABS: np.absolute,
    Op.MINIMUM: np.minimum,
    Op.MAXIMUM: np.maximum,
    Op.AND: np.bitwise_and,
    Op.OR: np.bitwise_or,
    Op.XOR: np.bitwise_xor,
    Op.NOT: np.invert,
    Op.SHL: _shift_left,
    Op.SHR: _shift_right,
    Op.EQ: np.equal,
    Op.NE: np.not_equal,
    Op.LT: np.less,
    Op.LE: np.less_equal,
    Op.WHERE: np.where,
    Op.EXP: np.exp,
    Op.EXP2: np.exp2,
    Op.EXPM1: np.expm1,
    Op.LOG: np.log,
    Op.LOG2: np.log2,
    Op.LOG1P: np.log1p,
    Op.SQRT: np.sqrt,
    Op.RSQRT: lambda a: np.divide(a.dtype.type(1), np.sqrt(a)),
    Op.SIN: np.sin,
    Op.COS: np.cos,
    Op.TAN: np.tan,
    Op.ATAN: np.arctan,
    Op.TANH: np.tanh,
    Op.SIGMOID: lambda a: np.divide(a.dtype.type(1), np.add(a.dtype.type(1), np.exp(np.negative(a)))),
    Op.ERF: lambda a: np.asarray(_erf(a)).astype(a.dtype),
    Op.FLOOR: np.floor,
    Op.CEIL: np.ceil,
    Op.TRUNC: np.trunc,
    Op.ROUND: np.rint,
}

# How two parts of a reduction are joined, and what it is over nothing (an extent of 0 is SUM's alone).
REDUCE: dict[Op, Callable[..., Any]] = {Op.SUM: np.add, Op.MAX: np.maximum, Op.MIN: np.minimum}


def convert(value: Array, target: DType) -> Array:
    """`value` converted to the stored type `target`, then widened to its value type: the meaning of CAST.

    A float beyond the integers, or NaN, becomes -2**63 before it wraps, as x86 does; half types are rounded
    from float32, once.
    """
    if target is DType.BOOL:
        return np.asarray(value != 0)
    if target.is_int:
        whole = _to_int64(value) if value.dtype.kind == "f" else value.astype(np.int64)
        return whole.astype(NUMPY_TYPE[target]).astype(np.int64)
    if target is DType.FLOAT16:
        return value.astype(np.float32).astype(np.float16).astype(np.float32)
    if target is DType.BFLOAT16:
        return _round_to_bfloat16(value.astype(np.float32))
    return value.astype(NUMPY_TYPE[target])


def _to_int64(value: Array) -> Array:
    inside = (value >= -(2.0**63)) & (value < 2.0**63)
    return np.where(inside, np.where(inside, value, 0).astype(np.int64), np.int64(-(2**63)))


def _round_to_bfloat16(value: Array) -> Array:
    """Keep the upper 16 bits of each float32, rounding halves to even."""
    bits = np.ascontiguousarray(value).view(np.uint32).reshape(value.shape)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    kept = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(value), value, kept)
