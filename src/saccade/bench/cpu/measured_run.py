"""A run of steps between two measurements of the processor's limits, and what it found.

Owns the order: limits, every step, limits again. What the steps are is for whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.peaks import Peaks, measure_peaks
from saccade.bench.machine import Machine, describe_machine
from saccade.bench.report import Report
from saccade.errors import ArgumentError
from saccade.planner import backend_names

__all__ = ["BACKEND", "MeasuredRun", "Progress", "Step", "run_steps"]

BACKEND = "cpu"
"""The backend that is measured unless another one is named."""

Step: TypeAlias = tuple[str, Callable[[], list[Outcome]]]
"""What is shown while it runs, and what it does."""

Progress: TypeAlias = Callable[[str, int, int], object]
"""Told what comes next, how many steps are done, and how many there are."""


@final
@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """What a run found.

    Attributes:
        benchmark: Its name.
        machine: What it ran on.
        backend: The backend of ours.
        peaks: The processor's limits, the larger of two measurements: before all steps and after them.
        outcomes: One a case, in the order measured.
    """

    benchmark: str
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
            self.benchmark,
            self.machine,
            tuple(one for outcome in self.outcomes for one in outcome.measurements(self.peaks)),
            tuple(one for outcome in self.outcomes for one in outcome.refused()),
            self.peaks.as_json(),
        )


def run_steps(benchmark: str, backend: str, steps: Sequence[Step], progress: Progress) -> MeasuredRun:
    """Do every step, and measure the limits before and after them.

    Args:
        benchmark: The name of the run.
        backend: Which backend is measured.
        steps: What to do.
        progress: Told what comes next.

    Raises:
        ArgumentError: No backend has the name.
    """
    if backend not in backend_names():
        raise ArgumentError(f"backend must be one of {', '.join(backend_names())}, got {backend!r}")
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
    return MeasuredRun(benchmark, describe_machine(), backend, peaks, tuple(outcomes))
