"""Neighbourhood attention on a line, an image or a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.mod_value import require_at_least

__all__ = ["natten"]


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class natten(Mask):
    """Show the `kernel` nearest positions along each axis of a canvas.

    Every query keeps exactly the product of `kernel` keys: the window is centred on the query, and at the
    border it is moved, not cut, so that it stays on the canvas. It looks ahead in token order. With a
    dilation d, a query sees only positions whose coordinate leaves the same remainder by d, and the window
    counts among those. An even kernel reaches one further back than forward. Tokens are in row-major order:
    in two dimensions token = row · width + column.

    As in the NATTEN library (arXiv 2204.07143; with dilation, arXiv 2209.15001).

    Args:
        canvas: Size of each axis, 1 to 3 of them, as (height, width); an int for one axis.
        kernel: Keys kept along each axis; an int stands for every axis.
        dilation: Step between keys along each axis; an int stands for every axis. Default 1: adjacent.

    Raises:
        ArgumentError: There are more than 3 axes or none; the three disagree in their number of axes; a
            number is less than 1; along some axis kernel · dilation exceeds the canvas.
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
    usage: ClassVar[str] = "natten(canvas=(64, 64), kernel=7)"

    def __init__(
        self, canvas: int | Sequence[int], kernel: int | Sequence[int], dilation: int | Sequence[int] = 1
    ) -> None:
        sizes = tuple(canvas) if isinstance(canvas, Sequence) else (canvas,)
        if not 1 <= len(sizes) <= 3:
            raise ArgumentError(
                f"natten(): canvas must have 1 to 3 axes, got canvas={sizes}; flatten the others"
            )
        object.__setattr__(self, "canvas", sizes)
        object.__setattr__(self, "kernel", _for_each_axis(kernel, sizes, "kernel"))
        object.__setattr__(self, "dilation", _for_each_axis(dilation, sizes, "dilation"))
        for name in ("canvas", "kernel", "dilation"):
            for number in getattr(self, name):
                require_at_least(1, number, f"natten(): {name}")
        if any(k * d > size for size, k, d in zip(self.canvas, self.kernel, self.dilation, strict=True)):
            raise ArgumentError(
                "natten(): kernel * dilation must not exceed the canvas along any axis, got "
                f"canvas={self.canvas}, kernel={self.kernel}, dilation={self.dilation}; lower one of them"
            )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = q_idx.new_ones((), dtype=torch.bool)
        # Coordinates come off the token number, the fastest axis first; the slowest has what is left.
        for axis in range(len(self.canvas) - 1, 0, -1):
            size = self.canvas[axis]
            visible = visible & self._is_near(axis, q_idx % size, kv_idx % size)
            q_idx, kv_idx = q_idx // size, kv_idx // size
        return visible & self._is_near(0, q_idx, kv_idx)

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


def _for_each_axis(given: int | Sequence[int], canvas: tuple[int, ...], name: str) -> tuple[int, ...]:
    numbers = tuple(given) if isinstance(given, Sequence) else (given,) * len(canvas)
    if len(numbers) != len(canvas):
        raise ArgumentError(
            f"natten(): {name} must have a number for each of the {len(canvas)} axes of canvas={canvas}, "
            f"got {name}={numbers}"
        )
    return numbers
