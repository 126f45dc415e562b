"""A BlockMask as a picture: its blocks by kind, and beside them the pairs it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.markup import KIND_COLOURS
from saccade.block_mask.render import steps
from saccade.block_mask.sections import section_kinds
from saccade.block_mask.shares import visible_shares
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.viz.canvas import INK, KINDS, new_figure, share_colours, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_block_mask"]

_MOST_CELLS = 384  # rows and columns of either picture


def plot_block_mask(
    mask: BlockMask, name: str | None = None, *, batch_idx: int = 0, head_idx: int = 0
) -> Figure:
    """Draw which blocks are empty, partial and full, and which pairs are visible, side by side.

    Long masks are drawn by cells. On the left a cell is of a kind when all its blocks are, else partial; on
    the right the deeper the colour, the more of its pairs are visible.

    Args:
        mask: The mask, of any length.
        name: The title; None takes the mask_mod's.
        batch_idx: The batch drawn.
        head_idx: The head drawn.

    Returns:
        A figure that no window shows; write it with `saccade.viz.save_figure`.

    Raises:
        ArgumentTypeError: `mask` is no BlockMask.
        ArgumentError: It has no pairs.
        IndexOutOfRangeError: There is no such batch or head.
        StaleMaskError: A tensor the mask was made from has changed.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> mask = create_block_mask(causal, None, None, 512, 512, device="cpu")
        >>> blocks, pairs = plot_block_mask(mask).axes
        >>> blocks.images[0].get_array().tolist()
        [[1, 0, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0], [2, 2, 2, 1]]
    """
    if not isinstance(mask, BlockMask):
        raise ArgumentTypeError(
            f"plot_block_mask() expects a BlockMask, got {type(mask).__name__}; make one with "
            "create_block_mask, or BlockMask.from_torch for torch's"
        )
    if mask.numel() == 0:
        raise ArgumentError(f"a mask without pairs has no picture, got shape={mask.shape}")
    shares = visible_shares(mask, _MOST_CELLS, batch_idx, head_idx)
    row_step, column_step = steps(_MOST_CELLS, mask.runs.shape[2:])
    kinds = np.asarray(section_kinds(mask, (batch_idx, head_idx), row_step, column_step))
    longest = max(mask.q_len, mask.kv_len)
    height, width = (max(0.3, length / longest) * 4.2 for length in (mask.q_len, mask.kv_len))
    figure = new_figure(2 * width + 1.4, height + 1.5)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, kinds, mask, "blocks", (0, 2))
    left.images[0].set_cmap(KINDS)
    _draw(right, share_colours(shares), mask, "pairs", (0, 1))
    right.images[0].set_cmap(tint(KIND_COLOURS[BlockKind.FULL]))
    figure.suptitle(str(mask.mask_mod) if name is None else name, color=INK, parse_math=False)
    _add_legend(figure, mask)
    return figure


def _draw(axes: Axes, cells: np.ndarray, mask: BlockMask, title: str, limits: tuple[int, int]) -> None:
    """A grid of cells over the whole mask, its axes counted in tokens."""
    axes.imshow(
        cells,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        extent=(0, mask.kv_len, mask.q_len, 0),
        aspect="auto",
    )
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel("key", color=INK)
    axes.set_ylabel("query", color=INK)
    axes.tick_params(labelsize=8, colors=INK)


def _add_legend(figure: Figure, mask: BlockMask) -> None:
    counts = mask.runs.counts()
    size = f"{mask.q_block}×{mask.kv_block}"
    first = figure.axes[0]
    handles = [
        first.scatter([], [], marker="s", s=60, color=KIND_COLOURS[kind], edgecolors=INK, linewidths=0.5)
        for kind in BlockKind
    ]
    names = [f"{counts[kind]:,} {kind.name.lower()}" for kind in BlockKind]
    figure.legend(
        handles, names, loc="outside lower center", ncols=3, frameon=False, title=f"blocks of {size} pairs"
    )
