"""Speeds as bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.errors import ArgumentError
from saccade.viz import SpeedChart, plot_speeds, save_figure

SPEEDS = {"causal": {"saccade": 380.0, "SDPA": 150.0}, "window": {"saccade": 200.0}}


def test_bars_are_as_high_as_the_speeds_and_nothing_is_cut(tmp_path: Path) -> None:
    charts = [SpeedChart(f"chart {n}", "GFLOP/s", SPEEDS, 500.0) for n in range(3)]
    figure = plot_speeds([*charts, SpeedChart("no limit", "GB/s", SPEEDS)], "Speeds", "below")
    save_figure(figure, tmp_path / "speeds.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "chart 0",
        "chart 1",
        "chart 2",
        "no limit",
    ]
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == [380.0, 150.0, 200.0]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 1, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["saccade", "SDPA"]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    width, height = figure.canvas.get_width_height()
    assert all(min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_charts_of_many_bars_take_a_line_each() -> None:
    many = SpeedChart("many", "GFLOP/s", {str(n): SPEEDS["causal"] for n in range(9)})
    wide, narrow = plot_speeds([many, many], "x"), plot_speeds([SpeedChart("few", "GB/s", SPEEDS)] * 2, "x")
    assert wide.axes[0].get_position().x0 == wide.axes[1].get_position().x0
    assert narrow.axes[0].get_position().y0 == narrow.axes[1].get_position().y0


def test_a_picture_needs_a_chart() -> None:
    with pytest.raises(ArgumentError, match="needs a chart or more, got none; measure a case first"):
        plot_speeds([], "x")
