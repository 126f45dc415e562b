"""`saccade bench gpu`: its tables, its bar while it runs, and the files it leaves.

A peer's cell is how many times as long as ours it takes; where ours did not run, its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade.bench.gpu.cases import Phase
from saccade.bench.gpu.mask_times import TORCH
from saccade.bench.gpu.outcome import GpuOutcome
from saccade.bench.gpu.peers import AUTO, FLEX, OURS, PEERS
from saccade.bench.gpu.run import GpuRun
from saccade.bench.report import require_writable
from saccade.cli import quantities
from saccade.cli.bench import print_machine
from saccade.cli.plain_table import plain_table

__all__ = ["print_run", "run_under_bar"]

_NONE = "–"
_UNITS = {Phase.DECODE: ("GB/s", 1e9, "of copy")}
_MATRIX = ("TFLOP/s", 1e12, "of peak")
_NOTE = (
    "Medians, contenders in turns, caches cold, each checked against float64 attention on some heads and "
    "against the others everywhere. ×: times as long as saccade. ± is half the distance between the "
    "quartiles. Operations are 4·D a visible pair and head forward, 10·D backward, on a graph made before; "
    "bytes those of the keys and values seen. floor: the time that operations at the matrix rate or bytes "
    "at the copy rate take at the least, and which of the two. auto: what it picks, and its time. mask, "
    "torch's mask: making the block mask, which no other time holds."
)


def run_under_bar(
    measure: Callable[[Callable[[str, int, int], object]], GpuRun],
    *,
    out: Path | None,
    plot: Path | None,
    console: Console,
) -> bool:
    """Measure under a bar, print the tables and write the files asked for.

    Args:
        measure: Does it, and tells what comes next, how many steps are done, and how many there are.
        out: A JSON file to write, or None.
        plot: A picture to write, or None.
        console: Where to print.

    Returns:
        Whether everything of this library that ran was right.

    Raises:
        ArgumentError: A file cannot be written, or no case ran that could be drawn.
        MissingPackageError: A picture is asked for without matplotlib.
    """
    # First of all, so that no run ends with what it lacked from its start.
    if out is not None:
        require_writable(out)
    if plot is not None:
        from saccade.bench.gpu.speed_charts import write_speeds  # deferred: matplotlib is optional
        from saccade.viz.canvas import require_picture_file  # deferred: matplotlib is optional

        require_picture_file(plot)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        run = measure(
            lambda step, done, steps: bar.update(task, description=escape(step), completed=done, total=steps)
        )
    print_run(run, console)
    if out is not None:
        run.report().write_json(out)
    if plot is not None:
        console.print(f"wrote {write_speeds(run, plot)}", markup=False, highlight=False)
    return run.is_right


def print_run(run: GpuRun, console: Console) -> None:
    """Print everything a run found."""
    outcomes = sorted(run.outcomes, key=_order)
    for _, group in groupby(outcomes, lambda one: (one.phase, one.case.head_dim)):
        console.print(_table(list(group), run), "")
    for line in (*_summary(run), *_missing(run), *_failures(run), *_left(run)):
        console.print(line, markup=False, highlight=False)
    console.print(_limits(run), style="dim", highlight=False)
    print_machine(run.report(), console, _NOTE)


def _order(one: GpuOutcome) -> tuple[int, int, str, int, int]:
    case = one.case
    return list(Phase).index(one.phase), -case.head_dim, case.pattern, case.length, case.batch


def _table(outcomes: list[GpuOutcome], run: GpuRun) -> Table:
    """The cases of one phase and width, a peer a column where it was timed at all."""
    first = outcomes[0]
    peers = [peer for peer in PEERS if any(peer in one.timings for one in outcomes)]
    unit, scale, share = _UNITS.get(first.phase, _MATRIX)
    masks = [owner for owner in (OURS, TORCH) if any(owner in one.masks for one in outcomes)]
    table = plain_table(
        "pattern", "B|r", "tokens|r", "saccade|r", "±|r", f"{unit}|r", f"{share}|r", "floor|r", "",
        "auto|r", *(f"{peer}|r" for peer in peers),
        *("mask|r" if owner == OURS else "torch's mask|r" for owner in masks),
        title=f"{first.phase.value}, {first.dtype}, D={first.case.head_dim}",
    )  # fmt: skip
    for one in outcomes:
        floor = one.floor(run.ceilings)
        table.add_row(
            one.case.pattern,
            str(one.shape["batch"]),
            f"{one.shape['kv_len']:,}",
            *_ours(one, run, scale),
            quantities.seconds(floor.seconds),
            floor.bound.value,
            _auto(one),
            *(_peer(one, peer) for peer in peers),
            *(_mask(one, owner) for owner in masks),
        )
    return table


def _ours(one: GpuOutcome, run: GpuRun, scale: float) -> tuple[str, str, str, str]:
    """Our time, its spread, our rate and its part of the limit."""
    timing = one.timings.get(OURS)
    if timing is None:
        return "FAILED" if OURS in one.failures else "not run", "", _NONE, _NONE
    return (
        quantities.seconds(timing.median_s),
        quantities.spread(timing.spread),
        f"{one.rate(OURS) / scale:,.1f}",
        quantities.percent(one.share(OURS, run.ceilings)),
    )


def _auto(one: GpuOutcome) -> str:
    """What `auto` picks, and how long that takes where it is not ours."""
    if one.auto_is_ours:
        return OURS
    if one.picked is None:
        return "nobody"
    return f"{one.picked} {_peer(one, AUTO)}"


def _peer(one: GpuOutcome, peer: str) -> str:
    """How many times as long as ours a peer takes, or how long."""
    if peer not in one.timings:
        return "WRONG" if peer in one.failures else "not run" if peer in one.refusals else ""
    found = one.ratio(peer)
    return quantities.seconds(one.timings[peer].median_s) if found is None else quantities.times(found)


def _mask(one: GpuOutcome, owner: str) -> str:
    return quantities.seconds(one.masks[owner].median_s) if owner in one.masks else ""


def _summary(run: GpuRun) -> list[str]:
    """How the run stands beside torch's flex_attention, and what `auto` loses where it picks another."""
    lines = []
    for phase in Phase:
        ratios = [
            (found, one.name)
            for one in run.outcomes
            if one.phase is phase and (found := one.ratio(FLEX)) is not None
        ]
        if ratios:
            (least, where), (most, _) = min(ratios), max(ratios)
            lines.append(
                f"{phase.value}: {FLEX} takes {quantities.times(least)} to {quantities.times(most)} as long "
                f"as saccade, least in {where}."
            )
    picks = [(found, one.name) for one in run.outcomes if (found := one.slowness_of_auto()) is not None]
    if picks:
        slowest, where = max(picks)
        lines.append(
            f"auto: at most {quantities.times(slowest)} the time of the fastest contender, in {where}."
        )
    return lines


