"""Tensor descriptors made on the host: how hardware from Hopper on finds the tiles of a tensor by itself.

Owns the rules such a descriptor must keep; a kernel's parameter of type `tensordesc<...>` takes one.
Source: CUDA driver API, `cuTensorMapEncodeTiled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from saccade.errors import ArgumentError
from saccade.runtime.triton.installed import triton_package

__all__ = ["DESCRIPTOR_ALIGNMENT", "descriptor_fault", "tensor_descriptor"]

DESCRIPTOR_ALIGNMENT = 16
"""Bytes that the first element and all strides but the last must be multiples of."""

_MAX_RANK = 5
_MAX_SIZE = 2**32
_MAX_STRIDE_BYTES = 2**40


def tensor_descriptor(
    base: torch.Tensor, shape: Sequence[int], strides: Sequence[int], block: Sequence[int]
) -> Any:
    """Describe a tensor by its first element, so that a kernel loads blocks of it by index.

    What a block reads beyond the shape is 0. A dimension of one element may have any stride.

    Args:
        base: Holds the first element; only its address, dtype and device count.
        shape: Elements along each of one to five dimensions, at least one each.
        strides: Elements from one to the next along each dimension; the last is 1, the others a multiple of
            16 bytes.
        block: Elements of a block along each dimension, powers of two; 16 bytes or more along the last.

    Raises:
        ArgumentError: The tensor cannot be described, as `descriptor_fault` tells.
        MissingPackageError: Triton is not installed.
    """
    fault = descriptor_fault(base, shape, strides, block)
    if fault is not None:
        raise ArgumentError(f"a tensor descriptor cannot be made: {fault}.")
    unit = DESCRIPTOR_ALIGNMENT // base.element_size()
    legal = [unit if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
    legal[-1] = 1
    describe = triton_package().tools.tensor_descriptor.TensorDescriptor
    return describe(base, list(shape), legal, list(block))


def descriptor_fault(
    base: torch.Tensor, shape: Sequence[int], strides: Sequence[int], block: Sequence[int]
) -> str | None:
    """Tell why `tensor_descriptor` would refuse, in one clause; None if it would not."""
    rank, bytes_each = len(shape), base.element_size()
    if not (1 <= rank <= _MAX_RANK and len(strides) == rank and len(block) == rank):
        return (
            f"shape, strides and block must have one and the same rank from 1 to {_MAX_RANK}, but "
            f"shape={tuple(shape)}, strides={tuple(strides)}, block={tuple(block)}"
        )
    if not all(0 < size <= _MAX_SIZE for size in shape):
        return f"every size must be from 1 to 2**32, but shape={tuple(shape)}"
    if base.data_ptr() % DESCRIPTOR_ALIGNMENT:
        return f"the first element must be on {DESCRIPTOR_ALIGNMENT} bytes, but it is at {base.data_ptr():#x}"
    if strides[-1] != 1 and shape[-1] > 1:
        return f"the last stride must be 1, but strides={tuple(strides)}"
    for size, stride in zip(shape[:-1], strides[:-1], strict=True):
        step = stride * bytes_each
        if size > 1 and (step % DESCRIPTOR_ALIGNMENT or not 0 < step < _MAX_STRIDE_BYTES):
            return (
                f"strides but the last must be positive multiples of {DESCRIPTOR_ALIGNMENT} bytes below "
                f"2**40, but strides={tuple(strides)} of {bytes_each} bytes each"
            )
    if not all(size > 0 and size & (size - 1) == 0 for size in block):
        return f"every size of a block must be a power of two, but block={tuple(block)}"
    if block[-1] * bytes_each < DESCRIPTOR_ALIGNMENT:
        return f"a block must be {DESCRIPTOR_ALIGNMENT} bytes wide or more, but block={tuple(block)}"
    return None
