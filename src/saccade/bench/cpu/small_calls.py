"""Calls whose cost is not their size: a tiny one, and what a mod adds to each visible pair.

Owns the two measurements in which this engine is compared with itself or with the least that a call can cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from saccade.attention import flex_attention
from saccade.bench.agreement import OutputCheck
from saccade.bench.contenders import engine
from saccade.bench.cpu.cases import Case, Phase
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.cpu.peers import OURS, SDPA
from saccade.bench.cpu.timed_case import make_workload
from saccade.block_mask import create_block_mask
from saccade.masks import causal

__all__ = ["BASE", "time_beside_base", "time_overheads", "time_tiny_calls"]

BASE = "causal"
"""The pattern that others are compared with, pair by pair."""

_MODS = ("alibi", "softcap", "documents")
_TINY = (1, 2, 16, 16)  # B, H, S, D


def time_overheads(
    dtype: str, *, backend: str, rounds: int, length: int = 2048, head_dim: int = 64
) -> Outcome:
    """Time causal attention with and without more mods, in turns.

    Args:
        dtype: A name in `DTYPES`.
        backend: The backend of ours.
        rounds: Samples of each pattern.
        length: Tokens.
        head_dim: D.

    Returns:
        An outcome whose contenders are patterns; the fact "per_pair_overhead" is the further time of a
        visible pair, as a fraction of that of plain causal attention.

    Raises:
        CheckError: A result is wrong.

    Example:
        >>> outcome = time_overheads("float32", backend="eager", rounds=1, length=64, head_dim=8)
        >>> list(outcome.timings), outcome.facts["causal"]["per_pair_overhead"]
        (['causal', 'alibi', 'softcap', 'documents'], 0.0)
    """
    first = Case(Phase.FORWARD, BASE, dtype, length, head_dim)
    calls: dict[str, Callable[[], object]] = {}
    refusals: dict[str, str] = {}
    pairs: dict[str, int] = {}
    for name in (BASE, *_MODS):
        work = make_workload(replace(first, pattern=name))
        contender = engine(work, backend)
        if contender.attend is None:
            refusals[name] = contender.refusal
            continue
        OutputCheck(work)(f"{OURS}, {name}", contender.attend(*work.inputs))
        calls[name] = partial(contender.attend, *work.inputs)
        pairs[name] = work.visible_pairs
    name, labels = f"overhead {dtype} S={length} D={head_dim}", {"dtype": dtype, "phase": "forward"}
    return time_beside_base(name, first.shape, labels, calls, pairs, refusals, rounds=rounds)


def time_beside_base(
    name: str,
    shape: Mapping[str, int],
    labels: Mapping[str, str],
    calls: Mapping[str, Callable[[], object]],
    pairs: Mapping[str, int],
    refusals: Mapping[str, str],
    *,
    rounds: int,
) -> Outcome:
    """Time patterns in turns, and what a visible pair of each costs beside one of `BASE`.

    Args:
        name: The case.
        shape: Its sizes by name.
        labels: The rest of what sorts it.
        calls: Pattern to call.
        pairs: Pattern to visible pairs.
        refusals: Patterns that do not run, and why.
        rounds: Samples of each.
    """
    timings = time_apart(calls, rounds=rounds)
    a_pair = {name: timing.median_s / pairs[name] for name, timing in timings.items()}
    facts = {
        name: {"per_pair_overhead": cost / a_pair[BASE] - 1.0 if BASE in a_pair else None}
        for name, cost in a_pair.items()
    }
    return Outcome(name, "overhead", shape, labels, timings, refusals, facts=facts)


def time_tiny_calls(*, backend: str, rounds: int) -> Outcome:
    """Time a warm call on 2 heads of 16 tokens with a prebuilt causal mask, beside SDPA's own.

    Args:
        backend: The backend of ours.
        rounds: Samples, each of some hundred calls.
    """
    query, key, value = torch.randn(
        3, *_TINY, generator=torch.Generator().manual_seed(0), device="cpu"
    ).unbind()
    batch, heads, length, head_dim = _TINY
    mask = create_block_mask(causal, None, None, length, length, device="cpu")
    timings = time_apart(
        {
            OURS: lambda: flex_attention(query, key, value, block_mask=mask, backend=backend),
            SDPA: lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True),
        },
        rounds=rounds,
    )
    return Outcome(
        f"tiny causal float32 B={batch} H={heads} S={length} D={head_dim}",
        "tiny",
        {"batch": batch, "heads": heads, "q_len": length, "kv_len": length, "head_dim": head_dim},
        {"dtype": "float32", "pattern": "causal"},
        timings,
    )
