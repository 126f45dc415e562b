"""Sliding tile attention: neighbourhood attention between whole tiles of a canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.natten import natten
from saccade.masks.token_order import canvas_of, for_each_axis, require_tile
from saccade.mod_value import require_at_least

__all__ = ["sliding_tile"]


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class sliding_tile(Mask):
    """Show the `window` nearest tiles along each axis of a canvas, whole.

    Every query keeps exactly the product of `window` tiles: those around its own tile, the window moved at
    the border so that it stays on the canvas, an even one reaching one further back. It looks ahead in token
    order. Tokens are in tiled order, tile after tile and row-major in each, as
    `token_order(canvas, "tiled", tile)` brings them: a tile is then a run of tokens, and where it has as many
    as a block of a BlockMask (128) no block is half visible. Sliding tile attention (STA, arXiv 2502.04507).

    The canvas is the whole sequence: queries and keys are as many as it has positions; what the mask says
    of others means nothing.

    Args:
        canvas: Size of each axis, 1 to 3 of them, as (frames, height, width); an int for one axis.
        tile: Size of a tile along each axis, which must divide the canvas; an int stands for every axis.
        window: **Tiles** kept along each axis; an int stands for every axis. The paper tells its windows in
            tokens: (18, 24, 24) of tiles (6, 8, 8) is 3 here.

    Raises:
        ArgumentError: There are more than 3 axes or none; the three disagree in their number of axes; a
            number is less than 1; `tile` does not divide the canvas; `window` exceeds the tiles of an axis.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> import torch
        >>> token = torch.arange(8)
        >>> sliding_tile(canvas=(2, 4), tile=(2, 1), window=(1, 2))(0, 0, token[:, None], token).int()
        tensor([[1, 1, 1, 1, 0, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 0, 0, 1, 1, 1, 1],
                [0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """

    canvas: tuple[int, ...]
    tile: tuple[int, ...]
    window: tuple[int, ...]
    usage: ClassVar[str] = "sliding_tile(canvas=(12, 32, 32), tile=(2, 8, 8), window=3)"
    _between_tiles: natten = field(init=False, repr=False, compare=False)

    def __init__(
        self, canvas: int | Sequence[int], tile: int | Sequence[int], window: int | Sequence[int]
    ) -> None:
        sizes = canvas_of(canvas, "sliding_tile()")
        sides = require_tile(sizes, tile, "sliding_tile()")
        window = for_each_axis(window, sizes, "sliding_tile()", "window")
        grid = tuple(size // side for size, side in zip(sizes, sides, strict=True))
        for number in window:
            require_at_least(1, number, "sliding_tile(): window")
        if any(number > tiles for number, tiles in zip(window, grid, strict=True)):
            raise ArgumentError(
                f"sliding_tile(): window counts tiles and must not exceed the {grid} of the canvas, "
                f"got window={window}; lower it"
            )
        object.__setattr__(self, "canvas", sizes)
        object.__setattr__(self, "tile", sides)
        object.__setattr__(self, "window", window)
        object.__setattr__(self, "_between_tiles", natten(grid, window))

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        area = math.prod(self.tile)
        return self._between_tiles(b, h, q_idx // area, kv_idx // area)
