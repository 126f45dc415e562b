"""Many masks on one sheet: a small picture each, under headings, to look at and compare.

Owns the layout, counted in pixels from the upper left corner. A panel with a score is coloured by what the
score_mod makes of a score of 1, one without by the share of visible pairs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from saccade.block_mask import BlockMask
from saccade.block_mask.shares import visible_shares
from saccade.errors import ArgumentError
from saccade.signatures import ScoreMod
from saccade.viz.canvas import DPI, INK, NUMBERS, Line2D, new_figure, share_colours, tint
from saccade.viz.pair_scores import modified, number_range, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "contact_sheet"]

# Pixels. A picture has one for each of its cells, so that none is drawn wider than another.
_SIDE = 256
_MOST_CELLS = _SIDE
_GAP = 50
_MARGIN = 66
_TITLE = 84  # above a picture: two lines of its name and one of its size
_HEADING = 62
_BELOW = 30
_TOP = 156
_FOOT = 54  # and each line of it
_FOOT_LINE = 24
_LETTER = 11  # the width of one there, on average

_NAME_WIDTH = 25  # characters that fit the width of a picture
_QUIET = "#6f6a60"
# Of Okabe and Ito's colours for the colour-blind; those dark enough to carry a share.
_HUES = ("#17457a", "#a8470a", "#00694f", "#8a3b6b")


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a sheet.

    Attributes:
        name: What stands above it; long names take two lines.
        extent: Its size in words, in the line below.
        mask: What is drawn, batch 0 and head 0.
        score: The score_mod that colours it, or None.
    """

    name: str
    extent: str
    mask: BlockMask
    score: ScoreMod | None = None


def contact_sheet(
    groups: Mapping[str, Sequence[Panel]], title: str, subtitle: str = "", columns: int = 8
) -> Figure:
    """Draw masks in a grid, group by group, each group in a colour of its own.

    Args:
        groups: Panels by the heading they stand under; a panel with a score must have at most 2^24 pairs.
        title: What stands on top.
        subtitle: A line below it.
        columns: Pictures in a row, 2 or more.

    Returns:
        A figure that no window shows; write it with `saccade.viz.save_figure`.

    Raises:
        ArgumentError: There is no panel, or fewer than two columns.
        StaleMaskError: A tensor of a mask has changed since it was made.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> panel = Panel("causal", "8", create_block_mask(causal, None, None, 8, 8, device="cpu"))
        >>> figure = contact_sheet({"Text": [panel, panel]}, "Two masks", columns=2)
        >>> [axes.get_label() for axes in figure.axes]
        ['causal', 'causal']
    """
    groups = {heading: panels for heading, panels in groups.items() if panels}
    if not groups or columns < 2:
        raise ArgumentError(
            f"a sheet needs a panel and two columns or more, got {sum(map(len, groups.values()))} panels and "
            f"columns={columns}"
        )
    rows = sum(math.ceil(len(panels) / columns) for panels in groups.values())
    width = 2 * _MARGIN + columns * _SIDE + (columns - 1) * _GAP
    foot = textwrap.wrap(_foot(groups), (width - 2 * _MARGIN) // _LETTER)
    body = _TOP + len(groups) * _HEADING + rows * (_TITLE + _SIDE + _BELOW)
    height = body + _FOOT + len(foot) * _FOOT_LINE
    sheet = _Sheet(new_figure(width / DPI, height / DPI), width, height)
    sheet.write(_MARGIN, 44, title, size=19, weight="bold")
    sheet.write(_MARGIN, 104, subtitle, size=10.5, colour=_QUIET)
    top = _TOP
    for number, (heading, panels) in enumerate(groups.items()):
        hue = _HUES[number % len(_HUES)]
        sheet.rule(top + 10, hue)
        sheet.write(_MARGIN, top + 24, heading, size=12.5, weight="bold", colour=hue)
        top += _HEADING
        for row in _rows(panels, columns):
            for column, panel in enumerate(row):
                sheet.place(panel, _MARGIN + column * (_SIDE + _GAP), top + _TITLE, hue)
            top += _TITLE + _SIDE + _BELOW
    sheet.write(_MARGIN, body + 22, "\n".join(foot), size=9, colour=_QUIET)
    return sheet.figure


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A figure addressed in pixels from its upper left corner."""

    figure: Figure
    width: int
    height: int

    def write(
        self,
        x: int,
        y: int,
        text: str,
        *,
        size: float,
        weight: str = "normal",
        colour: str = INK,
        anchor: str = "top",
    ) -> None:
        """Write a text whose upper (or lower) left corner is at (x, y)."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size,
            fontweight=weight,
            color=colour,
            va=anchor,
            ha="left",
            parse_math=False,
            linespacing=1.15,
        )

    def rule(self, y: int, colour: str) -> None:
        """Draw a thin line across the sheet."""
        left, right = _MARGIN / self.width, 1 - _MARGIN / self.width
        height = 1 - y / self.height
        self.figure.add_artist(Line2D([left, right], [height, height], color=colour, linewidth=1.2))

    def place(self, panel: Panel, x: int, y: int, hue: str) -> None:
        """Draw a panel whose picture has its upper left corner at (x, y) and the mask's proportions."""
        lines = _two_lines(panel.name)
        self.write(x, y - 29, "\n".join(lines), size=8.2, weight="bold", anchor="bottom")
        self.write(x, y - 9, panel.extent, size=7.6, colour=_QUIET, anchor="bottom")
        longest = max(panel.mask.q_len, panel.mask.kv_len)
        width, height = (
            round(_SIDE * max(0.12, length / longest)) for length in (panel.mask.kv_len, panel.mask.q_len)
        )
        bottom = 1 - (y + height) / self.height
        box = (x / self.width, bottom, width / self.width, height / self.height)
        _paint(self.figure.add_axes(box, label=panel.name), panel, hue)


def _two_lines(name: str) -> list[str]:
    """A name cut where it may be: at its operators, if it has any, rather than between arguments."""
    glued = name.replace(", ", ",\u00a0") if " & " in name or " | " in name else name
    for text in (glued, name):
        lines = textwrap.wrap(text, _NAME_WIDTH, break_long_words=False) or [""]
        if len(lines) <= 2 and max(map(len, lines)) <= _NAME_WIDTH:
            return lines
    return textwrap.wrap(name, _NAME_WIDTH, max_lines=2, placeholder=" …")


def _paint(axes: Axes, panel: Panel, hue: str) -> None:
    """Draw the cells of one panel, edge to edge."""
    if panel.score is None:
        shares = visible_shares(panel.mask, _MOST_CELLS)
        axes.imshow(
            share_colours(shares), cmap=tint(hue), vmin=0, vmax=1, interpolation="nearest", aspect="auto"
        )
    else:
        lengths = (panel.mask.q_len, panel.mask.kv_len)
        seen = visible(panel.mask, lengths, (0, 0))
        values = modified(panel.score, np.ones(lengths), seen, (0, 0))
        low, high = number_range([values])
        axes.imshow(values, cmap=NUMBERS, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#b9b3a5")
        spine.set_linewidth(0.6)


def _rows(panels: Sequence[Panel], columns: int) -> Iterator[Sequence[Panel]]:
    for start in range(0, len(panels), columns):
        yield panels[start : start + columns]


def _foot(groups: Mapping[str, Sequence[Panel]]) -> str:
    text = "Queries run down, keys to the right. Paler: some of a cell's pairs are visible; paper: none."
    if any(panel.score is not None for panels in groups.values() for panel in panels):
        text += " With a score: what becomes of a score of 1, from low (violet) to high (green)."
    return text
