"""One forward pass or decoding step by everyone in it: checked against float64, then timed in turns.

Owns what happens between the calls: a rest, in which the threads of the last contender fall asleep, or a
torch product, as in a model. A decoding step reads another cache at every call, whoever makes it, so that
none of them is found in the processor's caches.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from saccade.bench.agreement import OutputCheck
from saccade.bench.contenders import Contender, Inputs, Workload, mask_axes
from saccade.bench.cpu.cases import DTYPES, Case, Phase
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.patterns import cpu_pattern
from saccade.bench.cpu.peaks import beyond_caches
from saccade.bench.cpu.peers import OURS, participants
from saccade.bench.timing import time_in_turns
from saccade.block_mask import create_block_mask

__all__ = ["make_workload", "rest", "time_case", "visible_pairs"]

_REST_S = 0.02  # longer than OpenMP's threads look for more work before they sleep
_SAMPLE_S = 0.02
_MATMUL = 1024  # rows and columns of the product before a sample
_LARGE = 2**30  # scores; above them three rounds must do
_LARGE_ROUNDS = 3


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
    is_large = case.size.scores > _LARGE
    running = {one.name: _call(one.attend, inputs) for one in entered if one.attend is not None}
    timings = {}
    if running:
        timings = time_in_turns(
            running,
            rounds=min(rounds, _LARGE_ROUNDS) if is_large else rounds,
            # A product comes before every sample, so a sample is one call there.
            sample_s=0.0 if is_large or case.after_matmul else _SAMPLE_S,
            before=_matmul(DTYPES[case.dtype]) if case.after_matmul else rest,
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
    mask = None
    if pattern.mask_mod is not None:
        batch, heads = mask_axes(pattern.mask_mod, size)
        mask = create_block_mask(pattern.mask_mod, batch, heads, size.q_len, size.kv_len, device="cpu")
    return Workload(pattern.score_mod, pattern.mask_mod, mask, size, _inputs(case, seed=0))


def visible_pairs(work: Workload) -> int:
    """Count the pairs that some contender must compute, over all batches and query heads."""
    size, mask = work.size, work.block_mask
    if mask is None:
        return size.scores
    return mask.visible_pairs() * size.batch * size.heads // (mask.batch * mask.heads)


def rest() -> None:
    """Wait until the threads of whoever ran last have fallen asleep."""
    time.sleep(_REST_S)


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
    """Seeded normal numbers: query `[1, Hq, Q, D]`, key and value `[1, Hkv, K, D]`."""
    size, generator = case.size, torch.Generator().manual_seed(seed)

    def make(heads: int, length: int) -> Tensor:
        numbers = torch.randn(1, heads, length, case.head_dim, generator=generator, device="cpu")
        return numbers.to(DTYPES[case.dtype])

    return make(size.heads, size.q_len), make(case.kv_heads, size.kv_len), make(case.kv_heads, size.kv_len)


def _tried(contender: Contender, inputs: Inputs, check: OutputCheck) -> Contender:
    """A contender whose first call was right; a peer that fails at it becomes one that does not run."""
    if contender.attend is None:
        return contender
    try:
        out = contender.attend(*inputs)
    except Exception as fault:  # a peer that fails ends no measurement; ours is not excused
        if contender.name == OURS:
            raise
        reason = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0]}"
        return replace(contender, attend=None, refusal=reason)
    check(contender.name, out)
    return contender


def _call(attend: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: _Rotation) -> Callable[[], object]:
    return lambda: attend(*next(inputs))


def _matmul(dtype: torch.dtype) -> Callable[[], object]:
    left, right = torch.ones(2, _MATMUL, _MATMUL, dtype=dtype)
    return lambda: left @ right


def _flops(work: Workload) -> float:
    """Two products of two operations for each visible pair and dimension."""
    return 4.0 * visible_pairs(work) * work.size.head_dim


def _bytes_read(work: Workload) -> float:
    """Keys and values that a query head sees, once for every kv head that is shared."""
    _, key, value = work.inputs
    keys_seen = visible_pairs(work) / (work.size.batch * work.size.heads)
    row_bytes = (key.shape[-1] + value.shape[-1]) * key.element_size()
    return keys_seen * row_bytes * key.shape[0] * key.shape[1]
