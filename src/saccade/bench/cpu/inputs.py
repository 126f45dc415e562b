"""What attention is called with in these measurements: seeded normal numbers, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.bench.contenders import Inputs
from saccade.bench.sizes import AttentionSize

__all__ = ["normal_inputs"]


def normal_inputs(size: AttentionSize, kv_heads: int, dtype: torch.dtype, *, seed: int = 0) -> Inputs:
    """Return query `[B, Hq, Q, D]`, key and value `[B, Hkv, K, D]`.

    Args:
        size: Their sizes.
        kv_heads: Hkv.
        dtype: Their type.
        seed: Other numbers for each.
    """
    generator = torch.Generator().manual_seed(seed)

    def make(heads: int, length: int) -> Tensor:
        numbers = torch.randn(size.batch, heads, length, size.head_dim, generator=generator, device="cpu")
        return numbers.to(dtype)

    return make(size.heads, size.q_len), make(kv_heads, size.kv_len), make(kv_heads, size.kv_len)
