"""The memory of a forward and backward pass over a very long sequence, in a process of its own."""

from __future__ import annotations

import torch

from saccade.attention import flex_attention
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.fresh_calls import LONG, memory_outcome, memory_target
from saccade.bench.cpu.inputs import normal_inputs
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.fresh_process import Answer, ask
from saccade.bench.memory import peak_memory
from saccade.bench.sizes import AttentionSize
from saccade.bench.timing import timed
from saccade.block_mask import create_block_mask
from saccade.masks import sliding_window

__all__ = ["long_step", "measure_step_memory"]

_HEADS, _HEAD_DIM = 2, 64
_WINDOW = 512
_GIVEN, _RETURNED = 4, 4  # query, key, value, gradient of the output; the output and three gradients


def measure_step_memory(dtype: str, *, backend: str, length: int = LONG) -> Outcome:
    """Measure the memory of one windowed step: what it is given, and what the process grows by at its peak.

    Args:
        dtype: A name in `bench.cpu.cases.DTYPES`.
        backend: The backend of ours.
        length: Tokens.

    Returns:
        An outcome with the facts "call_bytes", "growth_bytes" and "target_bytes".
    """
    size = AttentionSize(1, _HEADS, length, length, _HEAD_DIM)
    tensor_bytes = _HEADS * length * _HEAD_DIM * DTYPES[dtype].itemsize
    return memory_outcome(
        f"memory forward and backward, window {_WINDOW} {dtype} H={_HEADS} S={length:,} D={_HEAD_DIM}",
        size.as_dict(),
        {"dtype": dtype, "pattern": "window"},
        ask(long_step, backend=backend, dtype=dtype, length=length),
        before=_GIVEN * tensor_bytes,
        target=memory_target((_GIVEN + _RETURNED) * tensor_bytes),
    )


def long_step(backend: str, dtype: str, length: int) -> Answer:
    """Measure the growth of this process at the peak of a step, once its kernels are compiled.

    Args:
        backend: The backend of ours.
        dtype: A name in `bench.cpu.cases.DTYPES`.
        length: Tokens.
    """
    given = normal_inputs(AttentionSize(1, _HEADS, length, length, _HEAD_DIM), _HEADS, DTYPES[dtype])
    upstream = torch.ones_like(given[0])

    def step(tokens: int) -> tuple[torch.Tensor, ...]:
        # Leaves over the same memory, so that the short step and the long one begin alike.
        query, key, value = (one[:, :, :tokens].detach().requires_grad_() for one in given)
        mask = create_block_mask(sliding_window(_WINDOW), None, None, tokens, tokens, device="cpu")
        out = flex_attention(query, key, value, block_mask=mask, backend=backend)
        return out, *torch.autograd.grad(out, (query, key, value), upstream[:, :, :tokens])

    step(min(length, 2 * _WINDOW))
    (_, growth), seconds = timed(lambda: peak_memory(lambda: step(length)))
    return {"growth_bytes": growth, "seconds": seconds}
