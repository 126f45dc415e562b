"""Rules for reductions over axes of static extent: sums, extrema, any, all, dot products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saccade.errors import TraceError, UnsupportedOpError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, cast, const, make
from saccade.ir.ops import Op
from saccade.tracing.arithmetic import divide, maximum, minimum, multiply
from saccade.tracing.axes import position_of
from saccade.tracing.conversion import convert
from saccade.tracing.dtypes import stored_dtype
from saccade.tracing.indexing import renamed
from saccade.tracing.operands import traced
from saccade.tracing.value import Operand, Value

__all__ = ["all_of", "amax", "amin", "any_of", "dot", "matmul", "max_of", "mean", "min_of", "sum_of"]


def _reduce(op: Op, x: Value, dim: object, keepdim: bool) -> Value:
    """Bind axes of `x`, all of them where `dim` is None or empty."""
    rank = len(x.shape)
    named = tuple(dim) if isinstance(dim, (tuple, list)) else () if dim is None else (dim,)
    positions = sorted({position_of(d, rank) for d in named or range(rank)} if rank else ())
    kept = [position for position in range(rank) if position not in positions]
    shape = (
        tuple(1 if p in positions else size for p, size in enumerate(x.shape))
        if keepdim
        else tuple(x.shape[p] for p in kept)
    )
    bound = {position: x.recorder.fresh_axis() for position in positions}
    mapping = {axis(rank - 1 - position): axis(k) for position, k in bound.items()}
    if not keepdim:
        mapping.update({axis(rank - 1 - old): axis(len(kept) - 1 - new) for new, old in enumerate(kept)})
    expr = renamed(x.expr, {a: b for a, b in mapping.items() if a is not b})
    for position, k in bound.items():
        expr = _bind(op, expr, k, x.shape[position])
    return x.derive(expr, x.stored, shape)


def _bind(op: Op, body: Expr, k: int, extent: int) -> Expr:
    if extent == 0 and op is not Op.SUM:
        raise TraceError(
            "the largest or smallest of an axis needs an extent of 1 or more, got 0; guard it outside the mod"
        )
    return make(op, (body,), (k, int(extent)))  # a symbol of torch.compile is settled: code depends on it


def sum_of(x: Value, dim: object = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    """The sum over the named axes, or all; integers and bools are summed as int64."""
    stored = stored_dtype(dtype) if dtype else x.stored if x.stored.is_float else DType.INT64
    return _reduce(Op.SUM, convert(x, stored), dim, keepdim)


def mean(x: Value, dim: object = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Value:
    """The mean over the named axes, or all."""
    stored = stored_dtype(dtype) if dtype else x.stored
    if not stored.is_float:
        raise TraceError(f"mean() expects floats, got {stored.value}; convert with .float()")
    total = sum_of(x, dim, keepdim, dtype=dtype)
    return divide(total, math.prod(x.shape) // max(math.prod(total.shape), 1))


def amax(x: Value, dim: object = None, keepdim: bool = False) -> Value:
    """The largest over the named axes, or all."""
    return _extremum(Op.MAX, x, dim, keepdim)


def amin(x: Value, dim: object = None, keepdim: bool = False) -> Value:
    """The smallest over the named axes, or all."""
    return _extremum(Op.MIN, x, dim, keepdim)


def _extremum(op: Op, x: Value, dim: object, keepdim: bool) -> Value:
    if x.stored is not DType.BOOL:
        return _reduce(op, x, dim, keepdim)
    as_integers = _reduce(op, x.derive(cast(x.expr, DType.INT64), DType.INT64, x.shape), dim, keepdim)
    return as_integers.derive(
        make(Op.NE, (as_integers.expr, const(0, DType.INT64))), DType.BOOL, as_integers.shape
    )


def max_of(x: Operand, other: Operand | None = None, keepdim: bool = False, *, dim: object = None) -> Value:
    """`max(x)` over all axes, or the larger of two values."""
    if dim is not None or (isinstance(other, int) and not isinstance(other, bool)):
        raise UnsupportedOpError(
            "max along an axis returns indices too, which a mod cannot; write amax(dim=...) for the values"
        )
    return maximum(x, other) if other is not None else amax(traced(x))


def min_of(x: Operand, other: Operand | None = None, keepdim: bool = False, *, dim: object = None) -> Value:
    """`min(x)` over all axes, or the smaller of two values."""
    if dim is not None or (isinstance(other, int) and not isinstance(other, bool)):
        raise UnsupportedOpError(
            "min along an axis returns indices too, which a mod cannot; write amin(dim=...) for the values"
        )
    return minimum(x, other) if other is not None else amin(traced(x))


def any_of(x: Value, dim: object = None, keepdim: bool = False) -> Value:
    """Whether some element is nonzero."""
    return _extremum(Op.MAX, convert(x, DType.BOOL), dim, keepdim)


def all_of(x: Value, dim: object = None, keepdim: bool = False) -> Value:
    """Whether every element is nonzero."""
    return _extremum(Op.MIN, convert(x, DType.BOOL), dim, keepdim)


def dot(x: Value | Tensor, y: Value | Tensor) -> Value:
    """The inner product of two vectors of one length."""
    recorder = traced(x, y).recorder
    a, b = recorder.lift(x), recorder.lift(y)
    if len(a.shape) != 1 or len(b.shape) != 1 or a.shape != b.shape:
        raise TraceError(
            f"dot() expects two vectors of one length, got shapes {a.shape} and {b.shape}; "
            "index the other axes first"
        )
    return sum_of(multiply(a, b))


def matmul(x: Value | Tensor, y: Value | Tensor) -> Value:
    """`x @ y` of two vectors."""
    if len(x.shape) != 1 or len(y.shape) != 1:
        raise UnsupportedOpError(
            f"matmul in a mod takes two vectors, got shapes {tuple(x.shape)} and {tuple(y.shape)}; "
            "multiply the captured tensors outside the mod, or write (a * b).sum(-1)"
        )
    return dot(x, y)
