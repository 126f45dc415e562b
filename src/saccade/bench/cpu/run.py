"""The whole run: the processor's limits, every case chosen, and what only small or fresh calls show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from saccade.bench.cpu.cases import DTYPES, Selection
from saccade.bench.cpu.fresh_calls import measure_memory, time_first_calls
from saccade.bench.cpu.measured_run import BACKEND, MeasuredRun, Progress, Step, run_steps
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.small_calls import time_overheads, time_tiny_calls
from saccade.bench.cpu.timed_case import time_case

__all__ = ["bench_cpu"]

_PROCESSES = 3


def bench_cpu(
    selection: Selection | None = None,
    *,
    backend: str = BACKEND,
    compiled: bool = True,
    memory: bool = False,
    rounds: int = 7,
    progress: Progress = lambda step, done, steps: None,
) -> MeasuredRun:
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
    chosen = selection or Selection()
    steps = _steps(chosen, backend=backend, compiled=compiled, memory=memory, rounds=rounds)
    return run_steps("cpu", backend, steps, progress)


def _steps(selection: Selection, *, backend: str, compiled: bool, memory: bool, rounds: int) -> list[Step]:
    """What to do, by name."""
    steps: list[Step] = [
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
