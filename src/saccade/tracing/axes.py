"""Rules that rearrange the axes of a value without reading it."""

from __future__ import annotations

import math

from saccade.errors import TraceError
from saccade.ir.expr import Expr, axis
from saccade.tracing.conversion import shape_of
from saccade.tracing.indexing import renamed
from saccade.tracing.recorder import static_int
from saccade.tracing.value import ZERO, Shape, Value, broadcast

__all__ = ["expand", "expand_as", "permute", "position_of", "reshape", "squeeze", "transpose", "unsqueeze"]


def position_of(dim: object, rank: int) -> int:
    """An axis argument, counted from the left; a value without axes has one to name, as in torch."""
    dim = static_int(dim, "an axis")
    extent = max(rank, 1)
    if not -extent <= dim < extent:
        raise TraceError(
            f"an axis of a value with {rank} axes must lie in {-extent}..{extent - 1}, got dim={dim}"
        )
    return dim % extent


def permute(x: Value, *dims: object) -> Value:
    """The axes in another order."""
    order = [position_of(dim, len(x.shape)) for dim in shape_of(dims)]
    if sorted(order) != list(range(len(x.shape))):
        raise TraceError(f"permute() expects each of the {len(x.shape)} axes once, got dims={order}")
    last = len(order) - 1
    mapping = {axis(last - old): axis(last - new) for new, old in enumerate(order) if new != old}
    return x.derive(renamed(x.expr, mapping), x.stored, tuple(x.shape[old] for old in order))


def transpose(x: Value, dim0: int, dim1: int) -> Value:
    """Two axes exchanged."""
    order = list(range(len(x.shape)))
    if order:
        a, b = position_of(dim0, len(order)), position_of(dim1, len(order))
        order[a], order[b] = order[b], order[a]
    return permute(x, *order)


def reshape(x: Value, *sizes: object) -> Value:
    """Another shape with the same extents in the same order, apart from those of 1."""
    shape = list(shape_of(sizes))
    if shape.count(-1) == 1:
        known = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = math.prod(x.shape) // max(known, 1)
    old = [len(x.shape) - 1 - position for position, size in enumerate(x.shape) if size != 1]
    new = [len(shape) - 1 - position for position, size in enumerate(shape) if size != 1]
    if [size for size in x.shape if size != 1] != [size for size in shape if size != 1]:
        raise TraceError(
            f"reshaping a traced value adds or drops axes of extent 1 only, got {x.shape} to {tuple(shape)}; "
            "reshape the captured tensor before indexing it"
        )
    return x.derive(_moved(x, old, new), x.stored, tuple(shape))


def _moved(x: Value, old: list[int], new: list[int]) -> Expr:
    """X's expression with axes renumbered; the others have extent 1 and are read at 0."""
    mapping = {axis(k): ZERO for k in range(len(x.shape))}
    mapping.update(zip(map(axis, old), map(axis, new), strict=True))
    return renamed(x.expr, {a: b for a, b in mapping.items() if a is not b})


def squeeze(x: Value, dim: object = None) -> Value:
    """Without the axes of extent 1, or without those of them that are named."""
    if dim is None:
        return reshape(x, [size for size in x.shape if size != 1])
    named = {position_of(d, len(x.shape)) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    return reshape(x, [size for position, size in enumerate(x.shape) if size != 1 or position not in named])


def unsqueeze(x: Value, dim: int) -> Value:
    """With a new axis of extent 1."""
    position = position_of(dim, len(x.shape) + 1)
    return reshape(x, [*x.shape[:position], 1, *x.shape[position:]])


def expand(x: Value, *sizes: object) -> Value:
    """Axes of extent 1 widened; -1 keeps an extent."""
    wanted = shape_of(sizes)
    kept = (1,) * (len(wanted) - len(x.shape)) + x.shape
    shape: Shape = tuple(old if new == -1 else new for old, new in zip(kept, wanted, strict=False))
    if len(kept) != len(wanted) or any(old not in (1, new) for old, new in zip(kept, shape, strict=True)):
        raise TraceError(f"expand() widens axes of extent 1 only: shape={x.shape}, sizes={wanted}")
    return x.derive(broadcast(x.expr, x.shape, shape), x.stored, shape)


def expand_as(x: Value, other: Value) -> Value:
    """`x` widened to the shape of `other`."""
    return expand(x, *other.shape)
