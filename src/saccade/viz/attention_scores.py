"""Attention scores as a picture: a coloured cell for each visible pair, paper where a pair is hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from saccade.attention.validate import require_choice
from saccade.block_mask import BlockMask
from saccade.errors import ShapeError
from saccade.signatures import MaskMod, ScoreMod
from saccade.viz.canvas import INK, NUMBERS, MaxNLocator, XAxis, new_figure, save_figure
from saccade.viz.pair_scores import PairValues, Show, number_range, pair_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["plot_attention_scores", "visualize_attention_scores"]

_MOST_LABELS = 64  # tokens an axis names
_COLUMNS = 4  # of a grid of heads
_CAPTIONS = {Show.RAW: "q·k · scale", Show.MODIFIED: "score", Show.WEIGHTS: "weight"}


def plot_attention_scores(
    query: Tensor,
    key: Tensor,
    score_mod: ScoreMod | None = None,
    mask_mod: MaskMod | BlockMask | None = None,
    device: torch.device | str | None = None,
    name: str = "attention scores",
    *,
    batch_idx: int = 0,
    head_idx: int | Sequence[int] | None = 0,
    scale: float | None = None,
    show: Literal["raw", "modified", "weights"] = "modified",
    tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
) -> Figure:
    """Draw the scores of one head, or of several in a grid that shares one scale of colours.

    Args:
        query: `[B, Hq, Q, D]`, floating, on any device; at most 2^24 pairs are drawn.
        key: `[B or 1, Hkv, K, D]`; query head h reads key head `h // (Hq / Hkv)`.
        score_mod: What becomes of a score; None leaves it.
        mask_mod: Which pairs are visible: a function or a BlockMask. None shows all.
        device: Where query and key are taken from before they are drawn; None leaves them where they are.
        name: The title.
        batch_idx: The batch drawn.
        head_idx: The query head drawn; several of them, or None for all, make a grid.
        scale: What q·k is multiplied by. None: 1/√D.
        show: "raw" for q·k · scale of every pair, "modified" for scores after score_mod and mask, "weights"
            for their softmax.
        tokens: Q texts that label the queries, and the keys too where Q = K. None: positions.
        kv_tokens: K texts that label the keys.

    Returns:
        A figure that no window shows; write it with `saccade.viz.save_figure`, or leave it as the last
        expression of a notebook's cell. A row that sees no key is blank.

    Raises:
        ArgumentError: `show` is another word, or there are no pairs, or too many.
        IndexOutOfRangeError: There is no such batch or head.
        ShapeError: There are not as many labels as positions.
        SaccadeError: Tensors or mods cannot be used, as for `flex_attention`.

    Example:
        >>> from saccade.masks import causal
        >>> query, key = torch.randn(2, 1, 4, 6, 8)
        >>> figure = plot_attention_scores(query, key, mask_mod=causal, head_idx=None, show="weights")
        >>> [axes.get_title() for axes in figure.axes][:4]
        ['head 0', 'head 1', 'head 2', 'head 3']
    """
    require_choice("show", show, [choice.value for choice in Show])
    if device is not None:
        query, key = query.to(device), key.to(device)
    if head_idx is None:
        heads = list(range(query.shape[1]))
    else:
        heads = [head_idx] if isinstance(head_idx, int) else list(head_idx)
    chosen = Show(show)
    panels = [
        pair_values(query, key, score_mod, mask_mod, show=chosen, place=(batch_idx, head), scale=scale)
        for head in heads
    ]
    if not panels:
        raise ShapeError("head_idx must name one head or more, got none; give None for all heads")
    kv_tokens = tokens if kv_tokens is None and query.shape[2] == key.shape[2] else kv_tokens
    _require_labels("tokens", tokens, query.shape[2])
    _require_labels("kv_tokens", kv_tokens, key.shape[2])
    return _drawn(panels, heads, name, chosen, (tokens, kv_tokens))


def visualize_attention_scores(
    query: Tensor,
    key: Tensor,
    score_mod: ScoreMod | None = None,
    mask_mod: MaskMod | BlockMask | None = None,
    device: torch.device | str | None = None,
    name: str = "attention_scores",
    path: Path | str | None = None,
    batch_idx: int = 0,
    head_idx: int | Sequence[int] | None = 0,
    scale: float | None = None,
    *,
    show: Literal["raw", "modified", "weights"] = "modified",
    tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
) -> Path:
    """Write a picture of attention scores to a file; `plot_attention_scores` gives the figure instead.

    Args:
        query: As for `plot_attention_scores`, and so are all that are not described here.
        key: See there.
        score_mod: See there.
        mask_mod: See there.
        device: See there.
        name: The title, and the file's name where `path` is a directory.
        path: A file ending in .png, .svg or .pdf, or a directory, where `{name}.png` is written. None: the
            present directory.
        batch_idx: See there.
        head_idx: See there.
        scale: See there.
        show: See there.
        tokens: See there.
        kv_tokens: See there.

    Returns:
        The file written.

    Raises:
        ArgumentError: The file cannot be written, or an argument cannot be used, as there.
        SaccadeError: As there.

    Example:
        >>> import tempfile
        >>> from saccade.masks import causal
        >>> query, key = torch.randn(2, 1, 1, 10, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     visualize_attention_scores(query, key, mask_mod=causal, path=folder).name
        'attention_scores.png'
    """
    figure = plot_attention_scores(
        query,
        key,
        score_mod,
        mask_mod,
        device,
        name,
        batch_idx=batch_idx,
        head_idx=head_idx,
        scale=scale,
        show=show,
        tokens=tokens,
        kv_tokens=kv_tokens,
    )
    target = Path() if path is None else Path(path)
    if not target.suffix or target.is_dir():
        target = target / f"{name.replace('/', '-')}.png"
    return save_figure(figure, target)


def _drawn(
    panels: Sequence[PairValues],
    heads: Sequence[int],
    name: str,
    show: Show,
    labels: tuple[Sequence[str] | None, Sequence[str] | None],
) -> Figure:
    """All panels in a grid, one colour bar beside them."""
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = math.ceil(len(panels) / rows)
    q_len, kv_len = panels[0].shape
    longest = max(q_len, kv_len)
    side = (5.0 if len(panels) == 1 else 3.0) * (1 if longest <= 16 else min(2.0, 0.7 + longest / 50))
    height, width = (max(0.35, length / longest) * side for length in (q_len, kv_len))
    figure = new_figure(columns * width + 2.0, rows * (height + 0.5) + 0.8)
    figure.set_layout_engine("compressed")
    grid = figure.subplots(rows, columns, squeeze=False)
    low, high = number_range(panels)
    if show is Show.WEIGHTS:
        low, high = 0.0, max(high, 1e-9)
    image = None
    for axes, panel, head in zip(grid.flat, panels, heads, strict=False):
        image = axes.imshow(panel, cmap=NUMBERS, vmin=low, vmax=high, interpolation="nearest")
        _label(axes.yaxis, labels[0], q_len)
        _label(axes.xaxis, labels[1], kv_len)
        if len(panels) > 1:
            axes.set_title(f"head {head}", fontsize=10, color=INK)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    assert image is not None, "there is a panel at least"
    _name_axes(grid)
    figure.suptitle(name, color=INK, parse_math=False)
    figure.colorbar(image, ax=grid, label=_CAPTIONS[show], shrink=0.9)
    return figure


def _label(axis: Axis, tokens: Sequence[str] | None, length: int) -> None:
    """Name every position, or number some of them."""
    axis.set_tick_params(labelsize=8, colors=INK)
    if tokens is None or length > _MOST_LABELS:
        axis.set_major_locator(MaxNLocator(nbins=min(length, 12), integer=True))
        return
    # A token may hold a $, which is no formula.
    axis.set_ticks(range(length), labels=[str(token) for token in tokens], parse_math=False)
    if isinstance(axis, XAxis):
        axis.set_tick_params(rotation=90)


def _name_axes(grid: np.ndarray) -> None:
    below: Sequence[Axes] = list(grid[-1])
    left: Sequence[Axes] = list(grid[:, 0])
    for axes in below:
        axes.set_xlabel("key", color=INK)
    for axes in left:
        axes.set_ylabel("query", color=INK)


def _require_labels(argument: str, labels: Sequence[str] | None, length: int) -> None:
    if labels is not None and len(labels) != length:
        raise ShapeError(
            f"{argument} must label every position, {length} of them, got {len(labels)}; give one text each"
        )
