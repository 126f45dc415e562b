"""An additive mask as a mask and a score: what it hides, what it adds, and rows that see nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

import oracle
from saccade import create_block_mask, flex_attention, scaled_dot_product_attention, trace
from saccade.dense_masks import AttentionMaskConverter, additive_mask, mods_of_additive
from saccade.masks import causal, dense, noop_mask, padding, sliding_window
from saccade.scores import bias

BACKENDS = ("cpu", "eager")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOWEST = torch.finfo(torch.float32).min


def operands(q_len: int, kv_len: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, 2, n, 8, generator=generator) for n in (q_len, kv_len, kv_len)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_see_nothing_give_zero_where_sdpa_gives_an_average(backend):
    query, key, value = operands(5, 5)
    table = AttentionMaskConverter(True).to_4d(torch.tensor([[0, 0, 0, 1, 1]]), 5, key_value_length=5)
    mods = mods_of_additive(table)
    out = flex_attention(query, key, value, **mods._asdict(), backend=backend)
    assert not out[:, :, :3].any()
    torches = torch_sdpa(query, key, value, attn_mask=table)
    torch.testing.assert_close(out[:, :, 3:], torches[:, :, 3:])
    # A number so low that the score is lost in it: all keys weigh the same, the hidden ones with them.
    torch.testing.assert_close(torches[:, :, :3], value.mean(2, keepdim=True).expand(-1, -1, 3, -1))
    infinite = table.masked_fill(table < 0, -torch.inf)
    again = mods_of_additive(infinite)
    assert torch.equal(flex_attention(query, key, value, **again._asdict(), backend=backend), out)
    by_table = scaled_dot_product_attention(query, key, value, attn_mask=mods.mask_mod.table > LOWEST / 2)
    torch.testing.assert_close(by_table, out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_negative_zeros_sees_everything(backend):
    query, key, value = operands(5, 5)
    table = AttentionMaskConverter(True).to_4d(torch.tensor([[0, 0, 0, 1, 1]]), 5, key_value_length=5)
    repaired = AttentionMaskConverter._unmask_unattended(table)
    mods = mods_of_additive(repaired)
    assert mods.score_mod is None
    out = flex_attention(query, key, value, **mods._asdict(), backend=backend)
    torch.testing.assert_close(out[:, :, :3], torch_sdpa(query, key, value)[:, :, :3])
    torch.testing.assert_close(out, torch_sdpa(query, key, value, attn_mask=repaired))


@given(st.integers(0, 2**31), st.sampled_from(DTYPES), st.sampled_from(BACKENDS), st.booleans())
def test_hidden_pairs_are_hidden_and_penalties_added(seed, dtype, backend, penalised):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = operands(6, 9, batch=2)
    heads = 1 + seed % 2
    table = torch.zeros(2, heads, 6, 9, dtype=dtype)
    if penalised:
        table = torch.randn(2, heads, 6, 9, generator=generator).to(dtype)
    chance = torch.rand(table.shape, generator=generator)
    table = table.masked_fill(chance < 0.4, torch.finfo(dtype).min).masked_fill(chance < 0.2, -torch.inf)
    table[1, :, 2] = torch.finfo(dtype).min
    mods = mods_of_additive(table)
    assert (mods.score_mod is not None) is penalised
    made = flex_attention(query, key, value, **mods._asdict(), backend=backend)
    # By definition: an entry far below every score hides its pair, any other is added.
    visible = table.double() > torch.finfo(dtype).min / 2
    scores = query.double() @ key.double().mT / 8**0.5 + table.double()
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).masked_fill(~visible.any(-1, True), 0.0)
    torch.testing.assert_close(made.double(), weights @ value.double(), atol=1e-5, rtol=1e-5)
    assert not made[1, :, 2].any()


def test_what_mods_are_made():
    table = torch.tensor([[0.0, LOWEST], [-0.0, 0.0]])
    assert mods_of_additive(table) == (dense(table), None)
    for penalty in (-1.0, 1.0, torch.inf, torch.nan, -1e30):
        penalised = table.clone()
        penalised[1, 1] = penalty
        mods = mods_of_additive(penalised)
        assert mods.mask_mod.table is penalised
        assert mods.score_mod.table is penalised
    hidden_alone = table.masked_fill(table < 0, -torch.inf)
    assert mods_of_additive(hidden_alone).score_mod is None
    # Its values cannot be known, or may change: the score stays.
    assert isinstance(mods_of_additive(table.clone().requires_grad_()).score_mod, bias)
    assert isinstance(mods_of_additive(table.to("meta")).score_mod, bias)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_learned_additive_mask_gets_its_gradient(backend):
    query, key, value = operands(6, 6)
    table = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
    table = table.masked_fill(torch.ones(6, 6).triu(1).bool(), LOWEST).requires_grad_()
    out = flex_attention(query, key, value, **mods_of_additive(table)._asdict(), backend=backend)
    (made,) = torch.autograd.grad(out.square().sum(), table)
    exact = oracle.attention(query, key, value, mask=causal, score=bias(table)).out
    (expected,) = torch.autograd.grad(exact.square().sum(), table)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_mods_work_under_compile():
    query, key, value = operands(6, 6)
    table = AttentionMaskConverter(True).to_causal_4d(1, 6, 6)

    def attend(table):
        return flex_attention(query, key, value, **mods_of_additive(table)._asdict())

    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    for given_table in (table, table - 1.0 * (torch.arange(6) == 2)):
        torch.testing.assert_close(compiled(given_table), attend(given_table))


def test_an_expanded_table_is_looked_through_at_its_own_size():
    row = torch.zeros(1, 1, 1, 1 << 16)
    row[..., 5] = LOWEST
    table = row.expand(64, 32, 1 << 14, 1 << 16)  # 8 TiB, were it written out
    mods = mods_of_additive(table)
    assert mods.score_mod is None
    row[..., 6] = -1.0
    mods = mods_of_additive(table)
    assert mods.score_mod is not None
    assert [trace(mod).captures[0].numel() for mod in mods] == [1 << 16] * 2


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(0, 4), st.sampled_from(DTYPES))
def test_a_mask_written_out_is_the_mask_again(batch, heads, q_len, more, dtype):
    kv_len = q_len + more

    def by_entry(b, h, q_idx, kv_idx):
        return (q_idx + h >= kv_idx) & (kv_idx != b)

    for mask in (by_entry, causal, sliding_window(2), padding(lengths=[2] * batch)):
        expected = oracle.visible_pairs(mask, batch, heads, q_len, kv_len)
        block_mask = create_block_mask(mask, batch, heads, q_len, kv_len, device="cpu")
        for given_mask in (mask, block_mask):
            table = additive_mask(given_mask, batch, heads, q_len, kv_len, dtype, "cpu")
            assert table.shape == (batch, heads, q_len, kv_len)
            assert table.dtype is dtype
            assert torch.equal(table, torch.zeros_like(table).masked_fill(~expected, torch.finfo(dtype).min))
            mods = mods_of_additive(table)
            assert mods.score_mod is None
            assert torch.equal(oracle.visible_pairs(mods.mask_mod, batch, heads, q_len, kv_len), expected)


def test_a_written_mask_is_stored_once_along_axes_it_does_not_read():
    table = additive_mask(causal, 16, 32, 64, 64, device="cpu")
    assert table.shape == (16, 32, 64, 64)
    assert table.untyped_storage().nbytes() == 64 * 64 * 4
    shared = create_block_mask(causal, None, None, 64, 64, device="cpu")
    assert torch.equal(additive_mask(shared, 16, 32, 64, 64), table)
    assert additive_mask(shared, None, None, 64, 64).shape == (1, 1, 64, 64)
    assert not additive_mask(noop_mask, 2, 2, 3, 3, device="cpu").any()


def test_sdpa_with_a_written_mask_agrees_where_something_is_seen():
    query, key, value = operands(16, 16, batch=2)
    mask = causal & padding(lengths=[16, 9])
    table = additive_mask(mask, 2, None, 16, 16, device="cpu")
    out = flex_attention(query, key, value, mask_mod=mask)
    torch.testing.assert_close(out, torch_sdpa(query, key, value, attn_mask=table))
