"""Rules for indexing.

`tensor[b][h, q_idx]`, `tensor[..., kv_idx]`, `tensor[:, kv_idx][h]`: an index takes the place of an axis
variable, and what is left is a value with fewer axes; nothing is read before all are gone. Slices of captured
tensors are taken by torch.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from saccade.errors import IndexOutOfRangeError, TraceError
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis, load, make, substitute, walk
from saccade.ir.ops import Op
from saccade.tracing.dtypes import stored_dtype
from saccade.tracing.operands import traced
from saccade.tracing.recorder import AXES, Recorder, describe, plain_number
from saccade.tracing.value import Shape, Value, broadcast, broadcast_shapes, has_axes

__all__ = ["embedding", "getitem", "index_select", "renamed", "take"]

_WHOLE = slice(None)


def getitem(source: Value | Tensor, index: object) -> Value:
    """`source[index]`, for values, integers, slices, None and `...` with something traced among them."""
    element = _leading(source, index if type(index) is tuple else (index,))
    if element is not None:
        return element
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if isinstance(item, (list, tuple, str)):
            raise TraceError(
                f"an index in a mod is an integer, a value, a slice, None or `...`; got {describe(item)}; "
                "index the axes one by one, as in table[h, q_idx]"
            )
    recorder = traced(source, *items).recorder
    items = _without_ellipsis(items, tuple(source.shape))
    if isinstance(source, Tensor):
        source, items = _slice_tensor(source, items)
    return _select(recorder.lift(source), [_checked(item, recorder) for item in items])


def _leading(source: Value | Tensor, items: tuple[object, ...]) -> Value | None:
    """The short way for the usual index: the first axes of a captured tensor, or of a part, at scalars."""
    indices: list[Expr] = []
    item: object = None
    for item in items:
        if not isinstance(item, Value) or item.shape or item.stored is not DType.INT64:
            return None
        indices.append(item.expr)
    rank = len(source.shape)
    left = rank - len(indices)
    if left < 0:
        return None
    if isinstance(source, Tensor):
        assert isinstance(item, Value), "something in the index is traced"
        stored = stored_dtype(source.dtype)
        args = (*indices, *AXES[len(AXES) - left :])
        return item.derive(
            load(item.recorder.slot(source), args, stored.value_type),
            stored,
            tuple(source.shape[rank - left :]),
        )
    expr = source.expr
    axes = AXES[len(AXES) - rank :]
    if expr.op is not Op.LOAD or expr.args[-rank:] != axes:
        return None
    args = (*expr.args[:-rank], *indices, *axes[rank - left :])
    return source.derive(load(expr.attr, args, expr.dtype), source.stored, source.shape[rank - left :])


def _without_ellipsis(items: list[object], shape: Shape) -> list[object]:
    """The same index with one item for every axis, and None for every new one."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > len(shape):
        raise TraceError(
            f"a tensor of shape {shape} takes at most {len(shape)} indices, got {used}; leave some out"
        )
    missing: list[object] = [_WHOLE] * (len(shape) - used)
    dots = [position for position, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise TraceError(f"an index may hold one `...`, got {len(dots)}; write `:` for single axes")
    at = dots[0] if dots else len(items)
    return items[:at] + missing + items[at + 1 :]


def _slice_tensor(source: Tensor, items: list[object]) -> tuple[Tensor, list[object]]:
    """Take the slices of a captured tensor at once: it is torch's own business."""
    cuts = [item for item in items if item is not None]
    if all(item == _WHOLE for item in cuts if isinstance(item, slice)):
        return source, items
    for item in cuts:
        if isinstance(item, slice):
            _require_static(item)
    source = source[tuple(item if isinstance(item, slice) else _WHOLE for item in cuts)]
    return source, [_WHOLE if isinstance(item, slice) else item for item in items]


def _require_static(item: slice) -> None:
    if any(isinstance(bound, Value) for bound in (item.start, item.stop, item.step)):
        raise TraceError(
            "a slice needs Python numbers for bounds, because its length is a shape; got a traced value; "
            "compare positions instead, as in `kv_idx < end[b]`"
        )


def _checked(item: object, recorder: Recorder) -> Value | int | slice | None:
    """An index item, tensors lifted; refused if its meaning would depend on data."""
    item = plain_number(item)
    if item is None or isinstance(item, slice):
        return item
    if isinstance(item, bool):
        raise TraceError(f"an index in a mod must be an integer, got {item}; write None for a new axis")
    if isinstance(item, int):
        return item
    value = recorder.lift(item)  # type: ignore[arg-type]
    if value.stored in (DType.BOOL, DType.UINT8):
        raise TraceError(
            f"indexing by {value.stored.value} selects a number of elements that depends on data; "
            "write torch.where(condition, a, b), or convert the index with .long()"
        )
    if value.stored.is_float:
        raise TraceError(f"an index must be an integer, got {value.stored.value}; convert it with .long()")
    return value


class _Axis(NamedTuple):
    """An axis of the result."""

    size: int
    source: int | None  # the axis of the indexed value that it is; None for a new one


def _select(value: Value, items: list[Value | int | slice | None]) -> Value:
    """Put indices in the place of axes."""
    index_shape = broadcast_shapes(*(item.shape for item in items if isinstance(item, Value)))
    replaced: dict[int, Expr] = {}
    traced_axes: dict[int, Value] = {}
    result: list[_Axis] = []
    gathered_at = None  # where in the result the axes of the indices themselves go
    k = len(value.shape)
    for item in items:
        if item is None:
            result.append(_Axis(1, None))
            continue
        k -= 1
        size = value.shape[len(value.shape) - 1 - k]
        if isinstance(item, Value):
            traced_axes[k] = item
            if gathered_at is None:
                gathered_at = len(result)
            elif gathered_at != len(result) and index_shape:
                raise TraceError(
                    "indices with axes must stand side by side, got a slice or a new axis between them; "
                    "index in two steps"
                )
        elif isinstance(item, slice):
            start, length, step = _bounds(item, size)
            if (start, step) != (0, 1):
                replaced[k] = _affine(value.recorder, start, step, k)
            result.append(_Axis(length, k))
        else:
            replaced[k] = value.recorder.number(_position(item, size, value.shape), DType.INT64)
    if index_shape:
        result[gathered_at:gathered_at] = [_Axis(size, None) for size in index_shape]
    return _placed(value, result, replaced, traced_axes, index_shape, gathered_at or 0)


def _placed(
    value: Value,
    result: list[_Axis],
    replaced: dict[int, Expr],
    indices: dict[int, Value],
    index_shape: Shape,
    gathered_at: int,
) -> Value:
    """Number the result's axes from the right and rewrite the expression in them."""
    rank = len(result)
    renaming = {
        axis(new.source): axis(rank - 1 - position)
        for position, new in enumerate(result)
        if new.source is not None and new.source != rank - 1 - position
    }
    mapping = dict(renaming)
    for k, expr in replaced.items():
        mapping[axis(k)] = substitute(expr, renaming) if renaming and has_axes(expr) else expr
    shift = rank - gathered_at - len(index_shape)
    for k, item in indices.items():
        index = broadcast(item.expr, item.shape, index_shape)
        if shift and has_axes(index):
            index = substitute(index, {axis(j): axis(j + shift) for j in range(len(index_shape))})
        mapping[axis(k)] = index
    return value.derive(_put(value.expr, mapping, indices), value.stored, tuple(new.size for new in result))


def _put(expr: Expr, mapping: dict[Expr, Expr], indices: dict[int, Value]) -> Expr:
    """Replace axes by indices."""
    if not mapping:
        return expr
    if expr.op is Op.LOAD and not any(has_axes(arg) and arg.op is not Op.AXIS for arg in expr.args):
        return load(expr.attr, [mapping.get(arg, arg) for arg in expr.args], expr.dtype)
    moved = {axis(k) for k in indices}
    for node in walk(expr):
        if node.op is not Op.LOAD and not moved.isdisjoint(node.args):
            # Only LOAD tells whether an index is out of range, and only of the whole axis.
            raise TraceError(
                "a slice of a traced value cannot be indexed by another traced value; "
                "index first and slice afterwards, or slice the captured tensor itself"
            )
    return renamed(expr, mapping)


def renamed(expr: Expr, mapping: dict[Expr, Expr]) -> Expr:
    """`expr` with axes replaced, all at once."""
    return substitute(expr, mapping) if mapping else expr


def _position(index: int, size: int, shape: Shape) -> int:
    if not -size <= index < size:
        raise IndexOutOfRangeError(
            f"a constant index must lie in its axis, of size {size}; got index={index} for shape={shape}; "
            "correct the index, or the tensor"
        )
    return index if index >= 0 else index + size


def _bounds(item: slice, size: int) -> tuple[int, int, int]:
    """First index, length and step of a slice."""
    _require_static(item)
    start, stop, step = item.indices(size)
    if step < 1:
        raise TraceError(
            f"a slice needs a positive step, got step={step}; flip the captured tensor with .flip()"
        )
    return start, max(0, -((start - stop) // step)), step


def _affine(recorder: Recorder, start: int, step: int, k: int) -> Expr:
    """`start + step * axis`."""
    scaled = axis(k) if step == 1 else make(Op.MUL, (axis(k), recorder.number(step, DType.INT64)))
    return scaled if start == 0 else make(Op.ADD, (scaled, recorder.number(start, DType.INT64)))


def index_select(source: Value | Tensor, dim: int, index: Value | Tensor) -> Value:
    """`source` read at `index` along one axis; an index without axes leaves one of extent 1."""
    lifted = traced(source, index).recorder.lift(index)
    flat = lifted if lifted.shape else lifted.derive(lifted.expr, lifted.stored, (1,))
    dim = dim + len(source.shape) if dim < 0 else dim
    return getitem(source, (*[_WHOLE] * dim, flat))


def take(source: Value | Tensor, index: Value) -> Value:
    """`source` read as if it had one axis."""
    if isinstance(source, Value):
        raise TraceError("take() expects a captured tensor, got a traced value; index its axes one by one")
    return getitem(source.reshape(-1), index)


def embedding(index: Value, weight: Tensor, padding_idx: int | None = None, **options: object) -> Value:
    """The row of a table: `weight[index]`."""
    return getitem(weight, index)
