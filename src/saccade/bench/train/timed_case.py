"""Gradients of one case by everyone in it: checked against float64, then timed in turns.

Owns what a timed call is. Backward alone runs again and again on one graph; forward and backward makes its
graph anew. Gradients are returned, never added up in the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from saccade.bench.agreement import GradientCheck
from saccade.bench.compare import FORWARD
from saccade.bench.contenders import Contender, Workload, make_block_mask, tried
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.inputs import normal_inputs
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.sizes import AttentionSize
from saccade.bench.timing import Timing
from saccade.bench.train.cases import Phase, TrainCase
from saccade.bench.train.patterns import TrainPattern, train_pattern
from saccade.bench.train.peers import OURS, participants

__all__ = [
    "FORWARD_PASS",
    "PASSES",
    "Pass",
    "checked_participants",
    "gradient_call",
    "make_workload",
    "time_case",
    "time_pass",
]

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
    pause = partial(
        time_apart,
        rounds=rounds,
        is_large=case.size.scores > _LARGE,
        product=DTYPES[case.dtype] if case.after_matmul else None,
    )
    return [time_pass(PASSES[phase], str(case), case.labels, work, entered, pause) for phase in phases]


def time_pass(
    timed: Pass,
    case: str,
    labels: Mapping[str, str],
    work: Workload,
    entered: Sequence[Contender],
    time_calls: Callable[[Mapping[str, Callable[[], object]]], Mapping[str, Timing]],
) -> Outcome:
    """Time one pass of contenders that were checked.

    Args:
        timed: Which pass.
        case: The name of the case.
        labels: What sorts it beside its size and the pass.
        work: What is computed.
        entered: Who takes part; those that do not run say why.
        time_calls: From name and call to the times.
    """
    return Outcome(
        f"{timed.heading} {case}",
        timed.heading,
        work.size.as_dict(),
        {"phase": timed.name, **labels},
        time_calls({one.name: timed.call(one, work) for one in entered if one.attend is not None}),
        {one.name: one.refusal for one in entered if one.refusal},
        Limit.MULTIPLY_ADD,
        float(timed.flops * work.visible_pairs * work.size.head_dim),
    )


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


def forward_call(contender: Contender, work: Workload) -> Callable[[], object]:
    """Return the forward pass of inputs without gradients.

    Args:
        contender: Whose; one that runs.
        work: What is computed.
    """
    assert contender.attend is not None, "contenders that cannot run are not timed"
    return partial(contender.attend, *work.inputs)


@final
@dataclass(frozen=True)
class Pass:
    """What is timed of a case.

    Attributes:
        name: What reports call it.
        heading: What tables call it.
        flops: Operations a visible pair and head dimension.
        call: Makes the call of a contender.
    """

    name: str
    heading: str
    flops: int
    call: Callable[[Contender, Workload], Callable[[], object]]


FORWARD_PASS = Pass("forward", "forward", FORWARD, forward_call)
"""The forward pass of inputs without gradients."""

PASSES: Mapping[Phase, Pass] = {
    phase: Pass(phase.value, phase.heading, phase.flops, partial(gradient_call, phase)) for phase in Phase
}
"""The passes with gradients."""
