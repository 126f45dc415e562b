"""The speeds of a run as a picture: a chart for each phase, type and size, with the processor's limit."""

from __future__ import annotations

from pathlib import Path

from saccade.bench.cpu.measured_run import MeasuredRun
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.viz import SpeedChart, plot_speeds, save_figure

__all__ = ["speed_charts", "write_speeds"]

_UNITS = {Limit.MULTIPLY_ADD: "GFLOP/s", Limit.BANDWIDTH: "GB/s"}


def write_speeds(bench: MeasuredRun, title: str, path: Path) -> Path:
    """Draw the speeds of a run into a file.

    Args:
        bench: What was found.
        title: What stands on top.
        path: A file ending in .png, .svg or .pdf.

    Raises:
        ArgumentError: No case ran, or the file cannot be written.
    """
    machine = bench.machine
    figure = plot_speeds(
        speed_charts(bench),
        title,
        f"{machine.processor}, {machine.threads} threads; torch {machine.versions['torch']}; "
        f"saccade is backend={bench.backend!r}",
    )
    return save_figure(figure, path)


def speed_charts(bench: MeasuredRun) -> list[SpeedChart]:
    """Return a chart for each phase, type and size, with its patterns as groups."""
    charts: dict[tuple[str, str, int, int], list[Outcome]] = {}
    for outcome in bench.outcomes:
        if outcome.limit is not Limit.NONE and outcome.timings:
            key = (
                outcome.group,
                outcome.labels["dtype"],
                outcome.shape["kv_len"],
                outcome.shape["head_dim"],
            )
            charts.setdefault(key, []).append(outcome)
    return [
        _chart(f"{phase}, {dtype}, {length:,} tokens, D={head_dim}", outcomes, bench)
        for (phase, dtype, length, head_dim), outcomes in charts.items()
    ]


def _chart(title: str, outcomes: list[Outcome], bench: MeasuredRun) -> SpeedChart:
    peak = outcomes[0].peak(bench.peaks)
    return SpeedChart(
        title,
        _UNITS[outcomes[0].limit],
        {_group(one): {name: one.rate(name) / 1e9 for name in one.timings} for one in outcomes},
        None if peak is None else peak / 1e9,
    )


def _group(outcome: Outcome) -> str:
    after = outcome.labels["after_matmul"] == "yes"
    return outcome.labels["pattern"] + (",\nafter a matmul" if after else "")
