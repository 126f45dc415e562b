"""`saccade bench cpu`: the tables of a run, its bar while it runs, and the files it leaves.

Owns the look of the tables. A peer's cell is how many times as long as ours it takes; where ours did not
run, its time.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from saccade.bench.cpu.cases import Selection
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.peers import DENSE, FLEX, FOLDED, ONNX_RUNTIME, OURS, REPEATED, SDPA
from saccade.bench.cpu.run import CpuBench, bench_cpu
from saccade.cli import quantities
from saccade.cli.bench import print_machine
from saccade.cli.plain_table import plain_table

__all__ = ["print_cpu", "run_cpu"]

_PEERS = {
    "forward": (SDPA, DENSE, FLEX, ONNX_RUNTIME),
    "decode": (SDPA, REPEATED, FOLDED, DENSE, FLEX),
}
_UNITS = {Limit.MULTIPLY_ADD: ("GFLOP/s", "of peak"), Limit.BANDWIDTH: ("GB/s", "of read")}
_NONE = "–"
_NOTE = (
    "Medians, contenders in turns, each checked against float64 attention. ×: times as long as saccade. "
    "± is half the distance between the quartiles. Operations are 4·D a visible pair and head; bytes are "
    "those of the keys and values seen."
)


def run_cpu(
    selection: Selection,
    *,
    backend: str,
    compiled: bool,
    memory: bool,
    rounds: int,
    out: Path | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Measure under a bar, print the tables and write the files asked for.

    Args:
        selection: Which cases.
        backend: Which backend is measured.
        compiled: Whether torch's compiled `flex_attention` takes part.
        memory: Whether a very long call's memory is measured too.
        rounds: Samples of each contender.
        out: A JSON file to write, or None.
        plot: A picture to write, or None.
        console: Where to print.

    Raises:
        ArgumentError: The backend is unknown, or a file cannot be written.
        MissingPackageError: A picture is asked for without matplotlib.
        CheckError: A contender computes something else.
    """
    if plot is not None:
        # First of all, so that no run ends with what it lacked from its start.
        from saccade.bench.cpu.speed_charts import write_speeds  # deferred: matplotlib is optional
        from saccade.viz.canvas import require_picture_file  # deferred: matplotlib is optional

        require_picture_file(plot)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        bench = bench_cpu(
            selection,
            backend=backend,
            compiled=compiled,
            memory=memory,
            rounds=rounds,
            progress=lambda step, done, steps: bar.update(
                task, description=escape(step), completed=done, total=steps
            ),
        )
    print_cpu(bench, console)
    if out is not None:
        bench.report().write_json(out)
    if plot is not None:
        console.print(f"wrote {write_speeds(bench, plot)}", markup=False, highlight=False)


def print_cpu(bench: CpuBench, console: Console) -> None:
    """Print everything a run found."""
    for group in _PEERS:
        for _, outcomes in groupby(bench.in_group(group), lambda one: one.labels["dtype"]):
            console.print(_speed_table(list(outcomes), bench), "")
    for table in (_overhead_table, _call_table, _memory_table):
        found = table(bench)
        if found is not None:
            console.print(found, "")
    for line in _refusals(bench):
        console.print(line, markup=False, highlight=False)
    console.print(_limits(bench), style="dim", highlight=False)
    print_machine(bench.report(), console, _NOTE)


def _speed_table(outcomes: list[Outcome], bench: CpuBench) -> Table:
    """The cases of one phase and type, a peer a column where it appears at all."""
    first = outcomes[0]
    peers = [
        peer
        for peer in _PEERS[first.group]
        if any(peer in one.timings or peer in one.refusals for one in outcomes)
    ]
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
            *_ours(one, bench),
            *(_peer(one, peer) for peer in peers),
        )
    return table


def _ours(one: Outcome, bench: CpuBench) -> tuple[str, str, str, str]:
    """Our time, its spread, our rate and its part of the limit."""
    timing = one.timings.get(OURS)
    if timing is None:
        return "not run", "", _NONE, _NONE
    share = one.share(OURS, bench.peaks)
    return (
        quantities.seconds(timing.median_s),
        quantities.percent(timing.spread),
        f"{one.rate(OURS) / 1e9:,.1f}",
        _NONE if share is None else quantities.percent(share),
    )


def _peer(one: Outcome, peer: str) -> str:
    """How many times as long as ours a peer takes, or how long."""
    if peer not in one.timings:
        return "not run" if peer in one.refusals else ""
    found = one.ratio(peer, OURS)
    return quantities.seconds(one.timings[peer].median_s) if found is None else quantities.times(found)


def _overhead_table(bench: CpuBench) -> Table | None:
    """What a mod adds to a visible pair."""
    outcomes = bench.in_group("overhead")
    if not outcomes:
        return None
    table = plain_table(
        "pattern", "dtype", "time|r", "±|r", "a visible pair|r", title="mods on top of causal attention"
    )
    for one in outcomes:
        for name, timing in one.timings.items():
            share = one.facts[name]["per_pair_overhead"]
            table.add_row(
                name,
                one.labels["dtype"],
                quantities.seconds(timing.median_s),
                quantities.percent(timing.spread),
                _NONE if share is None else f"{100 * share:+.1f} %",
            )
    return table


def _call_table(bench: CpuBench) -> Table | None:
    """Calls whose cost is not their size."""
    outcomes = bench.in_group("tiny") + bench.in_group("first call")
    if not outcomes:
        return None
    table = plain_table("call", "by", "median|r", "±|r", title="what a call costs before it computes")
    for one in outcomes:
        for name, timing in one.timings.items():
            table.add_row(
                one.name, name, quantities.seconds(timing.median_s), quantities.percent(timing.spread)
            )
    return table


def _memory_table(bench: CpuBench) -> Table | None:
    """The memory of a very long call beside what it may take."""
    outcomes = [one for one in bench.in_group("memory") if one.facts]
    if not outcomes:
        return None
    table = plain_table(
        "call",
        "time|r",
        "growth|r",
        "with inputs|r",
        "3·(q + k + v + out) + 64 MB|r",
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


def _refusals(bench: CpuBench) -> list[str]:
    """Who did not run and why, a line for each contender and reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for one in bench.outcomes:
        for contender, reason in one.refusals.items():
            cases.setdefault((contender, reason), []).append(one.name)
    return [
        f"{contender}: not run in {names[0] if len(names) == 1 else quantities.counted(len(names), 'case')}: "
        f"{reason}."
        for (contender, reason), names in cases.items()
    ]


def _limits(bench: CpuBench) -> str:
    """What the processor reached by itself."""
    peaks = bench.peaks
    found = {
        "float32 multiply-add": (peaks.float32_flops, "GFLOP/s"),
        "bfloat16 dot product": (peaks.bfloat16_flops, "GFLOP/s"),
        "read": (peaks.read_bytes, "GB/s"),
    }
    parts = [f"{name} {rate / 1e9:,.0f} {unit}" for name, (rate, unit) in found.items() if rate is not None]
    return f"Limits measured in this run, {bench.machine.threads} threads: {', '.join(parts)}."
