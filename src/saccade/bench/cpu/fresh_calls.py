"""What only a new process can tell: the first call of a pattern, and the memory of a very long one.

Owns what the process does and what is made of its answer; `bench.fresh_process` starts it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from saccade.attention import flex_attention
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.peers import FLEX, OURS
from saccade.bench.fresh_process import Answer, ask
from saccade.bench.memory import peak_memory
from saccade.bench.timing import Timing, timed
from saccade.block_mask import create_block_mask
from saccade.masks import causal, sliding_window
from saccade.scores import alibi, softcap
from saccade.signatures import ScoreMod

__all__ = ["LONG", "measure_memory", "memory_outcome", "memory_target", "time_first_calls"]

LONG = 131_072
"""Tokens of the call whose memory is measured."""

_SIZE = (1, 8, 512, 64)  # B, H, S, D of a first call: what it computes is little beside what it compiles
_HEADS, _HEAD_DIM = 2, 64  # of the long call
_FIXED_BYTES = 64 << 20


def time_first_calls(*, backend: str, compiled: bool, rounds: int) -> list[Outcome]:
    """Time the first call of a process, and the first one of another pattern, block mask included.

    Args:
        backend: The backend of ours.
        compiled: Whether torch's compiled `flex_attention` takes part; one process of it must do.
        rounds: Processes of ours.

    Returns:
        An outcome each.
    """
    answers = {OURS: [ask(first_calls, backend=backend) for _ in range(rounds)]}
    if compiled:
        # Torch keeps what it has compiled on the disk; an empty directory makes it compile.
        with tempfile.TemporaryDirectory() as empty:
            answers[FLEX] = [ask(first_calls, {"TORCHINDUCTOR_CACHE_DIR": empty}, backend="flex_attention")]
    batch, heads, length, head_dim = _SIZE
    shape = {"batch": batch, "heads": heads, "q_len": length, "kv_len": length, "head_dim": head_dim}
    return [
        Outcome(
            name,
            "first call",
            shape,
            {"dtype": "float32"},
            {
                who: _as_timing(float(answer[key] or 0.0) for answer in given)
                for who, given in answers.items()
                if key in given[0]
            },
            {who: str(given[0]["refusal"]) for who, given in answers.items() if "refusal" in given[0]},
        )
        for name, key in (("first call of a process", "first_s"), ("first call of another pattern", "next_s"))
    ]


def measure_memory(dtype: str, *, backend: str, length: int = LONG) -> Outcome:
    """Measure the memory of one causal call: its inputs, and what the process grows by at its peak.

    Args:
        dtype: A name in `DTYPES`.
        backend: The backend of ours.
        length: Tokens.

    Returns:
        An outcome with the facts "call_bytes", "growth_bytes" and "target_bytes".
    """
    shape = {"batch": 1, "heads": _HEADS, "q_len": length, "kv_len": length, "head_dim": _HEAD_DIM}
    answer = ask(memory, backend=backend, dtype=dtype, length=length)
    name = f"memory causal {dtype} H={_HEADS} S={length:,} D={_HEAD_DIM}"
    tensor_bytes = _HEADS * length * _HEAD_DIM * DTYPES[dtype].itemsize
    labels = {"dtype": dtype, "pattern": "causal"}
    return memory_outcome(
        name, shape, labels, answer, before=3 * tensor_bytes, target=memory_target(4 * tensor_bytes)
    )


def memory_outcome(
    name: str,
    shape: Mapping[str, int],
    labels: Mapping[str, str],
    answer: Answer,
    *,
    before: int,
    target: int,
) -> Outcome:
    """Return what a fresh process said of its memory as an outcome.

    Args:
        name: The call.
        shape: Its sizes by name.
        labels: The rest of what sorts it.
        answer: The entries "growth_bytes" and "seconds", or "refusal".
        before: Bytes of the tensors that were there before the growth.
        target: What the call may take, these included.
    """
    if "refusal" in answer:
        return Outcome(name, "memory", shape, labels, {}, {OURS: str(answer["refusal"])})
    growth = answer["growth_bytes"]
    facts: dict[str, float | int | None] = {
        "growth_bytes": None if growth is None else int(growth),
        "call_bytes": None if growth is None else before + int(growth),
        "target_bytes": target,
    }
    timing = _as_timing([float(answer["seconds"] or 0.0)])
    return Outcome(name, "memory", shape, labels, {OURS: timing}, facts={OURS: facts})


def memory_target(tensor_bytes: int) -> int:
    """Return the bytes that a call may take, inputs included.

    Args:
        tensor_bytes: Bytes of all that is given and returned: query, key, value and output, and their
            gradients where there are any.

    Example:
        >>> memory_target(1_000_000_000)
        3067108864
    """
    return 3 * tensor_bytes + _FIXED_BYTES


def _as_timing(seconds: Iterable[float]) -> Timing:
    samples = tuple(seconds)
    return Timing(samples[0], samples)


def first_calls(backend: str) -> Answer:
    """Time two patterns that this process has not seen."""
    query, key, value = _tensors(_SIZE, torch.float32)
    length, heads = query.shape[2], query.shape[1]

    def call(score_mod: ScoreMod, window: int) -> Tensor:
        mask = create_block_mask(sliding_window(window), None, None, length, length, device="cpu")
        return flex_attention(query, key, value, score_mod, mask, backend=backend)

    _, first = timed(lambda: call(softcap(20.0), 100))
    _, following = timed(lambda: call(alibi(n_heads=heads), 200))
    return {"first_s": first, "next_s": following}


def memory(backend: str, dtype: str, length: int) -> Answer:
    """Measure the growth of this process at the peak of a call, once the pattern is compiled."""
    query, key, value = _tensors((1, _HEADS, length, _HEAD_DIM), DTYPES[dtype])

    def call(tokens: int) -> Tensor:
        mask = create_block_mask(causal, None, None, tokens, tokens, device="cpu")
        return flex_attention(
            query[:, :, :tokens], key[:, :, :tokens], value[:, :, :tokens], block_mask=mask, backend=backend
        )

    call(min(length, 256))
    (_, growth), seconds = timed(lambda: peak_memory(lambda: call(length)))
    return {"growth_bytes": growth, "seconds": seconds}


def _tensors(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    return query, key, value
