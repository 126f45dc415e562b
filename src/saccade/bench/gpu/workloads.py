"""What a case computes, on its device, and the least that it must cost.

Owns the inputs, the shape of a decoding step, and the arithmetic: operations of the visible pairs alone, and
each input read once, each output written once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saccade.bench.compare import BACKWARD, FORWARD
from saccade.bench.contenders import Inputs, Workload, make_block_mask
from saccade.bench.cpu.patterns import CpuPattern
from saccade.bench.gpu.cases import GpuCase, Phase
from saccade.bench.gpu.ceilings import Cost
from saccade.bench.sizes import AttentionSize
from saccade.bench.text_patterns import TextPattern, text_pattern

__all__ = ["cost_of", "make_pattern", "make_workload"]

_FLOPS: Mapping[Phase, int] = {Phase.FORWARD: FORWARD, Phase.DECODE: FORWARD, Phase.BACKWARD: BACKWARD}
_LSE_BYTES = 4


def make_pattern(case: GpuCase, device: torch.device) -> TextPattern:
    """Return the mods of a case, their tensors new and on the device.

    Example:
        >>> made = make_pattern(GpuCase("causal", 64, 16, 1, 4, 2, is_decode=True), torch.device("cpu"))
        >>> made.mask_mod, made.q_len, made.kv_len
        (shift(causal, q=63), 1, 64)
    """
    pattern = text_pattern(case.pattern, case.size, device)
    if not case.is_decode:
        return pattern
    step = CpuPattern(pattern.mask_mod, pattern.score_mod, pattern.kv_len).last_row()
    return TextPattern(step.score_mod, step.mask_mod, 1, pattern.kv_len, pattern.batch)


def make_workload(case: GpuCase, device: torch.device, dtype: torch.dtype) -> Workload:
    """Return a case's mods, blocks and inputs, the same in every run.

    Args:
        case: What is measured.
        device: Where everything lies.
        dtype: Type of the inputs.
    """
    pattern = make_pattern(case, device)
    size = pattern.size_within(case.size)
    inputs = _normal_inputs(size, case.kv_heads, device, dtype)
    mask = make_block_mask(pattern.mask_mod, size, device)
    return Workload(pattern.score_mod, pattern.mask_mod, mask, size, inputs)


def cost_of(work: Workload, phase: Phase) -> Cost:
    """Return operations and bytes of one call.

    A decoding step reads the keys and values that a query sees; a longer call all of them, since some query
    sees each.

    Example:
        >>> tiny = GpuCase("noop", 64, 16, 1, 4, 2, is_decode=True)
        >>> work = make_workload(tiny, torch.device("cpu"), torch.float32)
        >>> cost_of(work, Phase.DECODE)
        Cost(flops=16384.0, bytes=16896.0)
    """
    query, key, value = work.inputs
    size = work.size
    flops = float(_FLOPS[phase] * work.visible_pairs * size.head_dim)
    out_bytes = query.nbytes
    rows = size.batch * size.heads * size.q_len
    given = key.nbytes + value.nbytes
    if phase is Phase.DECODE:
        seen = work.visible_pairs / (rows * size.kv_len)
        return Cost(flops, seen * given + query.nbytes + out_bytes)
    if phase is Phase.FORWARD:
        return Cost(flops, float(query.nbytes + given + out_bytes))
    # Read: inputs, output, its gradient and lse. Written: the gradients of the inputs.
    return Cost(flops, float(2 * (query.nbytes + given) + 2 * out_bytes + _LSE_BYTES * rows))


def _normal_inputs(size: AttentionSize, kv_heads: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Seeded normal numbers, drawn where they are used."""
    generator = torch.Generator(device).manual_seed(size.q_len + size.kv_len)

    def make(heads: int, length: int) -> Tensor:
        shape = (size.batch, heads, length, size.head_dim)
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return make(size.heads, size.q_len), make(kv_heads, size.kv_len), make(kv_heads, size.kv_len)
