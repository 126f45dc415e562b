"""The tables of a measured run, its bar while it runs, and the files it leaves.

Owns the look that `saccade bench cpu`, `train` and `jagged` share; what differs is a `Layout`. A peer's
cell is how many times as long as ours it takes; where ours did not run, its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade.bench.cpu import measured_run
from saccade.bench.cpu.measured_run import MeasuredRun
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.peers import OURS
from saccade.bench.report import require_writable
from saccade.cli import quantities
from saccade.cli.bench import print_machine
from saccade.cli.plain_table import plain_table

__all__ = ["Layout", "print_run", "run_under_bar"]

_UNITS = {Limit.MULTIPLY_ADD: ("GFLOP/s", "of peak"), Limit.BANDWIDTH: ("GB/s", "of read")}
_NONE = "–"
_NOTE = (
    "Medians, contenders in turns, each checked against float64 attention. ×: times as long as saccade. "
    "± is half the distance between the quartiles. "
)


@final
@dataclass(frozen=True)
class Layout:
    """What a benchmark's tables say.

    Attributes:
        peers: The groups that are tables of speeds, each with its peers in the order of their columns.
        note: How to read the numbers, after what is said of every run.
        picture: The heading of the picture.
        overheads: The heading of what is measured on top of causal attention, where that is.
        memory: What the memory of a call is held against, a heading, where that is measured.
    """

    peers: Mapping[str, tuple[str, ...]]
    note: str
    picture: str
    overheads: str = ""
    memory: str = ""


def run_under_bar(
    measure: Callable[[measured_run.Progress], MeasuredRun],
    layout: Layout,
    *,
    out: Path | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Measure under a bar, print the tables and write the files asked for.

    Args:
        measure: Does it, and tells what comes next.
        layout: What the tables say.
        out: A JSON file to write, or None.
        plot: A picture to write, or None.
        console: Where to print.

    Raises:
        ArgumentError: A file cannot be written.
        MissingPackageError: A picture is asked for without matplotlib.
    """
    # First of all, so that no run ends with what it lacked from its start.
    if out is not None:
        require_writable(out)
    if plot is not None:
        from saccade.bench.cpu.speed_charts import write_speeds  # deferred: matplotlib is optional
        from saccade.viz.canvas import require_picture_file  # deferred: matplotlib is optional

        require_picture_file(plot)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        run = measure(
            lambda step, done, steps: bar.update(task, description=escape(step), completed=done, total=steps)
        )
    print_run(run, layout, console)
    if out is not None:
        run.report().write_json(out)
    if plot is not None:
        console.print(f"wrote {write_speeds(run, layout.picture, plot)}", markup=False, highlight=False)


def print_run(run: MeasuredRun, layout: Layout, console: Console) -> None:
    """Print everything a run found."""
    for group, peers in layout.peers.items():
        for _, outcomes in groupby(run.in_group(group), lambda one: one.labels["dtype"]):
            console.print(_speed_table(list(outcomes), peers, run), "")
    for found in (
        _overhead_table(run, layout.overheads),
        _call_table(run),
        _memory_table(run, layout.memory),
    ):
        if found is not None:
            console.print(found, "")
    for line in _refusals(run):
        console.print(line, markup=False, highlight=False)
    console.print(_limits(run), style="dim", highlight=False)
    print_machine(run.report(), console, _NOTE + layout.note)


def _speed_table(outcomes: list[Outcome], columns: tuple[str, ...], run: MeasuredRun) -> Table:
    """The cases of one phase and type, a peer a column where it appears at all."""
    first = outcomes[0]
    peers = [peer for peer in columns if any(peer in one.timings or peer in one.refusals for one in outcomes)]
    rate, share = _UNITS[first.limit]
    table = plain_table(
        "pattern", "tokens|r", "D|r", "saccade|r", "±|r", f"{rate}|r", f"{share}|r",
        *(f"{peer}|r" for peer in peers),
        title=f"{first.group}, {first.labels['dtype']}",
    )  # fmt: skip
    for one in outcomes:
        table.add_row(
            one.labels["pattern"] + (", after a matmul" if one.labels["after_matmul"] == "yes" else ""),
            f"{one.shape['kv_len']:,}",
            str(one.shape["head_dim"]),
            *_ours(one, run),
            *(_peer(one, peer) for peer in peers),
        )
    return table


