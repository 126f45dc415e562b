"""Every tensor of the converter, as a mask_mod and as a BlockMask: the same pairs, without a table."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from saccade import create_block_mask, trace
from saccade.dense_masks import (
    AttentionMaskConverter,
    _prepare_4d_causal_attention_mask,
    mods_of_additive,
)
from saccade.masks import causal, local, noop_mask, padding, shift

queries, pasts, batches = st.integers(1, 7), st.integers(0, 6), st.integers(1, 3)
rules = st.one_of(
    st.builds(AttentionMaskConverter, st.booleans()),
    st.builds(AttentionMaskConverter, st.just(True), st.integers(1, 9)),
)


def table_of(converter, batch, q_len, kv_len, mask):
    """[B, 1, Q, K] bool, from the tensors: True where a pair is visible."""
    if mask is not None:
        table = converter.to_4d(mask, q_len, key_value_length=kv_len)
    else:
        table = converter.to_causal_4d(batch, q_len, kv_len) if converter.is_causal else None
    if table is None:  # nothing is hidden
        return torch.ones(batch, 1, q_len, kv_len, dtype=torch.bool)
    return table == 0


@given(rules, batches, queries, pasts, st.data())
def test_mask_and_block_mask_show_the_pairs_of_the_tensor(converter, batch, q_len, past, data):
    kv_len = q_len + past
    mask = None
    if data.draw(st.booleans()):
        values = data.draw(
            st.lists(st.sampled_from([0, 1, 1, 2]), min_size=batch * kv_len, max_size=batch * kv_len)
        )
        dtype = data.draw(st.sampled_from([torch.int64, torch.bool, torch.float32]))
        mask = torch.tensor(values).view(batch, kv_len).to(dtype)
    expected = table_of(converter, batch, q_len, kv_len, mask)
    rule = converter.mask_mod(q_len, kv_len, mask)
    assert torch.equal(oracle.visible_pairs(rule, batch, 1, q_len, kv_len), expected)
    block_mask = converter.block_mask(batch, q_len, kv_len, mask, device="cpu")
    assert block_mask.shape == (batch, 1, q_len, kv_len)
    assert torch.equal(block_mask.to_bool(), expected)


KEEP, NUMBERS = torch.ones(2, 6, dtype=torch.bool), torch.tensor([[0, 1, 1, 1, 1, 2]])


@pytest.mark.parametrize(
    ("converter", "q_len", "mask", "expected", "text"),
    [
        (AttentionMaskConverter(True), 6, None, causal, "causal"),
        (AttentionMaskConverter(True), 4, None, shift(causal, q=2), "shift(causal, q=2)"),
        (AttentionMaskConverter(True), 1, None, noop_mask, "noop_mask"),
        (AttentionMaskConverter(False), 6, None, noop_mask, "noop_mask"),
        (AttentionMaskConverter(False), 4, KEEP, padding(keep=KEEP), "padding(keep=bool[2, 6])"),
        (AttentionMaskConverter(True, 2), 6, None, local(2, 0), "local(left=2, right=0)"),
        (AttentionMaskConverter(True, 2), 1, None, shift(local(2, 0), q=5), None),
        (
            AttentionMaskConverter(True),
            4,
            NUMBERS,
            shift(causal, q=2) & padding(keep=NUMBERS == 1),
            "shift(causal, q=2) & padding(keep=bool[1, 6])",
        ),
    ],
)
def test_the_mask_form_is_made_of_library_masks(converter, q_len, mask, expected, text):
    made = converter.mask_mod(q_len, 6, mask)
    assert made == expected
    assert pickle.loads(pickle.dumps(made)) == made
    assert text is None or repr(made) == text


def test_a_number_that_the_dtype_of_a_table_rounds_to_1_is_hidden_by_the_mask_form_alone():
    numbers = torch.tensor([[0.9999, 1.0, 0.5]])
    converter = AttentionMaskConverter(False)
    shown = oracle.visible_pairs(converter.mask_mod(1, 3, numbers), 1, 1, 1, 3)[0, 0, 0].tolist()
    assert shown == [False, True, False]
    assert (converter.to_4d(numbers, 1) == 0)[0, 0, 0].tolist() == shown
    # As transformers has it.
    assert (converter.to_4d(numbers, 1, torch.bfloat16) == 0)[0, 0, 0].tolist() == [True, True, False]
    whole = (numbers == 1).to(torch.bfloat16)
    assert (converter.to_4d(whole, 1, torch.bfloat16) == 0)[0, 0, 0].tolist() == shown


def test_the_mask_form_holds_no_table_and_is_classified_without_one():
    converter = AttentionMaskConverter(True, sliding_window=1000)
    mask = converter.block_mask(1, 1 << 20, 1 << 20, device="cpu")
    assert trace(mask.mask_mod).captures == ()
    assert mask.visible_pairs() == 1001 * (1 << 20) - 1000 * 1001 // 2
    tokens = torch.arange(1 << 16)[None] >= 100
    mask = AttentionMaskConverter(True).block_mask(1, 1 << 16, 1 << 16, tokens)
    assert mask.visible_pairs() == (len(tokens[0]) - 100) * (len(tokens[0]) - 99) // 2


def test_a_bool_2d_mask_is_read_when_the_mask_form_is_used():
    keep = torch.ones(1, 4, dtype=torch.bool)
    mask = AttentionMaskConverter(False).mask_mod(1, 4, keep)
    keep[0, 2] = False
    assert oracle.visible_pairs(mask, 1, 1, 1, 4)[0, 0, 0].tolist() == [True, True, False, True]


def test_a_block_mask_lies_where_its_2d_mask_does():
    mask = AttentionMaskConverter(True).block_mask(2, 6, 6, KEEP)
    assert mask.device == KEEP.device
    assert mask == create_block_mask(causal & padding(keep=KEEP), 2, None, 6, 6, device="cpu")


@given(batches, queries, pasts, st.integers(0, 2**31))
def test_a_4d_mask_becomes_the_mask_of_its_table(batch, q_len, past, seed):
    kv_len = q_len + past
    chance = torch.rand(batch, 1, q_len, kv_len, generator=torch.Generator().manual_seed(seed))
    keep = chance < 0.6
    embeds = torch.zeros(batch, q_len, 2)
    mods = mods_of_additive(_prepare_4d_causal_attention_mask(keep.float(), (batch, q_len), embeds, past))
    assert mods.score_mod is None
    assert torch.equal(oracle.visible_pairs(mods.mask_mod, batch, 1, q_len, kv_len), keep)
