"""`saccade bench`: reports as tables, and as JSON where a file is named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TypeVar

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.bench.compare import DTYPES, compare_pattern, report_of
from saccade.bench.comparison_table import print_comparison
from saccade.bench.report import Measurement, Report, ratio
from saccade.bench.sizes import AttentionSize
from saccade.bench.text_patterns import pattern_names
from saccade.cli import quantities
from saccade.cli.plain_table import plain_table
from saccade.errors import ArgumentError

__all__ = ["print_machine", "print_masks", "print_trace", "run_comparisons", "with_status"]

T = TypeVar("T")

_ALL = "all"
_SPREAD = "± is half the distance between the quartiles."
_WORK = (
    "Times are medians, contenders in turns. FLOPS count density·4·B·H·Q·K·D forward and 10 for 4 backward; "
    "the density is that of the blocks, 0.5 for causal flash."
)


def with_status(console: Console, run: Callable[[Callable[[str], object]], T]) -> T:
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
                escape(name), measurement.contender, median, quantities.spread(measurement.timing.spread)
            )
    console.print(table, "")
    console.print(costs, "")
    print_machine(report, console)


def run_comparisons(
    pattern: str, size: AttentionSize, *, dtype: str | None, rounds: int, compiled: bool, console: Console
) -> Report:
    """Compare one pattern or all, and print each table as soon as it is known.

    Args:
        pattern: The pattern's name, or "all".
        size: Sizes of the call.
        dtype: A name in `DTYPES`; None for the device's usual one.
        rounds: Samples of each time.
        compiled: Whether torch's `flex_attention` takes part.
        console: Where to print.

    Returns:
        Every time, as the JSON file holds them.

    Raises:
        ArgumentError: No pattern or dtype has the name.
        CheckError: A contender computes something else.
    """
    kind = None if dtype is None else _dtype(dtype)
    found = []
    for name in pattern_names() if pattern == _ALL else (pattern,):
        comparison = with_status(
            console,
            lambda progress, name=name: compare_pattern(  # type: ignore[misc]
                name, size, dtype=kind, rounds=rounds, compiled=compiled, progress=progress
            ),
        )
        print_comparison(comparison, console)
        console.print()
        found.append(comparison)
    report = report_of(found)
    print_machine(report, console, _WORK)
    return report


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ArgumentError(f"--dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def print_machine(report: Report, console: Console, note: str = _SPREAD) -> None:
    """Print what a report ran on, and a note on how to read it."""
    machine = report.machine
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("python", "torch", "numpy"))
    console.print(
        f"{machine.processor}, {quantities.counted(machine.cores, 'core')}; {versions}. {note}",
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
            quantities.spread(measurement.timing.spread),
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
