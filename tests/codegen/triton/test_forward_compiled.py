"""Forward kernels compiled for cards that need not be there: matrix units, copies, registers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codegen.triton.forward_call import Forward
from codegen.triton.test_forward import blocks, score
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.spec import KernelKind, Tile, TritonSpec
from saccade.codegen.triton.tiles import default_tile
from saccade.masks import causal


def spec_of(target: str, dim: int, dtype: torch.dtype = torch.bfloat16, **asked: object) -> TritonSpec:
    query = torch.empty(1, 4, 64, dim, dtype=dtype)
    key = torch.empty(1, 2, 64, dim, dtype=dtype)
    call = Forward(query, key, key, block_mask=blocks(causal, query, key), aligned=True, **asked)  # type: ignore[arg-type]
    kernel_key = replace(call.kernel_key, target=target)
    return replace(call.spec, key=kernel_key, tile=default_tile(KernelKind.FORWARD, kernel_key))


@pytest.mark.parametrize("dim", [64, 128])
def test_hopper(compiled, dim):
    found = compiled.compile(write(spec_of("cuda:90", dim, descriptors=True)), "cuda:90")
    assert "wgmma.mma_async" in found.ptx
    assert "cp.async.bulk.tensor.4d" in found.ptx
    assert found.spilled == 0
    assert found.shared <= 227 << 10


def test_queries_stay_in_shared_memory_where_the_scale_is_positive(compiled):
    """A negative scale turns queries in registers, from where every turn would have to load them again."""
    spec = spec_of("cuda:90", 64, descriptors=True)
    found, signed = (
        compiled.compile(write(replace(spec, positive_scale=known)), "cuda:90") for known in (True, False)
    )
    assert found.ptx.count("ldmatrix") < signed.ptx.count("ldmatrix")


def test_ampere(compiled):
    found = compiled.compile(write(spec_of("cuda:80", 64)), "cuda:80")
    assert "mma.sync" in found.ptx
    assert "cp.async.cg.shared.global [" in found.ptx
    assert "0x10" in found.ptx or ", 16" in found.ptx  # bytes of a copy
    assert found.shared <= 163 << 10


def test_random_words_are_shared_within_threads(compiled):
    """As many products of Philox as bits need, or nearly; spreading them moves nothing between threads."""
    spec = replace(spec_of("cuda:90", 64, dropout=(0.5, 1)), tile=Tile(64, 64, 4, 2))
    together, each = (
        compiled.compile(write(replace(spec, aligned_dropout=aligned)), "cuda:90")
        for aligned in (True, False)
    )
    assert 3 * together.ptx.count("mul.hi.u32") < each.ptx.count("mul.hi.u32")
    assert together.ptx.count("st.shared") == each.ptx.count("st.shared")


def test_a_score_mod_packed_heads_and_padding(compiled):
    mod = score(lambda s, b, h, q, k: torch.tanh(s / 20) * 20 + (q - k) * (h + 1))
    for splits in (0, 3):
        spec = spec_of("cuda:90", 72, score_mod=mod, packed=True, splits=splits)
        assert compiled.compile(write(spec), "cuda:90").registers <= 255
    combine = write(replace(spec, kind=KernelKind.COMBINE, tile=Tile(16, 16, 4, 1)))
    assert compiled.compile(combine, "cuda:90").spilled == 0
