"""Backward kernels compiled for GPUs that need not be there: matrix units, registers, shared memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codegen.triton.backward_call import Backward
from saccade.block_mask import create_block_mask
from saccade.codegen.triton.backward_tiles import backward_tile
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.spec import KernelKind
from saccade.ir.dtype import DType
from saccade.masks import causal
from saccade.problem import Wanted
from saccade.runtime.triton import Target

GRADIENTS = (KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT)


def call_of(dim: int, **others: object) -> Backward:
    query, key = (
        torch.zeros(2, 4, 256, dim, dtype=torch.bfloat16),
        torch.zeros(2, 2, 256, dim, dtype=torch.bfloat16),
    )
    mask = create_block_mask(causal, None, None, 256, 256, device="cpu")
    return Backward(query, key, key, block_mask=mask, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("dim", [64, 128])
def test_hopper_multiplies_on_its_matrix_units_and_spills_nothing(compiled, kind, dim):
    spec = call_of(dim).spec(kind)
    spec = replace(spec, tile=backward_tile(kind, spec.key))
    figures = compiled.compile(write(spec))
    assert "wgmma.mma_async" in figures.ptx
    assert "mma.sync" not in figures.ptx
    assert figures.spilled == 0
    assert figures.shared <= Target.parse("cuda:90").shared_limit


def every_way() -> Backward:
    """A score mod whose tensors receive gradients in every way, with dropout and a mask beside."""
    scale, rows, columns = torch.zeros(()), torch.zeros(256), torch.zeros(4, 256)
    pairs, distances = torch.zeros(2, 4, 256, 256), torch.zeros(511)
    left, right, both = torch.zeros(256, 5), torch.zeros(256, 5), torch.zeros(4, 5)

    def score_mod(score, b, h, q, k):
        inner = (left[q] * right[k]).sum(-1) + both[h].sum(-1)
        near = pairs[b, h, q, k] + distances[q - k + 255]
        return torch.tanh(score * scale) * rows[q] + columns[h, k] + near + inner

    learned = (scale, rows, columns, pairs, distances, left, right, both)
    return call_of(
        64, score_mod=score_mod, learned=learned, dropout=(0.1, 0), mask_mod=lambda b, h, q, k: k > 3
    )


@pytest.mark.parametrize("kind", GRADIENTS)
def test_all_ways_at_once_compile(compiled, kind):
    call = every_way()
    assert len(set(call.ways)) == 8
    source = write(call.spec(kind))
    # Each contribution in one of the two kernels.
    ways = [way for way in call.ways if way.is_of_keys == (kind is KernelKind.KEY_GRADIENT)]
    assert [each.way for each in source.sums] == ways
    assert compiled.compile(source).registers


@pytest.mark.parametrize("kind", GRADIENTS)
def test_notes_of_poison_compile(compiled, kind):
    """Of the masks, the score and its derivative; without checks there are none."""
    short, bias = torch.ones(200), torch.zeros(4, 200)

    def score_mod(score, b, h, q, k):
        return torch.tanh(score * short[k]) + bias[h, k]

    call = call_of(64, score_mod=score_mod, learned=(bias,), mask_mod=lambda b, h, q, k: short[q] > 0)
    source = write(replace(call.spec(kind), checks=True))
    noting = [line for line in source.text.splitlines() if line.lstrip().startswith("note_poison(poison")]
    assert len(noting) == 2 * 3  # in turns that hide nothing, and in those that may
    place = "start_m, first" if kind is KernelKind.KEY_GRADIENT else "first, start_n"
    assert all(line.endswith(f"b, h, {place})") for line in noting)
    assert "poison" in [each.name for each in source.parameters]
    assert "poison" not in write(call.spec(kind)).text
    assert compiled.compile(source).registers


def test_atomic_additions_stand_only_where_a_way_says_so():
    for kind in GRADIENTS:
        plain = call_of(64)
        assert "atomic" not in write(plain.spec(kind)).text
        call = every_way()
        spec = call.spec(kind)
        assert "atomic_add" in write(spec).text
        kept = replace(spec.key.wanted or Wanted(), captures=())
        without = replace(spec, key=replace(spec.key, wanted=kept), ways=())
        assert "atomic" not in write(without).text


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "cuda:120", "hip:gfx942"])
def test_tiles_fit_shared_memory(kind, target):
    """What stays and what moves is there at once, whatever else is."""
    key = replace(call_of(64).spec(kind).key, target=target)
    limit = Target.parse(target).shared_limit
    for dim in (64, 128, 256):
        for dtype in (DType.BFLOAT16, DType.FLOAT32):
            for dropout in (False, True):
                tile = backward_tile(kind, replace(key, head_dim=dim, dtype=dtype, dropout=dropout))
                stays, moves = (tile.rows, tile.keys)[:: 1 if kind is KernelKind.QUERY_GRADIENT else -1]
                assert (stays + tile.stages * moves) * 2 * dim * dtype.itemsize <= limit
