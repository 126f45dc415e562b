"""`saccade demo`: run the patterns one by one with a progress bar, then show the table and the verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade.analysis.runs import BlockKind
from saccade.bench.demo import PatternResult, run_pattern
from saccade.bench.machine import describe_machine
from saccade.bench.patterns import Pattern, Size, demo_patterns
from saccade.bench.torch_masks import warm_up_torch
from saccade.cli import quantities
from saccade.cli.plain_table import plain_table

__all__ = ["run_demo"]

_WIDE = 100  # columns of a terminal in which a row of the table fits one line
_KINDS = (BlockKind.EMPTY, BlockKind.PARTIAL, BlockKind.FULL)
_LEGEND = (
    "visible: share of all pairs. empty, partial, full: blocks of 128×128 pairs.",
    "Saccade, torch: time of create_block_mask; ours the median of 7 calls, torch's one call.",
    "memory: growth of the process at the peak of torch's call.",
    (
        "✓: every pair equals the mod evaluated pair by pair, every block equals torch's (which calls "
        "partial what a length cuts), and attention is as near to float64 as plain float32 attention is."
    ),
)


def run_demo(size: Size, console: Console, out: Path | None = None) -> bool:
    """Check and time every pattern; print the table, what failed, and the verdict.

    Args:
        size: How large the patterns are.
        console: Where to print.
        out: Where to draw the gallery, first of all; None draws nothing.

    Returns:
        Whether every check passed.

    Raises:
        ArgumentError: `out` ends in another way than a picture does, or cannot be written.
        MissingPackageError: A picture is wanted, and matplotlib is not installed.
    """
    if out is not None:
        from saccade.bench.gallery import write_gallery  # deferred: matplotlib is optional

        console.print(
            f"The gallery is drawn in {write_gallery(out)}\n", markup=False, highlight=False, soft_wrap=True
        )
    start = time.perf_counter()
    results = _run_with_progress(demo_patterns(size), console)
    console.print(_table(results, console.width))
    console.print()
    for note in (*_LEGEND, *_notes(results)):
        console.print(note, style="dim", highlight=False)
    console.print()
    return _print_verdict(results, time.perf_counter() - start, console)


def _run_with_progress(patterns: Sequence[Pattern], console: Console) -> list[PatternResult]:
    """Run the patterns in order, under a bar that names the present one."""
    results = []
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("warming up", total=len(patterns))
        warm_up_torch()
        for pattern in patterns:
            progress.update(task, description=pattern.name)
            results.append(run_pattern(pattern))
            progress.advance(task)
    return results


def _table(results: Sequence[PatternResult], width: int) -> Table:
    """One row a pattern; in a narrow terminal its size stands below its name."""
    sizes = ["size"] if width >= _WIDE else []
    table = plain_table(
        "pattern", *sizes, "visible|r", *(f"{kind.name.lower()}|r" for kind in _KINDS),
        "Saccade|r", "torch|r", "memory|r", "|r",
    )  # fmt: skip
    for result in results:
        name, extent, theirs = escape(result.pattern.name), result.pattern.extent, result.torch
        table.add_row(
            *([name, extent] if sizes else [f"{name}\n  [dim]{extent}[/]"]),
            quantities.percent(result.density),
            *(f"{result.blocks[kind]:,}" for kind in _KINDS),
            quantities.seconds(result.build.median_s),
            "not run" if theirs is None else quantities.seconds(theirs.seconds),
            quantities.memory(None if theirs is None else theirs.peak_bytes),
            "[red]✗[/]" if result.faults else "[green]✓[/]",
        )
    return table


def _notes(results: Sequence[PatternResult]) -> list[str]:
    """What is particular to this run."""
    notes = [result.pattern.note for result in results if result.pattern.note]
    partly = [len(result.attention.rows) for result in results if not result.attention.is_whole]
    if partly:
        notes.append(
            f"Attention of large patterns is checked on {min(partly)} or more query rows, against all keys."
        )
    unasked = ", ".join(result.pattern.name for result in results if result.torch is None)
    if unasked:
        notes.append(f"torch was not run for {unasked}: evaluating all pairs does not fit the free memory.")
    return notes


def _print_verdict(results: Sequence[PatternResult], elapsed: float, console: Console) -> bool:
    """Print each fault, then the verdict; return whether there is no fault."""
    failed = [result for result in results if result.faults]
    for result in failed:
        for fault in result.faults:
            console.print(f"[red]✗[/] {escape(result.pattern.name)}: {fault}", highlight=False)
    machine = describe_machine()
    console.print(
        f"{quantities.seconds(elapsed)} in all on {machine.processor}, "
        f"{quantities.counted(machine.cores, 'core')}, torch {machine.versions['torch']}.",
        style="dim",
        highlight=False,
    )
    if failed:
        console.print(f"[bold red]{len(failed)} of {len(results)} patterns failed.[/]", highlight=False)
        return False
    console.print(f"[bold green]All {len(results)} patterns are right.[/]{_race(results)}", highlight=False)
    return True


def _race(results: Sequence[PatternResult]) -> str:
    """A sentence that sums up both times over the patterns that torch was asked for; empty without any."""
    compared = [
        (result.build.median_s, result.torch.seconds) for result in results if result.torch is not None
    ]
    if not compared:
        return ""
    ours, theirs = (sum(times) for times in zip(*compared, strict=True))
    return f" Their masks took {quantities.seconds(ours)}, torch's {quantities.seconds(theirs)}."
