"""Speeds as bars: who reaches how much of what the processor can do.

Owns the layout of the picture and the colour of each contender. Numbers come ready, a chart for each size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from saccade.errors import ArgumentError
from saccade.viz.canvas import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SpeedChart", "plot_speeds"]

# Of Okabe and Ito's colours for the colour-blind; the first contender's is the strongest.
_COLOURS = ("#17457a", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#8c8577", "#d55e00")
_QUIET = "#6f6a60"
_COLUMNS = 2
_NARROW = 16  # bars of a chart, above which it takes a line of its own
_WIDTH, _HEIGHT = 6.4, 3.0  # inches, of a chart
_HEAD, _FOOT = 0.75, 0.5


@final
@dataclass(frozen=True)
class SpeedChart:
    """Bars of one size, in groups.

    Attributes:
        title: What stands above.
        unit: What the numbers are: "GFLOP/s".
        speeds: Group to contender to speed; a contender that did not run is left out.
        limit: The processor's own; None where it was not measured.
    """

    title: str
    unit: str
    speeds: Mapping[str, Mapping[str, float]]
    limit: float | None = None


def plot_speeds(charts: Sequence[SpeedChart], title: str, subtitle: str = "") -> Figure:
    """Draw charts side by side, each with the processor's limit as a line.

    Args:
        charts: At least one.
        title: What stands on top.
        subtitle: A line below it.

    Returns:
        A figure that no window shows; write it with `saccade.viz.save_figure`.

    Raises:
        ArgumentError: There is no chart.

    Example:
        >>> chart = SpeedChart("D=64", "GFLOP/s", {"causal": {"saccade": 380.0, "SDPA": 150.0}}, 500.0)
        >>> plot_speeds([chart], "Forward").axes[0].get_title(loc="left")
        'D=64'
    """
    if not charts:
        raise ArgumentError("a picture of speeds needs a chart or more, got none; measure a case first")
    is_wide = max(sum(map(len, chart.speeds.values())) for chart in charts) > _NARROW
    columns = 1 if is_wide else min(_COLUMNS, len(charts))
    rows, chart_width = math.ceil(len(charts) / columns), _WIDTH * (2 if is_wide else 1)
    width, height = columns * chart_width, rows * _HEIGHT + _HEAD + _FOOT
    figure = new_figure(width, height)
    figure.text(0.35 / width, 1 - 0.15 / height, title, fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(0.35 / width, 1 - 0.48 / height, subtitle, fontsize=9, color=_QUIET, va="top")
    names = list(dict.fromkeys(name for chart in charts for group in chart.speeds.values() for name in group))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    for number, chart in enumerate(charts):
        row, column = divmod(number, columns)
        box = (
            (column * chart_width + 0.75) / width,
            (_FOOT + (rows - 1 - row) * _HEIGHT + 0.45) / height,
            (chart_width - 1.0) / width,
            (_HEIGHT - 0.95) / height,
        )
        _draw(figure.add_axes(box), chart, colours)
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="lower center",
        ncols=len(names),
        frameon=False,
        fontsize=8.5,
    )
    return figure


def _draw(axes: Axes, chart: SpeedChart, colours: Mapping[str, str]) -> None:
    """Draw one chart; the bars of a group touch, in the order of the legend."""
    for place, group in enumerate(chart.speeds.values()):
        present = [name for name in colours if name in group]
        bar = 0.84 / max(1, len(present))
        for number, name in enumerate(present):
            left = place - 0.42 + bar * (number + 0.5)
            axes.bar(left, group[name], bar, color=colours[name], label=name)
            axes.annotate(
                f"{group[name]:.3g}", (left, group[name]), ha="center", va="bottom", fontsize=6, color=_QUIET
            )
    if chart.limit is not None:
        axes.axhline(chart.limit, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        axes.annotate(
            f"limit of this processor: {chart.limit:.3g}",
            (1, chart.limit),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7,
            color=INK,
        )
    axes.set_ylim(
        0, 1.12 * max([chart.limit or 0.0, *(max(g.values(), default=0) for g in chart.speeds.values())])
    )
    axes.set_xticks(range(len(chart.speeds)), list(chart.speeds), fontsize=8)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_ylabel(chart.unit, fontsize=8.5)
    axes.set_title(chart.title, loc="left", fontsize=10, fontweight="bold", color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
