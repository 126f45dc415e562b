"""`saccade show`: a mask, and perhaps a score, drawn in the terminal or a file, or as a page to explore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.markup import grid_svg
from saccade.block_mask.shares import cell_edges, values_at, visible_shares
from saccade.cli import quantities
from saccade.cli.mod_argument import read_kind
from saccade.errors import ArgumentError
from saccade.explorer import mask_html
from saccade.explorer.page_file import write_page
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.signatures import ScoreMod

__all__ = ["show_mask"]

_SHADES = " ░▒▓█"
_MOST_ROWS = 40  # of a picture in the terminal
_MOST_CELLS = 256  # rows and columns of an SVG
_ENDINGS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, eq=False)
class _Shown:
    """What is drawn: the mask, and the score that colours it."""

    title: str
    mask: BlockMask
    score_mod: ScoreMod | None
    score: Program | None


def show_mask(
    mask: str,
    score: str | None,
    *,
    shape: tuple[int, int, int, int],
    out: Path | None,
    html: Path | None = None,
    tokens: Sequence[str] | None = None,
    console: Console,
) -> None:
    """Draw a mask in the terminal, or into a file; or write a page that explains it.

    Args:
        mask: MASK of the command line.
        score: SCORE of the command line; the picture then shows what it makes of a score of 1. None: it shows
            the share of visible pairs.
        shape: B, H, Q and K; batch 0 and head 0 are drawn.
        out: A file ending in .png or .pdf (which need matplotlib) or .svg; None draws in the terminal,
            unless there is a page.
        html: A page to write; None for none.
        tokens: A text for each query and each key of the page; None for positions.
        console: Where to print.

    Raises:
        ArgumentError: A text is no expression or names no function, one kind of mod is given as the other,
            a file has another ending or cannot be written, or there are tokens and no page.
        MissingPackageError: The file needs matplotlib, which is not installed.
        SaccadeError: The mod cannot be read, or not with this shape.
    """
    if out is not None and out.suffix.lower() not in _ENDINGS:
        raise ArgumentError(f"expected a file ending in {', '.join(_ENDINGS)}, got --out {out}; rename it")
    if tokens is not None and html is None:
        raise ArgumentError(
            "a text labels the page that --html FILE writes, got none; add it, or leave the text out"
        )
    mask_mod, _ = read_kind(mask, ModKind.MASK)
    score_mod, program = (None, None) if score is None else read_kind(score, ModKind.SCORE)
    batch, heads, q_len, kv_len = shape
    blocks = create_block_mask(mask_mod, batch, heads, q_len, kv_len, device="cpu")
    title = mask if score is None else f"{mask} + {score}"
    shown = _Shown(title, blocks, score_mod, program)
    if html is not None:
        page = mask_html(blocks, score_mod=score_mod, tokens=tokens, title=title)
        write_page(html, page, given=f"--html {html}")
        console.print(
            f"explained in {html}: open it in a browser", markup=False, highlight=False, soft_wrap=True
        )
    if out is None:
        if html is None:
            _print(shown, console)
    elif out.suffix.lower() == ".svg" and program is None:
        _write_svg(shown, out)
        console.print(f"drawn in {out}", markup=False, highlight=False, soft_wrap=True)
    else:
        _write_figure(shown, out)
        console.print(f"drawn in {out}", markup=False, highlight=False, soft_wrap=True)


def _print(shown: _Shown, console: Console) -> None:
    """Print the picture, what its shades mean, and the mask in numbers."""
    mask = shown.mask
    console.print(shown.title, style="bold", markup=False, highlight=False)
    console.print(
        f"{mask.q_len:,} queries down, {mask.kv_len:,} keys to the right",
        style="dim",
        highlight=False,
    )
    most = _grid(mask, console.width)
    if shown.score is None:
        shades = _share_shades(visible_shares(mask, most))
        legend = "██ all pairs visible   ▓▓▒▒░░ some   blank: none"
    else:
        shades, legend = _score_shades(shown.score, mask, most)
    # A frame, so that where the matrix ends shows where nothing is visible.
    frame = "─" * (2 * shades.shape[1])
    console.print(f"┌{frame}┐", highlight=False)
    for row in shades:
        line = "".join(2 * _SHADES[shade] for shade in row)
        console.print(f"│{line}│", markup=False, highlight=False, soft_wrap=True)
    console.print(f"└{frame}┘", highlight=False)
    console.print(legend, style="dim", highlight=False)
    console.print(_numbers(mask), highlight=False)


def _grid(mask: BlockMask, width: int) -> tuple[int, int]:
    """The rows and columns of cells, square ones, that fit the terminal."""
    columns = min(mask.kv_len, _MOST_ROWS, max(4, (width - 2) // 2))
    rows = max(1, min(mask.q_len, _MOST_ROWS, round(columns * mask.q_len / mask.kv_len)))
    if rows < columns * mask.q_len // mask.kv_len:
        columns = max(1, min(columns, round(rows * mask.kv_len / mask.q_len)))
    return rows, columns


def _share_shades(shares: np.ndarray) -> np.ndarray:
    """0 where nothing is visible, 4 where all is, 1 to 3 between."""
    some = 1 + np.minimum((shares * 3).astype(int), 2)
    return np.where(shares == 0, 0, np.where(shares == 1, 4, some))


def _score_shades(program: Program, mask: BlockMask, most: tuple[int, int]) -> tuple[np.ndarray, str]:
    """What becomes of a score of 1 at the middle pair of each cell: 1 to 4 from low to high, 0 if hidden."""
    middles = []
    for length, cells in zip((mask.q_len, mask.kv_len), most, strict=True):
        edges = cell_edges(length, cells)
        middles.append((edges[:-1] + edges[1:]) // 2)
    q_idx, kv_idx = np.broadcast_arrays(middles[0][:, None], middles[1])
    zero = np.int64(0)
    seen = np.broadcast_to(values_at(mask.program, zero, zero, q_idx, kv_idx), q_idx.shape)
    values = np.full(q_idx.shape, -np.inf, dtype=np.float64)
    ones = np.ones(int(seen.sum()), dtype=np.float32)
    values[seen] = values_at(program, ones, zero, zero, q_idx[seen], kv_idx[seen])
    drawn = np.isfinite(values)
    low, high = (values[drawn].min(), values[drawn].max()) if drawn.any() else (0.0, 0.0)
    depth = (np.where(drawn, values, low) - low) / (high - low or 1.0)
    legend = f"░░ {low:.4g}   ▒▒ ▓▓   ██ {high:.4g}: what becomes of a score of 1   blank: hidden"
    return np.where(drawn, 1 + np.minimum((depth * 4).astype(int), 3), 0), legend


def _numbers(mask: BlockMask) -> str:
    counts = mask.runs.counts().items()
    kinds = ", ".join(f"{count:,} {kind.name.lower()}" for kind, count in counts)
    text = f"{quantities.percent(mask.density())} of all pairs visible; blocks of "
    text += f"{mask.q_block}×{mask.kv_block}: {kinds}"
    batch, heads = mask.runs.shape[:2]
    if (batch, heads) != (1, 1):
        text += f"\nbatch 0, head 0, of {batch}×{heads} that differ"
    return text


def _write_svg(shown: _Shown, path: Path) -> None:
    """All pairs of a cell, some, or none, as full, partial and empty; needs no matplotlib."""
    shares = visible_shares(shown.mask, _MOST_CELLS)
    kinds = np.where(shares == 0, 0, np.where(shares == 1, 2, 1)).tolist()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(grid_svg(kinds, shown.title, size=640) + "\n", encoding="utf-8")
    except OSError as fault:
        raise ArgumentError(
            f"expected a file that can be written, got --out {path} ({fault.strerror}); choose another"
        ) from fault


def _write_figure(shown: _Shown, path: Path) -> None:
    from saccade.viz import (  # deferred: matplotlib is optional
        plot_attention_scores,
        plot_block_mask,
        save_figure,
    )

    if shown.score_mod is None:
        save_figure(plot_block_mask(shown.mask, shown.title), path)
        return
    batch, heads, q_len, kv_len = shown.mask.shape
    # One number seen as whole tensors: every q·k is 1.
    query, key = (torch.ones(()).expand(batch, heads, length, 1) for length in (q_len, kv_len))
    title = f"{shown.title}: what becomes of a score of 1"
    save_figure(plot_attention_scores(query, key, shown.score_mod, shown.mask, name=title, scale=1.0), path)
