"""The whole run: the processor's limits, every case chosen, and what dropout, tiny calls and length cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.measured_run import BACKEND, MeasuredRun, Progress, Step, run_steps
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.train.cases import Selection
from saccade.bench.train.long_step import measure_step_memory
from saccade.bench.train.small_calls import time_dropout, time_tiny_steps
from saccade.bench.train.timed_case import time_case

__all__ = ["bench_train"]


def bench_train(
    selection: Selection | None = None,
    *,
    backend: str = BACKEND,
    memory: bool = False,
    rounds: int = 7,
    progress: Progress = lambda step, done, steps: None,
) -> MeasuredRun:
    """Measure gradients of the CPU engine beside torch's SDPA and beside the processor's own limits.

    Args:
        selection: Which cases. Where it names values, only its cases are measured; otherwise also what
            dropout adds and what tiny calls cost. Default: the short list.
        backend: Which backend is measured.
        memory: Whether a step of 131,072 tokens is measured too.
        rounds: Samples of each contender.
        progress: Told what comes next, how many steps are done, and how many there are.

    Returns:
        Times, refusals and limits.

    Raises:
        ArgumentError: No backend has the name.
        CheckError: A contender computes something else; nothing of its case is timed.

    Example:
        >>> from saccade.bench.train.cases import Phase
        >>> one = Selection(("causal",), ("float32",), (64,), (16,), only=Phase.BACKWARD)
        >>> found = bench_train(one, backend="eager", rounds=1)
        >>> [outcome.name for outcome in found.outcomes]
        ['backward causal float32 S=64 D=16']
    """
    chosen = selection or Selection()
    steps: list[Step] = [
        (str(case), partial(time_case, case, backend=backend, phases=chosen.phases, rounds=rounds))
        for case in chosen.cases()
    ]
    if chosen.is_default:
        steps += [
            (f"dropout, {dtype}", partial(time_dropout, dtype, backend=backend, rounds=rounds))
            for dtype in DTYPES
        ]
        steps.append(("tiny calls", partial(time_tiny_steps, backend=backend, rounds=rounds)))
    if memory:
        steps += [(f"memory, {dtype}", _memory(dtype, backend)) for dtype in chosen.dtypes or DTYPES]
    return run_steps("train", backend, steps, progress)


def _memory(dtype: str, backend: str) -> Callable[[], list[Outcome]]:
    return lambda: [measure_step_memory(dtype, backend=backend)]
