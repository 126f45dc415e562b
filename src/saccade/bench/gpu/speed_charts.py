"""The speeds of a run on a GPU as a picture: charts of each phase and width."""

from __future__ import annotations

from pathlib import Path

from saccade.bench.gpu.cases import Phase
from saccade.bench.gpu.outcome import GpuOutcome
from saccade.bench.gpu.run import GpuRun
from saccade.viz import SpeedChart, plot_speeds, save_figure

__all__ = ["speed_charts", "write_speeds"]

_MOST_GROUPS = 8  # patterns of a chart, so that the numbers on its bars can be read
_SCALE = 1e12


def write_speeds(run: GpuRun, path: Path) -> Path:
    """Draw the speeds of a run into a file.

    Args:
        run: What was found.
        path: A file ending in .png, .svg or .pdf.

    Raises:
        ArgumentError: No case ran, or the file cannot be written.
    """
    machine = run.machine
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("torch", "triton"))
    figure = plot_speeds(
        speed_charts(run),
        "Attention on a GPU",
        f"{machine.accelerator or machine.processor}; {versions}; saccade is backend={run.engine!r}",
    )
    return save_figure(figure, path)


def speed_charts(run: GpuRun) -> list[SpeedChart]:
    """Return charts of each phase and width, with a pattern at a length as a group."""
    found = [outcome for outcome in run.outcomes if outcome.timings]
    charts: dict[tuple[Phase, int], list[GpuOutcome]] = {}
    for outcome in sorted(found, key=_order):
        charts.setdefault((outcome.phase, outcome.case.head_dim), []).append(outcome)
    return [
        _chart(outcomes[start : start + _MOST_GROUPS], run, f", from {start + 1}" if start else "")
        for outcomes in charts.values()
        for start in range(0, len(outcomes), _MOST_GROUPS)
    ]


def _order(outcome: GpuOutcome) -> tuple[int, int, int]:
    """By phase, width and length; patterns of a length stay in the order measured."""
    case = outcome.case
    return list(Phase).index(outcome.phase), -case.head_dim, case.length


def _chart(outcomes: list[GpuOutcome], run: GpuRun, part: str) -> SpeedChart:
    first = outcomes[0]
    unit = "TB/s" if first.phase is Phase.DECODE else "TFLOP/s"
    return SpeedChart(
        f"{first.phase.value}, D={first.case.head_dim}{part}",
        unit,
        {_group(one): {name: one.rate(name) / _SCALE for name in one.timings} for one in outcomes},
        first.peak(run.ceilings) / _SCALE,
    )


def _group(outcome: GpuOutcome) -> str:
    """The pattern and its size, in as many lines as keep it narrow."""
    case = outcome.case
    return case.pattern.replace("_", "\n") + f"\n{case.batch} × {case.length:,}"
