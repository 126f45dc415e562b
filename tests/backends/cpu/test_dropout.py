"""Which pairs dropout keeps, read off values that are unit vectors: bit for bit those of the stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade import flex_attention
from saccade.ir.dropout import keep_mask
from saccade.masks import causal
from saccade.runtime.host import this_host


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("q_len", [150, 3], ids=["forward", "decode"])
@pytest.mark.parametrize("isa", this_host().isas)
def test_the_kept_pairs_are_those_of_the_stream(
    isa: str, q_len: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_CPU_ISA", isa)
    batch, heads, kv_len, p = 2, 4, 141, 0.3
    query, key = torch.randn(batch, heads, q_len, 8), torch.randn(batch, heads // 2, kv_len, 8)
    units = torch.eye(kv_len).expand(batch, heads // 2, kv_len, kv_len)
    torch.manual_seed(9)
    seed = int(torch.randint(2**63 - 1, ()))
    torch.manual_seed(9)
    out = flex_attention(
        query.to(dtype),
        key.to(dtype),
        units.to(dtype),
        mask_mod=causal,
        enable_gqa=True,
        dropout_p=p,
        backend="cpu",
    )
    rows, keys = np.arange(q_len)[:, None], np.arange(kv_len)
    kept = keep_mask(seed, p, np.arange(batch * heads)[:, None, None], rows, keys) & (keys <= rows)
    np.testing.assert_array_equal((out != 0).view(-1, q_len, kv_len).numpy(), kept)