def _missing(run: GpuRun) -> list[str]:
    """Who did not run and why, a line for each contender and reason."""
    return [
        f"{contender}: not run in {_counted(names)}: {reason.rstrip('.')}."
        for (contender, reason), names in _grouped(
            (name, reason, one.name) for one in run.outcomes for name, reason in one.refusals.items()
        ).items()
    ]


def _failures(run: GpuRun) -> list[str]:
    """What went wrong, and where."""
    failed = _grouped(
        (name, reason, one.name) for one in run.outcomes for name, reason in one.failures.items()
    )
    return [
        *(f"FAILED in {_counted(names)}: {who}: {why}" for (who, why), names in failed.items()),
        *(f"FAILED: {case}: {reason}" for case, reason in run.broken.items()),
    ]


def _left(run: GpuRun) -> list[str]:
    """What there was no time for."""
    if not run.left:
        return []
    count, names = quantities.counted(len(run.left), "case"), "; ".join(map(str, run.left))
    spent = f"{run.minutes:g} minutes were spent (give more with --minutes)"
    return [f"{count} left when {spent}: {names}."]


def _grouped(found: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], list[str]]:
    """Names of cases by contender and reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for contender, reason, name in found:
        cases.setdefault((contender, reason), []).append(name)
    return cases


def _counted(names: list[str]) -> str:
    return names[0] if len(names) == 1 else quantities.counted(len(names), "case")


def _limits(run: GpuRun) -> str:
    """What the card reached by itself."""
    ceilings, machine = run.ceilings, run.machine
    driver = machine.versions.get("driver")
    card = machine.accelerator if run.card else f"no card, {machine.threads} threads of the host"
    return (
        f"Limits measured in this run, {card}{f', driver {driver}' if driver else ''}: bfloat16 matrix "
        f"product {ceilings.matrix_flops / 1e12:,.3g} TFLOP/s, copy {ceilings.copy_bytes / 1e9:,.4g} GB/s."
    )
