"""Rules that change a value's type or make a constant like it.

Devices are accepted and mean nothing: a program runs where its tensors are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import cast, make
from saccade.ir.ops import Op
from saccade.tracing.dtypes import stored_dtype
from saccade.tracing.operands import traced, value_of
from saccade.tracing.promotion import NUMBER_DTYPE
from saccade.tracing.recorder import describe, static_int
from saccade.tracing.value import Operand, Shape, Value

__all__ = [
    "convert",
    "detach",
    "full_like",
    "keep",
    "move",
    "new_full",
    "new_ones",
    "new_tensor",
    "new_zeros",
    "ones_like",
    "shape_of",
    "type_as",
    "type_of",
    "zeros_like",
]

# Widening that keeps every value: no instruction is needed, and the analysis sees through it.
_INT_WIDENS = {
    (a, b)
    for a in DType
    for b in DType
    if a.is_int and b.is_int and b.int_range[0] <= a.int_range[0] and a.int_range[1] <= b.int_range[1]
}


def convert(x: Value, stored: DType) -> Value:
    """`x` converted to a type as `.to(dtype)` does: floats truncate to integers, half types round."""
    # What was read or cast is of its stored type; what was computed may lie beyond it until it is cast.
    fits = x.expr.op is Op.LOAD or (x.expr.op is Op.CAST and x.expr.attr is x.stored)
    keeps = fits and (stored is x.stored or (x.stored, stored) in _INT_WIDENS)
    return x.derive(x.expr if keeps else cast(x.expr, stored), stored, x.shape)


def move(x: Value, *args: object, **kwargs: object) -> Value:
    """`x.to(...)`: a dtype, a device, both, or a tensor to be like."""
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, torch.dtype):
            return convert(x, stored_dtype(argument))
        if isinstance(argument, (Value, Tensor)):
            return type_as(x, argument)
    return x


def type_as(x: Value, other: Value | Tensor) -> Value:
    """`x` in the type of `other`."""
    return convert(x, other.stored if isinstance(other, Value) else stored_dtype(other.dtype))


def type_of(x: Value, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Value:
    """`x.type(dtype)`."""
    if not isinstance(dtype, torch.dtype):
        raise TraceError(
            f"type() expects a torch.dtype in a mod, got {describe(dtype)}; read .dtype for the type itself"
        )
    return convert(x, stored_dtype(dtype))


def keep(x: Value, *args: object, **kwargs: object) -> Value:
    """`x` itself: the rule of what concerns memory or devices alone (`clone`, `contiguous`, `cpu`)."""
    return x


def detach(x: Value) -> Value:
    """`x` without a derivative: a node whose derivative is given, and given for nothing."""
    if not x.stored.is_float or x.recorder.backward:
        return x
    return x.derive(make(Op.CUSTOM, (x.expr,), 0), x.stored, x.shape)


def shape_of(sizes: tuple[object, ...]) -> Shape:
    """A shape given as one sequence or as separate integers."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return tuple(static_int(size, "a size") for size in sizes)


def _constant(x: Value, shape: Shape, value: Operand, stored: DType) -> Value:
    filling = value_of(value, x, stored)
    return x.derive(convert(filling, stored).expr, stored, shape)


def new_full(
    x: Value, size: object, fill_value: Operand, *, dtype: torch.dtype | None = None, **placement: object
) -> Value:
    """A value of `size` that is `fill_value` everywhere, of x's type unless given."""
    return _constant(x, shape_of((size,)), fill_value, stored_dtype(dtype) if dtype else x.stored)


def new_ones(x: Value, *size: object, dtype: torch.dtype | None = None, **placement: object) -> Value:
    """Ones."""
    return _constant(x, shape_of(_sizes(size, placement)), 1, stored_dtype(dtype) if dtype else x.stored)


def new_zeros(x: Value, *size: object, dtype: torch.dtype | None = None, **placement: object) -> Value:
    """Zeros."""
    return _constant(x, shape_of(_sizes(size, placement)), 0, stored_dtype(dtype) if dtype else x.stored)


def _sizes(sizes: tuple[object, ...], keywords: dict[str, object]) -> tuple[object, ...]:
    return (keywords["size"],) if "size" in keywords else sizes


def new_tensor(x: Value, data: object, *, dtype: torch.dtype | None = None, **placement: object) -> Value:
    """`data` as a constant of x's type unless given."""
    stored = stored_dtype(dtype) if dtype else x.stored
    if type(data) in NUMBER_DTYPE:
        return _constant(x, (), data, stored)  # type: ignore[arg-type]
    if isinstance(data, Value):
        return detach(convert(data, stored))
    return convert(x.recorder.lift(torch.as_tensor(data, device="cpu")), stored)


def full_like(
    x: Value, fill_value: Operand, *, dtype: torch.dtype | None = None, **placement: object
) -> Value:
    """A value of x's shape that is `fill_value` everywhere."""
    model = traced(x, fill_value)
    like = value_of(x, model)
    return _constant(like, like.shape, fill_value, stored_dtype(dtype) if dtype else like.stored)


def ones_like(x: Value, *, dtype: torch.dtype | None = None, **placement: object) -> Value:
    """Ones of x's shape."""
    return full_like(x, 1, dtype=dtype)


def zeros_like(x: Value, *, dtype: torch.dtype | None = None, **placement: object) -> Value:
    """Zeros of x's shape."""
    return full_like(x, 0, dtype=dtype)
