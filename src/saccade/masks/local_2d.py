"""A square of neighbours on an image, cut at the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.token_order import canvas_of, for_each_axis
from saccade.mod_value import require_at_least

__all__ = ["local_2d"]


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class local_2d(Mask):
    """Show the positions of an image whose row and column both lie within `window` of the query's.

    A query keeps (2 · window + 1)² keys, its own in the centre; at the border the square is cut, and fewer
    are kept (`natten` moves it instead). It looks ahead in token order. Tokens are in row-major order:
    token = row · width + column. Stand-alone self attention (SASA, arXiv 1906.05909) is of this form.

    The canvas is the whole sequence: queries and keys are as many as it has positions; what the mask says
    of others means nothing.

    Args:
        canvas: (height, width) of the image.
        window: Farthest distance along each axis, 0 or more, as (rows, columns); an int stands for both.

    Raises:
        ArgumentError: `canvas` or `window` has not two axes, or a number is too small.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> import torch
        >>> token = torch.arange(20)
        >>> local_2d(canvas=(4, 5), window=1)(0, 0, torch.tensor(5), token).view(4, 5).int()
        tensor([[1, 1, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 0, 0, 0, 0]], dtype=torch.int32)
    """

    canvas: tuple[int, ...]
    window: tuple[int, ...]
    usage: ClassVar[str] = "local_2d(canvas=(128, 128), window=8)"

    def __init__(self, canvas: Sequence[int], window: int | Sequence[int]) -> None:
        sizes = canvas_of(canvas, "local_2d()")
        if len(sizes) != 2:
            raise ArgumentError(
                f"local_2d(): canvas must be (height, width), got canvas={sizes}; "
                "on a line use local, in a volume natten"
            )
        object.__setattr__(self, "canvas", sizes)
        object.__setattr__(self, "window", for_each_axis(window, sizes, "local_2d()", "window"))
        for number in self.window:
            require_at_least(0, number, "local_2d(): window")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        width = self.canvas[1]
        rows_apart = (q_idx // width - kv_idx // width).abs()
        columns_apart = (q_idx % width - kv_idx % width).abs()
        return (rows_apart <= self.window[0]) & (columns_apart <= self.window[1])
