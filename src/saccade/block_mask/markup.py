"""A mask as SVG and HTML, for notebooks and files. Standard library only.

Three colours that the colour-blind tell apart, by brightness too: dark for full, orange for partial, paper
for empty. Every text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from saccade.block_mask import render, sections

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

KIND_COLOURS = ("#f4f1ea", "#e69f00", "#17457a")
"""Empty, partial and full."""

_EDGE = "#8a8578"
_MOST_SECTIONS = 64  # rows and columns of a notebook's picture
_NAMES = ("empty", "partial", "full")


def grid_svg(kinds: Sequence[Sequence[int]], title: str, size: int = 320) -> str:
    """Draw a grid of empty, partial and full cells as a picture that stands alone.

    Args:
        kinds: Per row, the kind of each cell: 0 empty, 1 partial, 2 full.
        title: What the picture shows, for readers who cannot see it.
        size: Its longer side, in pixels.

    Returns:
        An `<svg>` element.

    Example:
        >>> print(grid_svg([[1, 0], [2, 1]], "causal", size=100))
        <svg xmlns="http://www.w3.org/2000/svg" role="img" width="100" height="100" ...>
        <title>causal</title>
        <rect width="2" height="2" fill="#f4f1ea"/>
        <path fill="#e69f00" d="M0 0h1v1h-1zM1 1h1v1h-1z"/>
        <path fill="#17457a" d="M0 1h1v1h-1z"/>
        <rect width="2" height="2" fill="none" stroke="#8a8578" vector-effect="non-scaling-stroke"/>
        </svg>
    """
    rows, columns = len(kinds), len(kinds[0]) if kinds else 0
    pixel = size / max(rows, columns, 1)
    # A picture without an area would be invisible, so each side has a pixel at least.
    width, height = max(1, round(columns * pixel)), max(1, round(rows * pixel))
    paths = [
        f'<path fill="{KIND_COLOURS[kind]}" d="{drawn}"/>'
        for kind in (1, 2)
        if (drawn := _cells(kinds, kind))
    ]
    area = f'<rect width="{columns}" height="{rows}"'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {columns} {rows}" shape-rendering="crispEdges" preserveAspectRatio="none">'
    )
    return "\n".join(
        [
            opening,
            f"<title>{escape(title)}</title>",
            f'{area} fill="{KIND_COLOURS[0]}"/>',
            *paths,
            f'{area} fill="none" stroke="{_EDGE}" vector-effect="non-scaling-stroke"/>',
            "</svg>",
        ]
    )


def mask_html(mask: BlockMask) -> str:
    """Return a mask for a notebook: its one-line summary, its blocks as a picture, and what the colours mean.

    Masks of more than 64 rows or columns of blocks are drawn by sections, and only batch 0 and head 0 are.
    """
    row_step, column_step = render.steps(_MOST_SECTIONS, mask.runs.shape[2:])
    kinds = _first_kinds(mask, row_step, column_step)
    summary = sections.summary(mask)
    notes = []
    if (row_step, column_step) != (1, 1):
        notes.append(f"a cell stands for {row_step}×{column_step} blocks")
    if mask.runs.shape[:2] != (1, 1):
        batch, heads = mask.runs.shape[:2]
        notes.append(f"batch 0, head 0, of {batch}×{heads} that differ")
    legend = "".join(
        f'<span style="display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em;'
        f'border:1px solid {_EDGE};background:{colour}"></span>{name}'
        for name, colour in zip(_NAMES, KIND_COLOURS, strict=True)
    )
    return (
        f'<div style="font-family:sans-serif;font-size:90%"><code>{escape(summary)}</code><br>'
        f"{grid_svg(kinds, summary)}<div>{legend}</div><div>{escape('; '.join(notes))}</div></div>"
    )


def _first_kinds(mask: BlockMask, row_step: int, column_step: int) -> list[list[int]]:
    """The sections of batch 0 and head 0; none for a mask without batches or heads."""
    if 0 in mask.runs.shape:
        return []
    return sections.section_kinds(mask, (0, 0), row_step, column_step)


def _cells(kinds: Sequence[Sequence[int]], wanted: int) -> str:
    """The path around the cells of one kind: a rectangle for each run of them in a row."""
    parts = []
    for y, row in enumerate(kinds):
        x = 0
        for kind, run in groupby(row):
            length = len(list(run))
            if kind == wanted:
                parts.append(f"M{x} {y}h{length}v1h-{length}z")
            x += length
    return "".join(parts)