def _ours(one: Outcome, run: MeasuredRun) -> tuple[str, str, str, str]:
    """Our time, its spread, our rate and its part of the limit."""
    timing = one.timings.get(OURS)
    if timing is None:
        return "not run", "", _NONE, _NONE
    share = one.share(OURS, run.peaks)
    return (
        quantities.seconds(timing.median_s),
        quantities.spread(timing.spread),
        f"{one.rate(OURS) / 1e9:,.1f}",
        _NONE if share is None else quantities.percent(share),
    )


def _peer(one: Outcome, peer: str) -> str:
    """How many times as long as ours a peer takes, or how long."""
    if peer not in one.timings:
        return "not run" if peer in one.refusals else ""
    found = one.ratio(peer, OURS)
    return quantities.seconds(one.timings[peer].median_s) if found is None else quantities.times(found)


def _overhead_table(run: MeasuredRun, title: str) -> Table | None:
    """What more than causal attention costs a visible pair."""
    outcomes = run.in_group("overhead")
    if not outcomes:
        return None
    table = plain_table("pattern", "phase", "dtype", "time|r", "±|r", "a visible pair|r", title=title)
    for one in outcomes:
        for name, timing in one.timings.items():
            share = one.facts[name]["per_pair_overhead"]
            table.add_row(
                name,
                one.labels["phase"],
                one.labels["dtype"],
                quantities.seconds(timing.median_s),
                quantities.spread(timing.spread),
                _NONE if share is None else f"{100 * share:+.1f} %",
            )
    return table


def _call_table(run: MeasuredRun) -> Table | None:
    """Calls whose cost is not their size."""
    outcomes = run.in_group("tiny") + run.in_group("first call")
    if not outcomes:
        return None
    table = plain_table("call", "by", "median|r", "±|r", title="what a call costs before it computes")
    for one in outcomes:
        for name, timing in one.timings.items():
            table.add_row(
                one.name, name, quantities.seconds(timing.median_s), quantities.spread(timing.spread)
            )
    return table


def _memory_table(run: MeasuredRun, target: str) -> Table | None:
    """The memory of a very long call beside what it may take."""
    outcomes = [one for one in run.in_group("memory") if one.facts]
    if not outcomes:
        return None
    table = plain_table(
        "call",
        "time|r",
        "growth|r",
        "with inputs|r",
        f"{target}|r",
        title="memory of a call",
    )
    for one in outcomes:
        facts = one.facts[OURS]
        table.add_row(
            one.name.removeprefix("memory "),
            quantities.seconds(one.timings[OURS].median_s),
            *(quantities.memory(facts[key]) for key in ("growth_bytes", "call_bytes", "target_bytes")),
        )
    return table


def _refusals(run: MeasuredRun) -> list[str]:
    """Who did not run and why, a line for each contender and reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for one in run.outcomes:
        for contender, reason in one.refusals.items():
            cases.setdefault((contender, reason), []).append(one.name)
    return [
        f"{contender}: not run in {names[0] if len(names) == 1 else quantities.counted(len(names), 'case')}: "
        f"{reason.rstrip('.')}."
        for (contender, reason), names in cases.items()
    ]


def _limits(run: MeasuredRun) -> str:
    """What the processor reached by itself."""
    peaks = run.peaks
    found = {
        "float32 multiply-add": (peaks.float32_flops, "GFLOP/s"),
        "bfloat16 dot product": (peaks.bfloat16_flops, "GFLOP/s"),
        "read": (peaks.read_bytes, "GB/s"),
    }
    parts = [f"{name} {rate / 1e9:,.0f} {unit}" for name, (rate, unit) in found.items() if rate is not None]
    return f"Limits measured in this run, {run.machine.threads} threads: {', '.join(parts)}."
