"""How a canvas (a line, an image, a volume) is laid out as tokens.

Owns the three orders and the arithmetic from a token's number to its coordinates, and how arguments with one
number for each axis are read. Invariant: an order is a permutation of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.mod_value import require_at_least

__all__ = [
    "Order",
    "canvas_of",
    "coordinates",
    "for_each_axis",
    "require_order",
    "require_tile",
    "token_order",
]

Order: TypeAlias = Literal["row", "tiled", "morton"]


def token_order(
    canvas: int | Sequence[int],
    order: Order,
    tile: int | Sequence[int] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the permutation that brings row-major tokens into another order.

    `tokens[..., token_order(canvas, "tiled", tile), :]` are the tokens for `natten(..., order="tiled",
    tile=tile)` or `sliding_tile`; `result[..., permutation.argsort(), :]` is row-major again.

    Args:
        canvas: Size of each axis, 1 to 3 of them, as (height, width); an int for one axis.
        order: "row", which changes nothing; "tiled", tile after tile and row-major in each; "morton", along
            the Z-curve, which takes one bit from each axis in turn (a shorter axis runs out first).
        tile: Size of a tile along each axis, for "tiled" alone; an int stands for every axis.
        device: Where the permutation is made.

    Returns:
        int64 tensor `[tokens]`: the row-major number of each token, in the new order.

    Raises:
        ArgumentError: There are more than 3 axes or none; `order` is no such word; `tile` is missing, given
            where it has no use, or does not divide the canvas; an axis is not a power of two under "morton".
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> token_order((4, 4), "tiled", tile=2)
        tensor([ 0,  1,  4,  5,  2,  3,  6,  7,  8,  9, 12, 13, 10, 11, 14, 15])
        >>> token_order((2, 4), "morton")
        tensor([0, 1, 4, 5, 2, 3, 6, 7])
    """
    sizes = canvas_of(canvas, "token_order()")
    tiles = require_order(sizes, order, tile, "token_order()")
    row_major = torch.zeros((), dtype=torch.int64, device=device)
    token = torch.arange(math.prod(sizes), device=device)
    for size, coordinate in zip(sizes, coordinates(token, sizes, order, tiles), strict=True):
        row_major = row_major * size + coordinate
    return row_major


def coordinates(
    token: Tensor, canvas: tuple[int, ...], order: Order, tile: tuple[int, ...] | None
) -> list[Tensor]:
    """A token's coordinate along each axis, in index arithmetic."""
    if order == "morton":
        return _along_z_curve(token, canvas)
    if tile is None:
        return _row_major(token, canvas)
    area = math.prod(tile)
    grid = tuple(size // side for size, side in zip(canvas, tile, strict=True))
    outer, inner = _row_major(token // area, grid), _row_major(token % area, tile)
    return [of * side + at for of, side, at in zip(outer, tile, inner, strict=True)]


def _row_major(token: Tensor, canvas: tuple[int, ...]) -> list[Tensor]:
    # Coordinates come off the token number, the fastest axis first; the slowest has what is left.
    found = []
    for size in canvas[:0:-1]:
        found.append(token % size)
        token = token // size
    return [token, *reversed(found)]


def _along_z_curve(token: Tensor, canvas: tuple[int, ...]) -> list[Tensor]:
    """Deal the bits of a token number to the axes in turn, the last axis first."""
    found: list[list[Tensor]] = [[] for _ in canvas]
    place = 0
    for bit in range(max(canvas).bit_length() - 1):
        for axis in range(len(canvas) - 1, -1, -1):
            if canvas[axis] >> bit > 1:
                found[axis].append(token // (1 << place) % 2 * (1 << bit))
                place += 1
    return [sum(bits[1:], bits[0]) if bits else token * 0 for bits in found]


def canvas_of(canvas: int | Sequence[int], function: str) -> tuple[int, ...]:
    """The size of each axis, checked; `function` names who was given it."""
    sizes = tuple(canvas) if isinstance(canvas, Sequence) else (canvas,)
    if not 1 <= len(sizes) <= 3:
        raise ArgumentError(
            f"{function}: canvas must have 1 to 3 axes, got canvas={sizes}; flatten the others"
        )
    for size in sizes:
        require_at_least(1, size, f"{function}: canvas")
    return sizes


def for_each_axis(
    given: int | Sequence[int], canvas: tuple[int, ...], function: str, name: str
) -> tuple[int, ...]:
    """One number for each axis, from as many or from one for all."""
    numbers = tuple(given) if isinstance(given, Sequence) else (given,) * len(canvas)
    if len(numbers) != len(canvas):
        raise ArgumentError(
            f"{function}: {name} must have a number for each of the {len(canvas)} axes of canvas={canvas}, "
            f"got {name}={numbers}"
        )
    return numbers


def require_order(
    canvas: tuple[int, ...], order: Order, tile: int | Sequence[int] | None, function: str
) -> tuple[int, ...] | None:
    """Check that the canvas can be laid out so; the tile's sides where there are tiles."""
    if order not in ("row", "tiled", "morton"):
        raise ArgumentError(f"{function}: order must be 'row', 'tiled' or 'morton', got order={order!r}")
    if (tile is not None) != (order == "tiled"):
        raise ArgumentError(
            f"{function}: tile goes with order='tiled' and that needs it, "
            f"got order={order!r} with tile={tile}; give both or neither"
        )
    if order == "morton" and any(size & (size - 1) for size in canvas):
        raise ArgumentError(
            f"{function}: order='morton' needs powers of two for the canvas, got canvas={canvas}; "
            "use order='tiled'"
        )
    return None if tile is None else require_tile(canvas, tile, function)


def require_tile(canvas: tuple[int, ...], tile: int | Sequence[int], function: str) -> tuple[int, ...]:
    """The tile's side along each axis, checked to divide the canvas."""
    sides = for_each_axis(tile, canvas, function, "tile")
    for side in sides:
        require_at_least(1, side, f"{function}: tile")
    if any(size % side for size, side in zip(canvas, sides, strict=True)):
        raise ArgumentError(
            f"{function}: tile must divide the canvas along every axis, got canvas={canvas}, tile={sides}; "
            "pad the canvas"
        )
    return sides
