"""`saccade bench`: reports as tables, and as JSON where a file is named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.bench.report import Measurement, Report, ratio
from saccade.cli import quantities
from saccade.cli.plain_table import plain_table

__all__ = ["print_machine", "print_masks", "print_trace", "with_status"]


def with_status(console: Console, run: Callable[[Callable[[str], object]], Report]) -> Report:
    """Run a benchmark under a status line that names its present step."""
    with console.status("starting") as status:
        return run(lambda step: status.update(step))


def print_masks(report: Report, console: Console) -> None:
    """Print a report of `bench_masks`: ours alone, then ours beside torch's."""
    cases = [list(group) for _, group in groupby(report.measurements, _case)]
    alone = [group[0] for group in cases if len(group) == 1]
    if alone:
        console.print(_alone_table(alone), "")
    beside = [group for group in cases if len(group) > 1]
    if beside:
        console.print(_beside_table(beside), "")
        console.print(
            "×: times as long as Saccade. peak: growth of the process at the peak of torch's call. "
            "first: the first compiled call; torch compiles anew for a mask, and again for other lengths.",
            style="dim",
            highlight=False,
        )
    print_machine(report, console)


def print_trace(report: Report, console: Console) -> None:
    """Print a report of `bench_trace`."""
    table = plain_table("mod", "by", "median|r", "±|r", title="Reading a mod")
    costs = plain_table("one more operation", "median|r", title="What an operation adds")
    for measurement in report.measurements:
        kind, _, name = measurement.case.partition(": ")
        median = quantities.seconds(measurement.timing.median_s)
        if kind == "op":
            costs.add_row(escape(name), median)
        else:
            table.add_row(
                escape(name), measurement.contender, median, quantities.percent(measurement.timing.spread)
            )
    console.print(table, "")
    console.print(costs, "")
    print_machine(report, console)


def print_machine(report: Report, console: Console) -> None:
    """Print what a report ran on, in one line."""
    machine = report.machine
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("python", "torch", "numpy"))
    console.print(
        f"{machine.processor}, {quantities.counted(machine.cores, 'core')}; {versions}. "
        "± is half the distance between the quartiles.",
        style="dim",
        highlight=False,
    )


def _case(measurement: Measurement) -> tuple[str, int]:
    return measurement.case, measurement.shape["q_len"]


def _alone_table(measurements: list[Measurement]) -> Table:
    table = plain_table(
        "mask", "tokens|r", "first|r", "median|r", "±|r", "mask|r", title="create_block_mask, alone"
    )
    for measurement in measurements:
        table.add_row(
            measurement.case,
            f"{measurement.shape['q_len']:,}",
            quantities.seconds(measurement.timing.first_s),
            quantities.seconds(measurement.timing.median_s),
            quantities.percent(measurement.timing.spread),
            quantities.memory(measurement.facts["mask_bytes"]),
        )
    return table


def _beside_table(cases: list[list[Measurement]]) -> Table:
    table = plain_table(
        "mask", "tokens|r", "Saccade|r", "torch|r", "|r", "peak|r", "compiled|r", "|r", "first|r",
        title="beside torch's, which evaluates every pair",
    )  # fmt: skip
    for case in cases:
        by_name = {measurement.contender: measurement for measurement in case}
        ours, eager, compiled = (by_name.get(name) for name in ("saccade", "torch", "torch, compiled"))
        assert ours is not None, "every case has ours"
        table.add_row(
            ours.case,
            f"{ours.shape['q_len']:,}",
            quantities.seconds(ours.timing.median_s),
            *_beside(eager, ours),
            "–" if eager is None else quantities.memory(eager.facts["peak_bytes"]),
            *_beside(compiled, ours),
            "–" if compiled is None else quantities.seconds(compiled.timing.first_s),
        )
    return table


def _beside(other: Measurement | None, ours: Measurement) -> tuple[str, str]:
    """The median of another contender, and how many times ours it is."""
    if other is None:
        return "–", ""
    return quantities.seconds(other.timing.median_s), quantities.times(ratio(other, ours))
