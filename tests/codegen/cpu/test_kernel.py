"""Forward kernels as text and as objects: deterministic, complete for every target, small."""

from __future__ import annotations

import pytest
import torch

from codegen.cpu.forward_call import Forward
from saccade.block_mask import create_block_mask
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelSpec
from saccade.ir.structure import ModKind
from saccade.masks import causal, document
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.llvm import Target, emit_object
from saccade.scores import softcap
from saccade.tracing import trace

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def rich_spec(isa: str, dtype: torch.dtype = torch.float32) -> KernelSpec:
    """A kernel with every part: three programs, dropout, sinks, odd sizes."""
    tensor = torch.zeros(1, 1, 40, 33, dtype=dtype)
    return Forward(
        tensor,
        tensor,
        tensor,
        isa=isa,
        block_mask=create_block_mask(causal, None, None, 40, 40, device="cpu"),
        mask_mod=trace(document(torch.arange(40) // 7), ModKind.MASK),
        score_mod=trace(softcap(30.0), ModKind.SCORE),
        sinks=torch.zeros(1),
        dropout=(0.1, 3),
    ).spec


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_objects_of_every_instruction_set_import_nothing(isa, dtype):
    target = ISAS[isa]
    source = emit(rich_spec(isa, dtype))
    code = emit_object(source.text, Target(TRIPLES[target.arch], target.cpu, target.features))
    assert undefined_symbols(code) == set()


def test_text_is_a_function_of_the_spec():
    assert emit(rich_spec("avx512_bf16")) == emit(rich_spec("avx512_bf16"))


def test_text_names_no_target():
    source = emit(rich_spec("avx2"))
    assert 'target triple = "unknown-unknown-unknown"' in source.text
    assert "x86" not in source.text


def test_sizes_follow_from_the_spec():
    source = emit(rich_spec("avx512_bf16", torch.bfloat16))
    pairs = -(-33 // 2)
    assert source.entries == ("pack", "attend")
    assert source.panel_keys == 128
    assert source.key_panel_bytes == pairs * 128 * 4
    assert source.value_panel_bytes == 64 * 48 * 4  # pairs of keys, columns up to whole vectors
    assert source.scratch_bytes % 64 == 0
