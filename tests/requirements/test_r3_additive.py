"""R3, additive masks given to the library, and the converter's masks as mods and block masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import oracle
from requirements.agreement import ENGINES, assert_equal_to_dense, draw
from requirements.arrays_of_r3 import CAUSAL_4, FIVE, PADDED, PADDED_4, PREFIXED, written_out
from saccade import AuxRequest, bias, create_block_mask, create_mask, dense, flex_attention
from saccade.dense_masks import AttentionMaskConverter, additive_mask, mods_of_additive

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)


class TestAdditiveMasks:
    """'When Saccade is given an additive mask, entries ≤ finfo(dtype).min / 2 hide the pair ...'"""

    @DTYPES
    def test_which_entries_hide(self, dtype: torch.dtype) -> None:
        lowest = torch.finfo(dtype).min
        row = [0.0, -1.5, lowest, lowest / 2, lowest / 4, -torch.inf, 3.0, -0.0]
        table = torch.tensor(row, dtype=torch.float64).to(dtype).view(1, 1, 1, 8)
        shown = [[True, True, False, False, True, False, True, True]]
        for mask in (dense(table), mods_of_additive(table).mask_mod):
            assert create_mask(mask, 1, 1, 1, 8, "cpu")[0, 0].tolist() == shown

    @pytest.mark.parametrize("engine", ENGINES)
    def test_smaller_penalties_are_added(self, engine: str) -> None:
        """'... and smaller penalties are added'"""
        tensors = draw(*[(2, 2, 6, 16)] * 3)
        lowest = torch.finfo(torch.float32).min
        table = torch.where(torch.rand(2, 1, 6, 6) < 0.3, lowest, torch.randn(2, 1, 6, 6))
        hidden = table == lowest

        def visible(b, h, q_idx, kv_idx):
            return ~hidden[b, 0, q_idx, kv_idx]

        def penalty(score, b, h, q_idx, kv_idx):
            return score + torch.where(hidden, 0.0, table)[b, 0, q_idx, kv_idx]

        mods = mods_of_additive(table)
        assert mods.score_mod is not None
        for mask_mod, score_mod in (mods.mask_mod, mods.score_mod), (dense(table), bias(table)):
            assert_equal_to_dense(
                tensors, engine, mask=visible, score=penalty, mask_mod=mask_mod, score_mod=score_mod
            )

    def test_where_there_is_no_penalty_there_is_no_score(self) -> None:
        """The agreed interface: 'score_mod None where no penalty is left'"""
        assert mods_of_additive(written_out(PADDED_4, CAUSAL_4)).score_mod is None

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_row_with_every_key_masked_gives_0(self, engine: str) -> None:
        """'A row with every key masked: SDPA ... gives uniform weights or NaN ... such a row gives 0'"""
        table = AttentionMaskConverter(True).to_4d(torch.tensor([[0, 0, 0, 1, 1]]), 5, torch.float32, 5)
        mods = mods_of_additive(table)
        tensors = draw(*[(1, 2, 5, 16)] * 3)
        wanted = AuxRequest(lse=True)
        out, aux = flex_attention(
            *tensors, mods.score_mod, mask_mod=mods.mask_mod, backend=engine, return_aux=wanted
        )
        assert torch.equal(out[:, :, :3], torch.zeros(1, 2, 3, 16))
        assert (aux.lse[:, :, :3] == -torch.inf).all()
        assert (out[:, :, 3:] != 0).any(-1).all()
        assert all(each.isfinite().all() for each in torch.autograd.grad(out.sum(), tensors))

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_row_of_minus_0_sees_everything(self, engine: str) -> None:
        """'a row of −0.0 means all visible'"""
        lowest = torch.finfo(torch.float32).min
        table = AttentionMaskConverter._unmask_unattended(written_out(FIVE), min_dtype=lowest)
        mods = mods_of_additive(table)
        assert create_mask(mods.mask_mod, 1, 1, 5, 5, "cpu")[0, 0, :3].all()
        tensors = draw(*[(1, 2, 5, 16)] * 3)

        def visible(b, h, q_idx, kv_idx):
            return (q_idx < 3) | ((kv_idx >= 3) & (kv_idx <= q_idx))

        assert_equal_to_dense(tensors, engine, mask=visible, mask_mod=mods.mask_mod, score_mod=mods.score_mod)


# Converter, queries, keys, table [B, K] or None: each of the masks above.
EACH = [
    (AttentionMaskConverter(True), 4, 4, None),
    (AttentionMaskConverter(True), 2, 4, None),
    (AttentionMaskConverter(True), 1, 4, None),
    (AttentionMaskConverter(True), 4, 6, None),
    (AttentionMaskConverter(True, 1), 4, 6, None),
    (AttentionMaskConverter(True, 2), 1, 6, None),
    (AttentionMaskConverter(True), 5, 5, torch.tensor([[0, 0, 0, 1, 1]] * 2)),
    (AttentionMaskConverter(True), 4, 4, PADDED),
    (AttentionMaskConverter(True), 1, 4, PADDED),
    (AttentionMaskConverter(True), 4, 6, PREFIXED),
    (AttentionMaskConverter(True, 1), 4, 6, PREFIXED),
    (AttentionMaskConverter(False), 4, 4, PADDED),
    (AttentionMaskConverter(False), 2, 4, PADDED),
]


def four_axes(converter: AttentionMaskConverter, q_len: int, kv_len: int, table: Tensor | None) -> Tensor:
    """The additive mask [2, 1, q_len, kv_len]; None of `to_causal_4d` hides nothing."""
    if table is None:
        made = converter.to_causal_4d(2, q_len, kv_len, torch.float32)
        return torch.zeros(2, 1, q_len, kv_len) if made is None else made
    return converter.to_4d(table, q_len, torch.float32, kv_len)


@pytest.mark.parametrize(("converter", "q_len", "kv_len", "table"), EACH, ids=range(len(EACH)))
class TestAsMods:
    """'Each of these masks can also be had as a mask_mod / BlockMask, and the two agree.'"""

    def test_mask_mod_block_mask_and_table_agree(
        self, converter: AttentionMaskConverter, q_len: int, kv_len: int, table: Tensor | None
    ) -> None:
        shown = four_axes(converter, q_len, kv_len, table) == 0
        mod = converter.mask_mod(q_len, kv_len, table)
        assert torch.equal(create_mask(mod, 2, None, q_len, kv_len, "cpu"), shown)
        blocks = converter.block_mask(2, q_len, kv_len, table, device="cpu")
        assert blocks.shape[2:] == (q_len, kv_len)
        assert torch.equal(blocks.to_bool().expand(2, 1, q_len, kv_len), shown)
        assert torch.equal(create_block_mask(mod, 2, None, q_len, kv_len, "cpu", 2).to_bool(), shown)

    def test_and_are_written_out_again(
        self, converter: AttentionMaskConverter, q_len: int, kv_len: int, table: Tensor | None
    ) -> None:
        """The agreed `additive_mask`: a mask_mod or BlockMask as 0 / finfo.min"""
        expected = four_axes(converter, q_len, kv_len, table).expand(2, 3, q_len, kv_len)
        forms = converter.mask_mod(q_len, kv_len, table), converter.block_mask(2, q_len, kv_len, table)
        for form in forms:
            found = additive_mask(form, 2, 3, q_len, kv_len, torch.float32, torch.device("cpu"))
            assert found.dtype is torch.float32
            assert torch.equal(found.expand(2, 3, q_len, kv_len), expected)

    def test_and_give_the_same_attention(
        self, converter: AttentionMaskConverter, q_len: int, kv_len: int, table: Tensor | None
    ) -> None:
        query, key, value = (each.detach() for each in draw((2, 3, q_len, 8), *[(2, 3, kv_len, 8)] * 2))
        additive = four_axes(converter, q_len, kv_len, table)
        mods = mods_of_additive(additive)
        outs = [
            flex_attention(query, key, value, mask_mod=mods.mask_mod),
            flex_attention(query, key, value, mask_mod=converter.mask_mod(q_len, kv_len, table)),
            flex_attention(query, key, value, block_mask=converter.block_mask(2, q_len, kv_len, table)),
        ]
        hidden = additive != 0
        expected = oracle.attention(query, key, value, mask=lambda b, h, q, k: ~hidden[b, 0, q, k]).out
        for out in outs:
            torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
