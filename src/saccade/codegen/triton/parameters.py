"""The parameters of kernels: their names, Triton types, and what is promised of their values.

The host fills them by name. Strides and offsets count elements; the last stride of a tensor is 1 and no
parameter, and one of rows stays below 2**23, so that 32 bits hold an offset inside a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.triton.spec import KernelKind, TritonSpec, Walk
from saccade.ir.dtype import DType

__all__ = [
    "TRITON_TYPES",
    "Parameter",
    "dropout_parameters",
    "numbers",
    "poison_parameters",
    "range_parameters",
    "row_parameters",
    "tensor_parameters",
]

TRITON_TYPES = {
    DType.BOOL: "i1",
    DType.UINT8: "u8",
    DType.INT8: "i8",
    DType.INT16: "i16",
    DType.INT32: "i32",
    DType.INT64: "i64",
    DType.FLOAT16: "fp16",
    DType.BFLOAT16: "bf16",
    DType.FLOAT32: "fp32",
    DType.FLOAT64: "fp64",
}
"""What each element type is called in a Triton signature; `*` before it makes a pointer."""

_POINTER_BYTES = 16
_STRIDE_ELEMENTS = 8


@final
@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes:
        name: Unique in the kernel.
        type: Its type in a Triton signature, such as "*bf16", "i32" or "tensordesc<bf16[1, 1, 64, 128]>".
        divisible: What its value is a multiple of: bytes of an address, elements of a stride.
    """

    name: str
    type: str
    divisible: int = 1


def tensor_parameters(spec: TritonSpec, name: str, axis: str) -> tuple[Parameter, ...]:
    """Return a tensor's address and its strides of batch, head and row.

    Args:
        spec: The kernel; its dtype is the tensor's.
        name: The tensor's name.
        axis: What its rows are: "q" or "k".
    """
    pointer, stride = (_POINTER_BYTES, _STRIDE_ELEMENTS) if spec.aligned else (1, 1)
    return (
        Parameter(name, "*" + TRITON_TYPES[spec.key.dtype], pointer),
        *(Parameter(f"{name}_{index}", "i64", stride) for index in ("b", "h", axis)),
    )


def row_parameters(*names: str) -> tuple[Parameter, ...]:
    """Return dense float32 tensors of one number a row, such as lse, from memory that the host allocates."""
    return tuple(Parameter(name, "*fp32", _POINTER_BYTES) for name in names)


def numbers(*names: str) -> tuple[Parameter, ...]:
    """Return sizes and other run-time numbers of 32 bits."""
    return tuple(Parameter(name, "i32") for name in names)


def range_parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    """Return where a kernel's tiles and ranges stand in tables; nothing where it needs no table."""
    if spec.walk is not Walk.TABLE or spec.kind in (KernelKind.COMBINE, KernelKind.DELTA):
        return ()
    tables: Sequence[str] = ("tile_first", "tile_last", "order")
    tables = (*tables, *(f"full_{part}" for part in ("offsets", "start", "stop")))
    tables = (*tables, *(f"partial_{part}" for part in ("offsets", "start", "stop", "whole")))
    return (*(Parameter(name, "*i32") for name in tables), *numbers("runs_b", "runs_h"))


def dropout_parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    """Return the dropout stream's seed and what is done with it; nothing without dropout."""
    if not spec.key.dropout:
        return ()
    return (*numbers("seed_low", "seed_high", "keep_threshold"), Parameter("keep_factor", "fp32"))


def poison_parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    """Return the record in which poison is noted; nothing where none is."""
    return (Parameter("poison", "*i64"),) if spec.checks else ()
