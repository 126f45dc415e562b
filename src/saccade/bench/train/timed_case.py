"""Gradients of one case by everyone in it: checked against float64, then timed in turns.

Owns what a timed call is. Backward alone runs again and again on one graph; forward and backward makes its
graph anew. Gradients are returned, never added up in the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from saccade.bench.agreement import GradientCheck
from saccade.bench.contenders import Contender, Workload, make_block_mask, tried
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.inputs import normal_inputs
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.sizes import AttentionSize
from saccade.bench.train.cases import Phase, TrainCase
from saccade.bench.train.patterns import TrainPattern, train_pattern
from saccade.bench.train.peers import OURS, participants

__all__ = ["checked_participants", "gradient_call", "make_workload", "time_case"]

_LARGE = 2**28  # scores


def time_case(case: TrainCase, *, backend: str, phases: Iterable[Phase], rounds: int) -> list[Outcome]:
    """Check everyone in a case, then time them.

    Args:
        case: What to measure.
        backend: The backend of ours.
        phases: What to time.
        rounds: Samples of each contender, fewer where the calls are long.

    Returns:
        An outcome a phase: times, and why who is missing did not run.

    Raises:
        CheckError: A contender computes something else.

    Example:
        >>> tiny = TrainCase("causal", "float32", 64, 16)
        >>> (outcome,) = time_case(tiny, backend="eager", phases=[Phase.BACKWARD], rounds=1)
        >>> list(outcome.timings), outcome.work == 10 * 8 * (64 * 65 // 2) * 16
        (['saccade', 'SDPA', 'SDPA + mask'], True)
    """
    pattern = train_pattern(case.pattern, case.length, case.size.heads)
    work = make_workload(pattern, case.size, DTYPES[case.dtype])
    entered = checked_participants(pattern, work, backend=backend)
    outcomes = []
    for phase in phases:
        timings = time_apart(
            {one.name: gradient_call(phase, one, work) for one in entered if one.attend is not None},
            rounds=rounds,
            is_large=case.size.scores > _LARGE,
            product=DTYPES[case.dtype] if case.after_matmul else None,
        )
        outcomes.append(
            Outcome(
                f"{phase.heading} {case}",
                phase.heading,
                case.size.as_dict(),
                {"phase": phase.value, **case.labels},
                timings,
                {one.name: one.refusal for one in entered if one.refusal},
                Limit.MULTIPLY_ADD,
                float(phase.flops * work.visible_pairs * work.size.head_dim),
            )
        )
    return outcomes


def make_workload(pattern: TrainPattern, size: AttentionSize, dtype: torch.dtype) -> Workload:
    """Return a pattern with its blocks and inputs, the same in every run.

    Args:
        pattern: What is attended to.
        size: Sizes of the call.
        dtype: Type of the inputs.
    """
    inputs = normal_inputs(size, size.heads, dtype)
    mask = make_block_mask(pattern.mask_mod, size, inputs[0].device)
    learned = pattern.learned
    score_mod = None if learned is None else learned.score_of(learned.numbers)
    return Workload(score_mod, pattern.mask_mod, mask, size, inputs, learned, pattern.dropout_p)


def checked_participants(pattern: TrainPattern, work: Workload, *, backend: str) -> list[Contender]:
    """Return who takes part, output and gradients checked; a peer that fails becomes one that does not run.

    A peer that drops other weights than the library's stream is checked by its same call without dropout.

    Args:
        pattern: What is attended to.
        work: The same with its blocks and inputs.
        backend: The backend of ours.

    Raises:
        CheckError: A contender computes something else.
    """
    entered = participants(pattern, work, backend=backend)
    check = GradientCheck(work)
    if all(one.is_same for one in entered):
        return [tried(one, one.name != OURS, partial(check, one)) for one in entered]
    without = replace(work, dropout_p=0.0)
    kept = participants(pattern, without, backend=backend)
    kept_check = GradientCheck(without)
    return [
        tried(one, one.name != OURS, partial(check, one) if one.is_same else partial(kept_check, twin))
        for one, twin in zip(entered, kept, strict=True)
    ]


def gradient_call(phase: Phase, contender: Contender, work: Workload) -> Callable[[], object]:
    """Return what is timed: a call that returns the gradients of the inputs, and of what is learned.

    Args:
        phase: Backward alone, on a graph made here, or forward and backward.
        contender: Whose; one that runs.
        work: What is computed.
    """
    attend, inputs = contender.attend, work.inputs_with_gradients()
    assert attend is not None, "contenders that cannot run are not timed"
    wanted = work.with_learned(inputs)
    graph = attend(*inputs)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(graph.shape, generator=generator, device="cpu").to(graph.dtype)
    if phase is Phase.BACKWARD:
        return lambda: torch.autograd.grad(graph, wanted, upstream, retain_graph=True)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(*inputs), wanted, upstream)

    return step
