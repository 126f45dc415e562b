"""The whole run: the processor's limits, and every jagged case chosen."""

from __future__ import annotations

from functools import partial

from saccade.bench.cpu.measured_run import BACKEND, MeasuredRun, Progress, Step, run_steps
from saccade.bench.jagged.cases import Selection
from saccade.bench.jagged.timed_case import time_case

__all__ = ["bench_jagged"]


def bench_jagged(
    selection: Selection | None = None,
    *,
    backend: str = BACKEND,
    rounds: int = 7,
    progress: Progress = lambda step, done, steps: None,
) -> MeasuredRun:
    """Measure jagged batches on the CPU engine beside torch's SDPA in four forms.

    Args:
        selection: Which cases. Default: all.
        backend: Which backend is measured.
        rounds: Samples of each contender.
        progress: Told what comes next, how many steps are done, and how many there are.

    Returns:
        Times, refusals and limits.

    Raises:
        ArgumentError: No backend has the name.
        CheckError: A contender computes something else; nothing of its case is timed.
    """
    steps: list[Step] = [
        (str(case), partial(time_case, case, backend=backend, rounds=rounds))
        for case in (selection or Selection()).cases()
    ]
    return run_steps("jagged", backend, steps, progress)
