"""What is compared with itself or with the least a call can cost: dropout, and tiny calls with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from saccade.bench.agreement import GradientCheck
from saccade.bench.contenders import Contender, Workload
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.cpu.small_calls import BASE, time_beside_base
from saccade.bench.sizes import AttentionSize
from saccade.bench.train.cases import Phase, TrainCase
from saccade.bench.train.patterns import train_pattern
from saccade.bench.train.peers import OURS, SDPA, engine_with_gradients
from saccade.bench.train.timed_case import (
    FORWARD_PASS,
    PASSES,
    checked_participants,
    gradient_call,
    make_workload,
)

__all__ = ["time_dropout", "time_tiny_steps"]

_TINY = AttentionSize(1, 2, 16, 16, 16)


def time_dropout(
    dtype: str, *, backend: str, rounds: int, length: int = 2048, head_dim: int = 64
) -> list[Outcome]:
    """Time our causal attention with and without dropout, in turns.

    Args:
        dtype: A name in `bench.cpu.cases.DTYPES`.
        backend: The backend of ours.
        rounds: Samples of each.
        length: Tokens.
        head_dim: D.

    Returns:
        An outcome each for forward without gradients, backward, and both; their contenders are "causal" and
        "dropout", and the fact "per_pair_overhead" is the further time as a fraction of that of "causal".

    Raises:
        CheckError: A result is wrong.

    Example:
        >>> found = time_dropout("float32", backend="eager", rounds=1, length=64, head_dim=8)
        >>> [outcome.labels["phase"] for outcome in found], list(found[0].timings)
        (['forward', 'backward', 'forward and backward'], ['causal', 'dropout'])
    """
    running: dict[str, tuple[Contender, Workload]] = {}
    refusals = {}
    size = TrainCase(BASE, dtype, length, head_dim).size
    for name in (BASE, "dropout"):
        pattern = train_pattern(name, length, size.heads)
        work = make_workload(pattern, size, DTYPES[dtype])
        ours = engine_with_gradients(work, backend)
        if ours.attend is None:
            refusals[name] = ours.refusal
            continue
        GradientCheck(work)(replace(ours, name=f"{OURS}, {name}"))
        running[name] = (ours, work)
    return [
        time_beside_base(
            f"overhead of dropout, {timed.heading} {dtype} S={length} D={head_dim}",
            size.as_dict(),
            {"dtype": dtype, "phase": timed.heading},
            {name: timed.call(*given) for name, given in running.items()},
            {name: work.visible_pairs for name, (_, work) in running.items()},
            refusals,
            rounds=rounds,
        )
        for timed in (FORWARD_PASS, *PASSES.values())
    ]


def time_tiny_steps(*, backend: str, rounds: int) -> list[Outcome]:
    """Time a warm call with gradients on 2 heads of 16 tokens with a prebuilt causal mask, beside SDPA's own.

    Args:
        backend: The backend of ours.
        rounds: Samples, each of some hundred calls.

    Returns:
        An outcome each for the forward pass that records the graph, and the backward pass alone.

    Raises:
        CheckError: A result is wrong.
    """
    pattern = train_pattern("causal", _TINY.q_len, _TINY.heads)
    work = make_workload(pattern, _TINY, torch.float32)
    entered = [
        one for one in checked_participants(pattern, work, backend=backend) if one.name in (OURS, SDPA)
    ]
    makers: dict[str, Callable[[Contender, Workload], Callable[[], object]]] = {
        "forward that records": _recording,
        "backward": partial(gradient_call, Phase.BACKWARD),
    }
    return [
        Outcome(
            f"tiny {phase}, causal float32 {_TINY}",
            "tiny",
            _TINY.as_dict(),
            {"dtype": "float32", "pattern": "causal", "phase": phase},
            time_apart(
                {one.name: make(one, work) for one in entered if one.attend is not None}, rounds=rounds
            ),
            {one.name: one.refusal for one in entered if one.refusal},
        )
        for phase, make in makers.items()
    ]


def _recording(contender: Contender, work: Workload) -> Callable[[], object]:
    """The forward pass that records what the backward pass needs."""
    assert contender.attend is not None, "contenders that cannot run are not timed"
    return partial(contender.attend, *work.inputs_with_gradients())
