"""The one-to-one map between torch's dtypes and the `DType`s that programs know.

Complex, quantised and 8-bit floating types have no row: a tensor of such a type cannot be captured.
"""

from __future__ import annotations

import torch

from saccade.errors import DTypeError
from saccade.ir.dtype import DType

__all__ = ["STORED", "TORCH", "stored_dtype"]

TORCH: dict[DType, torch.dtype] = {
    DType.BOOL: torch.bool,
    DType.UINT8: torch.uint8,
    DType.INT8: torch.int8,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT32: torch.float32,
    DType.FLOAT64: torch.float64,
}

STORED: dict[torch.dtype, DType] = {dtype: stored for stored, dtype in TORCH.items()}


def stored_dtype(dtype: torch.dtype) -> DType:
    """Return the `DType` of a torch dtype.

    Raises:
        DTypeError: Programs know no such type.

    Example:
        >>> stored_dtype(torch.int32)
        DType.INT32
    """
    stored = STORED.get(dtype)
    if stored is None:
        known = ", ".join(str(name).removeprefix("torch.") for name in STORED)
        raise DTypeError(
            f"a mod computes with tensors of dtype {known}; got dtype={dtype}; convert it with .to(...)"
        )
    return stored
