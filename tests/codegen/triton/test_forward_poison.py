"""Poison is noted where it decides something visible, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from codegen.triton.forward_call import Forward, run_forward
from codegen.triton.test_forward import blocks, score, tensors
from saccade.block_mask import BlockMask
from saccade.codegen.program.which import Which
from saccade.tracing import trace

SHAPE = (2, 2, 4, 2, 20, 40, 8, 8)


@pytest.mark.parametrize("packed", [False, True])
def test_poison_of_a_visible_score(interpreted, packed):
    query, key, value = tensors(SHAPE)
    bias = torch.zeros(2, 35)

    def reads(s, b, h, q, k):
        return s + torch.where((b == 1) & (h == 3), bias[0, k], 0.0)

    call = Forward(query, key, value, score_mod=score(reads), checks=True, packed=packed)
    which, b, h, q, k, spare = run_forward(interpreted, call).poison
    assert (which, b, h, spare) == (Which.SCORE + 1, 1, 3, 0)
    assert q in range(0, 20, call.queries)
    assert k == 32


def test_poison_that_nothing_sees(interpreted):
    query, key, value = tensors(SHAPE)
    bias = torch.zeros(35)
    mods = {"score_mod": score(lambda s, b, h, q, k: s + bias[k]), "checks": True}
    shown = lambda b, h, q, k: k < 35  # noqa: E731
    for call in (
        Forward(query, key, value, block_mask=blocks(shown, query, key), **mods),
        Forward(query, key, value, mask_mod=trace(shown), **mods),
        Forward(query, key, value, mask=trace(shown), splits=2, **mods),
    ):
        assert run_forward(interpreted, call).poison == [0] * 6


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("poisoned", [Which.MASK, Which.MASK_MOD])
def test_poison_of_a_mask_counts_where_the_one_before_shows(interpreted, poisoned, hidden):
    """The block mask's is asked first: what the other hides of it is poison none the less."""
    query, key, value = tensors((1, 1, 1, 1, 20, 40, 8, 8))
    table = torch.ones(35, dtype=torch.bool)
    reads, other = trace(lambda b, h, q, k: table[k]), trace(lambda b, h, q, k: k < (35 if hidden else 36))
    ones = torch.ones(1, 1, 1, dtype=torch.int32)
    mask, mod = (reads, other) if poisoned is Which.MASK else (other, reads)
    found = BlockMask.from_kv_blocks(
        ones, ones[..., None] - 1, BLOCK_SIZE=64, mask_mod=mask, seq_lengths=(20, 40)
    )
    call = Forward(query, key, value, block_mask=found, mask_mod=mod, checks=True)
    noted = run_forward(interpreted, call).poison[0]
    assert noted == (0 if hidden and poisoned is Which.MASK_MOD else poisoned + 1)


def test_keys_in_a_tile_s_padding_are_no_pairs(interpreted):
    query, key, value = tensors((1, 1, 1, 1, 20, 35, 8, 8))
    table, bias = torch.ones(35, dtype=torch.bool), torch.zeros(20)
    call = Forward(
        query,
        key,
        value,
        mask=trace(lambda b, h, q, k: table[k]),
        score_mod=score(lambda s, b, h, q, k: s + bias[q]),
        checks=True,
    )
    assert run_forward(interpreted, call).poison == [0] * 6
