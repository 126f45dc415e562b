"""Element types, named once for every layer.

`DType` names what a tensor stores. What a program *computes with* is narrower: `DType.value_type` maps every
stored type to one of four value types (BOOL, INT64, FLOAT32, FLOAT64). Integers are exact in 64 bits and half
precision is computed in float32, as fused kernels do; only an explicit cast rounds or wraps.
"""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """A stored element type. The value is its short name in program text."""

    BOOL = "bool"
    UINT8 = "u8"
    INT8 = "i8"
    INT16 = "i16"
    INT32 = "i32"
    INT64 = "i64"
    FLOAT16 = "f16"
    BFLOAT16 = "bf16"
    FLOAT32 = "f32"
    FLOAT64 = "f64"

    # Members are singletons, so identity hashing is right, and much faster than Enum's.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"DType.{self.name}"

    @property
    def is_float(self) -> bool:
        """True for the four floating types."""
        return self in _FLOATS

    @property
    def is_int(self) -> bool:
        """True for the integer types; BOOL is not one."""
        return self in _INT_RANGE

    @property
    def is_value_type(self) -> bool:
        """True for the four types expressions compute with."""
        return self.value_type is self

    @property
    def value_type(self) -> DType:
        """The type a value of this stored type is computed in."""
        return _VALUE_TYPE[self]

    @property
    def itemsize(self) -> int:
        """Bytes an element takes in memory."""
        return _ITEMSIZE[self]

    @property
    def int_range(self) -> tuple[int, int]:
        """The smallest and largest integer of this integer type."""
        return _INT_RANGE[self]


_FLOATS = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64})

_INT_RANGE = {
    DType.UINT8: (0, 2**8 - 1),
    DType.INT8: (-(2**7), 2**7 - 1),
    DType.INT16: (-(2**15), 2**15 - 1),
    DType.INT32: (-(2**31), 2**31 - 1),
    DType.INT64: (-(2**63), 2**63 - 1),
}

_VALUE_TYPE = {
    DType.BOOL: DType.BOOL,
    **dict.fromkeys(_INT_RANGE, DType.INT64),
    DType.FLOAT16: DType.FLOAT32,
    DType.BFLOAT16: DType.FLOAT32,
    DType.FLOAT32: DType.FLOAT32,
    DType.FLOAT64: DType.FLOAT64,
}

_ITEMSIZE = {
    DType.BOOL: 1,
    DType.UINT8: 1,
    DType.INT8: 1,
    DType.INT16: 2,
    DType.INT32: 4,
    DType.INT64: 8,
    DType.FLOAT16: 2,
    DType.BFLOAT16: 2,
    DType.FLOAT32: 4,
    DType.FLOAT64: 8,
}
