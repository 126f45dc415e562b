"""The whole run: the processor's limits, every case chosen, and what only small or fresh calls show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from saccade.bench.cpu.cases import DTYPES, Selection
from saccade.bench.cpu.fresh_process import measure_memory, time_first_calls
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.peaks import Peaks, measure_peaks
from saccade.bench.cpu.small_calls import time_overheads, time_tiny_calls
from saccade.bench.cpu.timed_case import time_case
from saccade.bench.machine import Machine, describe_machine
from saccade.bench.report import Report
from saccade.errors import ArgumentError
from saccade.planner import backend_names

__all__ = ["BACKEND", "CpuBench", "bench_cpu"]

BACKEND = "cpu"
"""The backend that is measured unless another one is named."""

_PROCESSES = 3


@final
@dataclass(frozen=True, eq=False)
class CpuBench:
    """What a run found.

    Attributes:
        machine: What it ran on.
        backend: The backend of ours.
        peaks: The processor's limits, the larger of two measurements: before all cases and after them.
        outcomes: One a case, in the order measured.
    """

    machine: Machine
    backend: str
    peaks: Peaks
    outcomes: tuple[Outcome, ...]

    def in_group(self, group: str) -> list[Outcome]:
        """The outcomes of one table."""
        return [outcome for outcome in self.outcomes if outcome.group == group]

    def report(self) -> Report:
        """Everything as plain numbers, for the JSON file."""
        return Report(
            "cpu",
            self.machine,
            tuple(one for outcome in self.outcomes for one in outcome.measurements(self.peaks)),
            tuple(one for outcome in self.outcomes for one in outcome.refused()),
            self.peaks.as_json(),
        )


def bench_cpu(
    selection: Selection | None = None,
    *,
    backend: str = BACKEND,
    compiled: bool = True,
    memory: bool = False,
    rounds: int = 7,
    progress: Callable[[str, int, int], object] = lambda step, done, steps: None,
) -> CpuBench:
    """Measure the CPU engine beside its peers and beside the processor's own limits.

    Args:
        selection: Which cases. Where it names values, only its cases are measured; otherwise also first
            calls, tiny calls and what mods add to a pair. Default: the short list.
        backend: Which backend is measured.
        compiled: Whether torch's compiled `flex_attention` takes part; it compiles seconds for each case.
        memory: Whether a call of 131,072 tokens is measured too.
        rounds: Samples of each contender.
        progress: Told what comes next, how many steps are done, and how many there are.

    Returns:
        Times, refusals and limits.

    Raises:
        ArgumentError: No backend has the name.
        CheckError: A contender computes something else; nothing of its case is timed.

    Example:
        >>> from saccade.bench.cpu.cases import Phase
        >>> one = Selection(("causal",), ("float32",), (64,), (16,), only=Phase.FORWARD)
        >>> found = bench_cpu(one, backend="eager", compiled=False, rounds=1)
        >>> [outcome.name for outcome in found.outcomes]
        ['forward causal float32 S=64 D=16']
    """
    if backend not in backend_names():
        raise ArgumentError(f"backend must be one of {', '.join(backend_names())}, got {backend!r}")
    chosen = selection or Selection()
    steps = _steps(chosen, backend=backend, compiled=compiled, memory=memory, rounds=rounds)
    total = len(steps) + 2
    progress("the processor's limits", 0, total)
    before = measure_peaks()
    outcomes: list[Outcome] = []
    for done, (name, measure) in enumerate(steps, start=1):
        progress(name, done, total)
        outcomes += measure()
    progress("the processor's limits, again", total - 1, total)
    peaks = before.larger(measure_peaks())
    progress("done", total, total)
    return CpuBench(describe_machine(), backend, peaks, tuple(outcomes))


def _steps(
    selection: Selection, *, backend: str, compiled: bool, memory: bool, rounds: int
) -> list[tuple[str, Callable[[], list[Outcome]]]]:
    """What to do, by name."""
    steps: list[tuple[str, Callable[[], list[Outcome]]]] = [
        (str(case), _single(partial(time_case, case, backend=backend, compiled=compiled, rounds=rounds)))
        for case in selection.cases()
    ]
    if selection.is_default:
        steps += [
            (f"overheads, {dtype}", _single(partial(time_overheads, dtype, backend=backend, rounds=rounds)))
            for dtype in DTYPES
        ]
        steps += [
            ("tiny calls", _single(partial(time_tiny_calls, backend=backend, rounds=rounds))),
            (
                "first calls",
                partial(time_first_calls, backend=backend, compiled=compiled, rounds=min(rounds, _PROCESSES)),
            ),
        ]
    if memory:
        steps += [
            (f"memory, {dtype}", _single(partial(measure_memory, dtype, backend=backend)))
            for dtype in selection.dtypes or DTYPES
        ]
    return steps


def _single(measure: Callable[[], Outcome]) -> Callable[[], list[Outcome]]:
    return lambda: [measure()]
