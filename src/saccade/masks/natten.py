"""Neighbourhood attention on a line, an image or a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.token_order import Order, canvas_of, coordinates, for_each_axis, require_order
from saccade.mod_value import require_at_least

__all__ = ["natten"]


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class natten(Mask):
    """Show the `kernel` nearest positions along each axis of a canvas.

    Every query keeps exactly the product of `kernel` keys: the window is centred on the query, and at the
    border it is moved, not cut, so that it stays on the canvas. It looks ahead in token order. With a
    dilation d, a query sees only positions whose coordinate leaves the same remainder by d, and the window
    counts among those. An even kernel reaches one further back than forward. Tokens are in row-major order
    (in two dimensions token = row · width + column) unless `order` says otherwise: in the others, neighbours
    on the canvas are neighbours in the sequence too, so fewer blocks of a BlockMask are touched. The order
    changes where a pair lies, not which pairs there are; `token_order` gives the permutation.

    As in the NATTEN library (arXiv 2204.07143; with dilation, arXiv 2209.15001).

    The canvas is the whole sequence: queries and keys are as many as it has positions; what the mask says
    of others means nothing.

    Args:
        canvas: Size of each axis, 1 to 3 of them, as (height, width); an int for one axis.
        kernel: Keys kept along each axis; an int stands for every axis.
        dilation: Step between keys along each axis; an int stands for every axis. Default 1: adjacent.
        order: How the canvas is laid out as tokens: "row"; "tiled", tile after tile and row-major in each; or
            "morton", along the Z-curve, for which every axis must be a power of two.
        tile: Size of a tile along each axis, for `order="tiled"` alone; an int stands for every axis. It must
            divide the canvas. A tile of 128 tokens is a block of a BlockMask.

    Raises:
        ArgumentError: There are more than 3 axes or none; the three disagree in their number of axes; a
            number is less than 1; along some axis kernel · dilation exceeds the canvas; `order` is no such
            word; `tile` is missing, given where it has no use, or does not divide the canvas; an axis is not
            a power of two under "morton".
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> token = torch.arange(6)
        >>> natten(canvas=6, kernel=3)(0, 0, token[:, None], token).int()
        tensor([[1, 1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [0, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 0],
                [0, 0, 0, 1, 1, 1],
                [0, 0, 0, 1, 1, 1]], dtype=torch.int32)
        >>> natten((4, 4), 3)(0, 0, torch.tensor(5), token.new_tensor(range(16))).view(4, 4).int()
        tensor([[1, 1, 1, 0],
                [1, 1, 1, 0],
                [1, 1, 1, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """

    canvas: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    order: Order = "row"
    tile: tuple[int, ...] | None = None
    usage: ClassVar[str] = "natten(canvas=(64, 64), kernel=7)"

    def __init__(
        self,
        canvas: int | Sequence[int],
        kernel: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        order: Order = "row",
        tile: int | Sequence[int] | None = None,
    ) -> None:
        sizes = canvas_of(canvas, "natten()")
        object.__setattr__(self, "canvas", sizes)
        object.__setattr__(self, "kernel", for_each_axis(kernel, sizes, "natten()", "kernel"))
        object.__setattr__(self, "dilation", for_each_axis(dilation, sizes, "natten()", "dilation"))
        for name in ("kernel", "dilation"):
            for number in getattr(self, name):
                require_at_least(1, number, f"natten(): {name}")
        if any(k * d > size for size, k, d in zip(self.canvas, self.kernel, self.dilation, strict=True)):
            raise ArgumentError(
                "natten(): kernel * dilation must not exceed the canvas along any axis, got "
                f"canvas={self.canvas}, kernel={self.kernel}, dilation={self.dilation}; lower one of them"
            )
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "tile", require_order(sizes, order, tile, "natten()"))

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = q_idx.new_ones((), dtype=torch.bool)
        of_query = coordinates(q_idx, self.canvas, self.order, self.tile)
        of_key = coordinates(kv_idx, self.canvas, self.order, self.tile)
        for axis in range(len(self.canvas) - 1, -1, -1):
            visible = visible & self._is_near(axis, of_query[axis], of_key[axis])
        return visible

    def _is_near(self, axis: int, q: Tensor, kv: Tensor) -> Tensor:
        """Whether coordinate `kv` is in the window of coordinate `q`, along one axis."""
        size, kernel, dilation = self.canvas[axis], self.kernel[axis], self.dilation[axis]
        if dilation == 1:
            return _in_window(q, kv, size, kernel)
        # Coordinates of equal remainder form a shorter axis of their own, with this many members.
        members = (size - 1 - q % dilation) // dilation + 1
        return (q % dilation == kv % dilation) & _in_window(q // dilation, kv // dilation, members, kernel)


def _in_window(q: Tensor, kv: Tensor, size: int | Tensor, kernel: int) -> Tensor:
    """Whether `kv` is one of the `kernel` coordinates around `q`, the window moved so as to stay in range."""
    first = (q - kernel // 2).clamp(min=0).clamp(max=size - kernel)
    return (kv >= first) & (kv < first + kernel)
