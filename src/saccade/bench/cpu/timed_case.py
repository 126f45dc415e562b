"""One forward pass or decoding step by everyone in it: checked against float64, then timed in turns.

Before every sample comes a rest, or a torch product, as in a model. A decoding step reads another cache at
every call, whoever makes it, so that none of them is found in the processor's caches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import final

from torch import Tensor

from saccade.bench.agreement import OutputCheck
from saccade.bench.contenders import Contender, Inputs, Workload, make_block_mask, tried
from saccade.bench.cpu.cases import DTYPES, Case, Phase
from saccade.bench.cpu.inputs import normal_inputs
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.patterns import cpu_pattern
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.cpu.peaks import beyond_caches
from saccade.bench.cpu.peers import OURS, participants

__all__ = ["make_workload", "time_case"]

_LARGE = 2**30  # scores


def time_case(case: Case, *, backend: str, compiled: bool, rounds: int) -> Outcome:
    """Check everyone in a case, then time them.

    Args:
        case: What to measure.
        backend: The backend of ours.
        compiled: Whether torch's compiled `flex_attention` takes part.
        rounds: Samples of each contender, fewer where the calls are long.

    Returns:
        Times, and why who is missing did not run.

    Raises:
        CheckError: A contender computes something else.

    Example:
        >>> tiny = Case(Phase.FORWARD, "causal", "float32", 64, 16)
        >>> outcome = time_case(tiny, backend="eager", compiled=False, rounds=1)
        >>> list(outcome.timings), outcome.work == 4 * 8 * (64 * 65 // 2) * 16
        (['saccade', 'SDPA', 'SDPA + mask'], True)
    """
    work = make_workload(case)
    check = OutputCheck(work)
    entered = [
        _tried(one, work.inputs, check)
        for one in participants(case, work, backend=backend, compiled=compiled)
    ]
    inputs = _Rotation(case, work.inputs)
    running = {one.name: _call(one.attend, inputs) for one in entered if one.attend is not None}
    timings = time_apart(
        running,
        rounds=rounds,
        is_large=case.size.scores > _LARGE,
        product=DTYPES[case.dtype] if case.after_matmul else None,
    )
    return Outcome(
        str(case),
        case.phase.value,
        case.shape,
        case.labels,
        timings,
        {one.name: one.refusal for one in entered if one.refusal},
        Limit.MULTIPLY_ADD if case.phase is Phase.FORWARD else Limit.BANDWIDTH,
        _flops(work) if case.phase is Phase.FORWARD else _bytes_read(work),
    )


def make_workload(case: Case) -> Workload:
    """Return a case's mods, blocks and first inputs, the same in every run."""
    size = case.size
    pattern = cpu_pattern(case.pattern, case.length, size.heads)
    if case.phase is Phase.DECODE:
        pattern = pattern.last_row()
    inputs = _inputs(case, seed=0)
    mask = make_block_mask(pattern.mask_mod, size, inputs[0].device)
    return Workload(pattern.score_mod, pattern.mask_mod, mask, size, inputs)


@final
class _Rotation:
    """The inputs of call after call: always the same ones, or the next of many caches."""

    def __init__(self, case: Case, first: Inputs) -> None:
        self._inputs: Iterator[Inputs] = itertools.repeat(first)
        if case.phase is Phase.DECODE:
            cache_bytes = 2 * first[1].nbytes
            count = max(2, -(-beyond_caches() // cache_bytes))
            others = (_inputs(case, seed) for seed in range(1, count))
            self._inputs = itertools.cycle([first, *others])

    def __next__(self) -> Inputs:
        return next(self._inputs)


def _inputs(case: Case, seed: int) -> Inputs:
    return normal_inputs(case.size, case.kv_heads, DTYPES[case.dtype], seed=seed)


def _tried(contender: Contender, inputs: Inputs, check: OutputCheck) -> Contender:
    """A contender whose first call was right; a peer that fails at it becomes one that does not run."""

    def first_call() -> None:
        assert contender.attend is not None, "asked of contenders that run"
        check(contender.name, contender.attend(*inputs))

    return tried(contender, contender.name != OURS, first_call)


def _call(attend: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: _Rotation) -> Callable[[], object]:
    return lambda: attend(*next(inputs))


def _flops(work: Workload) -> float:
    """Two products of two operations for each visible pair and dimension."""
    return 4.0 * work.visible_pairs * work.size.head_dim


def _bytes_read(work: Workload) -> float:
    """Keys and values that a query head sees, once for every kv head that is shared."""
    _, key, value = work.inputs
    keys_seen = work.visible_pairs / (work.size.batch * work.size.heads)
    row_bytes = (key.shape[-1] + value.shape[-1]) * key.element_size()
    return keys_seen * row_bytes * key.shape[0] * key.shape[1]
