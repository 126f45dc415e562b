"""Packed keys and values, element by element."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codegen.cpu.forward_call import Forward, compiled, host_isas, run_forward
from saccade.codegen.cpu.tiling import ForwardTiling


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_panels_of_elements(dtype, isa):
    call, tiling, keys, values = packed(isa, dtype, kv_len=150, dim=21, value_dim=70)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    columns, width = tiling.sub_keys, tiling.register.vectors * tiling.lanes
    keys, values = keys.view(precise), values.view(precise)
    for k in (0, 1, 77, 127, 128, 149, 150):
        at, exact = k // 128 * 128 * 21 + k % 128 // columns * columns * 21, torch.zeros(91, dtype=precise)
        if k < 150:
            exact = torch.cat([call.key[0, 0, k], call.value[0, 0, k]]).to(precise)
        assert torch.equal(keys[at + k % columns :: columns][:21], exact[:21])
        for column in (0, 5, width - 1, 69):
            first = column // width * width
            own = min(width, tiling.value_vectors * tiling.lanes - first)
            at = k // 128 * (tiling.value_panel // tiling.word) + 128 * first + k % 128 * own
            assert values[at + column - first] == exact[21 + column]


@pytest.mark.skipif("avx512_bf16" not in host_isas(), reason="this processor has no AVX512-BF16")
def test_panels_of_pairs():
    call, _, keys, values = packed("avx512_bf16", torch.bfloat16, kv_len=131, dim=5, value_dim=7)
    keys = keys.view(torch.bfloat16).view(2, 2, 3, 64, 2)  # panel, sub-panel, step, key, half
    values = values.view(torch.bfloat16).view(2, 64, 16, 2)  # panel, step, column, half
    padded = torch.zeros(192, 6).bfloat16()
    padded[:131, :5] = call.key[0, 0]
    for sub in range(3):
        exact = padded[64 * sub : 64 * sub + 64].view(64, 3, 2).transpose(0, 1)
        assert torch.equal(keys[sub // 2, sub % 2], exact)
    padded = torch.zeros(192, 16).bfloat16()
    padded[:131, :7] = call.value[0, 0]
    exact = padded.view(96, 2, 16).transpose(1, 2)
    assert torch.equal(values[0], exact[:64])
    assert torch.equal(values[1, :32], exact[64:])


def packed(
    isa: str, dtype: torch.dtype, kv_len: int, dim: int, value_dim: int
) -> tuple[Forward, ForwardTiling, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 1, *sizes, generator=generator).to(dtype)
        for sizes in ((3, dim), (kv_len, dim), (kv_len, value_dim))
    )
    call = Forward(query, key, value, isa=isa)
    memory, source = run_forward(call).memory, compiled(call.spec)[0]
    panels = -(-kv_len // source.panel_keys)
    keys = memory["packed_keys"][: panels * source.key_panel_bytes]
    values = memory["packed_values"][: panels * source.value_panel_bytes]
    return call, ForwardTiling(call.spec), keys, values
