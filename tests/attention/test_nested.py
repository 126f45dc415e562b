"""flex_attention of nested tensors: each sequence alone, in one call, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import saccade
from attention.nested_sequences import (
    DIM,
    ENGINES,
    HEADS,
    LENGTHS,
    assert_like_the_oracle,
    counted,
    exactly,
    leaves_of,
    near,
    nest,
    nested,
    offsets_of,
    one_by_one,
)
from saccade import AuxRequest, BlockMask, create_block_mask, flex_attention
from saccade.attention import nested as nested_calls
from saccade.attention import sequences
from saccade.attention.nested import packed_call
from saccade.attention.request import Arguments
from saccade.errors import ArgumentError, ArgumentTypeError, ShapeError
from saccade.masks import causal, document, noop_mask, prefix_lm, sliding_window
from saccade.scores import softcap

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")


class TestResults:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("mask", [None, causal, sliding_window(9)], ids=repr)
    def test_are_those_of_each_sequence_alone(self, mask: Any, dtype: torch.dtype) -> None:
        leaves = leaves_of(LENGTHS, dtype=dtype)
        assert_like_the_oracle(leaves, LENGTHS, mask=mask, backends=ENGINES)

    def test_cross_attention_with_other_lengths(self) -> None:
        kv_lengths = (0, 5, 140, 2, 33)
        leaves = leaves_of(LENGTHS, kv_lengths)
        assert_like_the_oracle(leaves, LENGTHS, kv_lengths, mask=causal, score=near, backends=ENGINES)

    def test_mods_read_tensors_with_one_entry_a_sequence(self) -> None:
        prefix = torch.tensor([1, 0, 60, 1, 5])
        slope = torch.randn(len(LENGTHS), HEADS, requires_grad=True)
        position = torch.randn(max(LENGTHS), requires_grad=True)

        def learned(score, b, h, q_idx, kv_idx):
            return score * slope[b, h] + position[kv_idx]

        assert_like_the_oracle(
            leaves_of(LENGTHS),
            LENGTHS,
            mask=prefix_lm(prefix),
            score=learned,
            learned=[slope, position],
            backends=ENGINES,
        )

    def test_options_mean_what_they_mean_for_dense_tensors(self) -> None:
        sinks = torch.randn(HEADS, requires_grad=True)
        leaves = leaves_of(LENGTHS, kv_heads=2)
        assert_like_the_oracle(
            leaves,
            LENGTHS,
            mask=causal,
            learned=[sinks],
            sinks=sinks,
            scale=0.7,
            enable_gqa=True,
            backends=ENGINES,
        )

    def test_a_mask_that_differs_by_head(self) -> None:
        widths = torch.tensor([1, 3, 20, 50])
        assert_like_the_oracle(
            leaves_of(LENGTHS), LENGTHS, mask=lambda b, h, q_idx, kv_idx: (q_idx - kv_idx).abs() < widths[h]
        )

    def test_a_score_that_asks_for_no_position(self) -> None:
        assert_like_the_oracle(leaves_of(LENGTHS), LENGTHS, score=softcap(2.0))

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=7), st.data())
    @settings(max_examples=10)
    def test_for_any_lengths(self, lengths: list[int], data: st.DataObject) -> None:
        crosses = data.draw(st.booleans())
        kv_lengths = [data.draw(st.integers(0, 40)) for _ in lengths] if crosses else None
        mask = data.draw(st.sampled_from([None, causal, sliding_window(4)]))
        torch.manual_seed(0)
        assert_like_the_oracle(leaves_of(lengths, kv_lengths), lengths, kv_lengths, mask=mask)

    @pytest.mark.parametrize("lengths", [(0,), (0, 0, 0), ()], ids=str)
    def test_nothing_at_all(self, lengths: tuple[int, ...]) -> None:
        leaves = leaves_of(lengths)
        out, lse = flex_attention(*nested(leaves, lengths), near, mask_mod=causal, return_lse=True)
        assert out.values().shape == (HEADS, 0, 8)
        assert lse.values().shape == (HEADS, 0)
        assert [one.shape for one in torch.autograd.grad(out.values().sum(), leaves)] == [
            one.shape for one in leaves
        ]

    def test_torch_says_the_same(self) -> None:
        leaves = leaves_of(LENGTHS)
        found = flex_attention(*nested(leaves, LENGTHS)).values()
        expected = functional.scaled_dot_product_attention(*nested(leaves, LENGTHS)).values()
        torch.testing.assert_close(found, expected)
        mine, theirs = (torch.autograd.grad(one.square().sum(), leaves) for one in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    def test_many_short_sequences(self) -> None:
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(1, 51, (1000,), generator=generator).tolist()
        packed = [torch.randn(sum(lengths), 1, 8, requires_grad=True) for _ in range(3)]
        # What comes after a token is hidden anyway, padding too.
        keep = torch.arange(50) < torch.tensor(lengths)[:, None]
        padded = [torch.zeros(1000, 50, 1, 8).index_put(keep.nonzero(as_tuple=True), one) for one in packed]
        expected = exactly(*(one.transpose(1, 2) for one in padded), mask=causal)[0].transpose(1, 2)[keep]
        found = flex_attention(*nested(packed, lengths), mask_mod=causal).transpose(1, 2).values()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        mine, theirs = (torch.autograd.grad(one.square().sum(), packed) for one in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("backend", ENGINES)
    def test_dropout_repeats_and_keeps_sequences_apart(self, backend: str) -> None:
        leaves = leaves_of((20, 30))
        outs = []
        for _ in range(2):
            torch.manual_seed(7)
            outs.append(flex_attention(*nested(leaves, (20, 30)), dropout_p=0.5, backend=backend).values())
        assert torch.equal(*outs)
        (found,) = torch.autograd.grad(outs[0][:, :20].sum(), leaves[2])
        assert found[:20].abs().sum() > 0
        assert not found[20:].any()

    def test_under_autocast(self) -> None:
        leaves = leaves_of(LENGTHS)
        with torch.autocast("cpu", torch.bfloat16):
            assert flex_attention(*nested(leaves, LENGTHS), mask_mod=causal).dtype is torch.bfloat16


class TestTheForm:
    def test_is_the_querys_so_that_residuals_add(self) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        wide = torch.cat([value, value], dim=-1)  # as wide as the query
        out = flex_attention(query, key, wide, mask_mod=causal)
        assert out.shape == query.shape
        assert out.offsets() is query.offsets()
        total = query + out
        torch.testing.assert_close(total.values(), query.values() + out.values())
        assert [one.shape for one in out.unbind()] == [(HEADS, length, DIM) for length in LENGTHS]

    def test_keeps_what_is_known_of_lengths(self) -> None:
        offsets, values = offsets_of([2, 5]), torch.randn(7, HEADS, DIM)
        for known in ({}, {"min_seqlen": 2, "max_seqlen": 5}):
            query = torch.nested.nested_tensor_from_jagged(values, offsets, **known).transpose(1, 2)
            out: Any = flex_attention(query, query, query)
            assert (out._maybe_min_seqlen, out._maybe_max_seqlen) == (
                known.get("min_seqlen"),
                known.get("max_seqlen"),
            )

    def test_values_are_not_copied(self) -> None:
        values = torch.randn(7, HEADS, DIM)
        query = nest(values, offsets_of([2, 5]))
        packed = packed_call(Arguments(query, query, query, mask_mod=causal)).packed
        assert {one.data_ptr() for one in (packed.query, packed.key, packed.value)} == {values.data_ptr()}
        out = flex_attention(query, query, query, mask_mod=causal)
        # In memory [total, H, D], so that heads join without a copy.
        assert out.transpose(1, 2).values().is_contiguous()

    def test_values_of_one_tensor_are_asked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Tensor] = []
        values = nested_calls._values
        monkeypatch.setattr(nested_calls, "_values", lambda one: (asked.append(one), values(one))[1])
        query, key = (nest(torch.randn(9, 2, DIM), offsets_of((4, 5))) for _ in range(2))
        packed = packed_call(Arguments(query, query, query)).packed
        assert packed.query is packed.key is packed.value
        assert len(asked) == 1
        packed = packed_call(Arguments(query, key, key)).packed
        assert packed.query is not packed.key
        assert packed.key is packed.value
        assert len(asked) == 3

    def test_lse_and_max_scores_are_nested_too(self) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        _, aux = flex_attention(query, key, value, return_aux=AuxRequest(lse=True, max_scores=True))
        for one in (aux.lse, aux.max_scores):
            assert one is not None
            assert one.shape == query.shape[:3]
            assert [row.shape for row in one.unbind()] == [(HEADS, length) for length in LENGTHS]

    def test_nested_leaves_get_nested_gradients(self) -> None:
        offsets = offsets_of([4, 9])
        leaf = torch.nested.nested_tensor_from_jagged(torch.randn(13, 2, DIM), offsets).requires_grad_()
        query = leaf.transpose(1, 2)
        flex_attention(query, query, query, mask_mod=causal).values().square().sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape
        plain = leaf.detach().values().requires_grad_()
        out, _ = one_by_one(exactly, [plain] * 3, (4, 9), mask=causal)
        (expected,) = torch.autograd.grad(out.square().sum(), plain)
        torch.testing.assert_close(leaf.grad.values(), expected, rtol=1e-4, atol=1e-5)


class TestHoles:
    STARTS, HELD = (1, 0, 5, 2), (2, 6, 0, 3)

    def narrowed(self, padded: Tensor) -> Tensor:
        """[B, H, j, D]: a part of each row of [B, L, H, D]."""
        part = torch.nested.narrow(
            padded, 1, torch.tensor(self.STARTS), torch.tensor(self.HELD), layout=torch.jagged
        )
        return part.transpose(1, 2)

    @pytest.mark.parametrize("backend", ENGINES)
    def test_are_passed_over_without_a_copy(self, backend: str) -> None:
        padded = [torch.randn(4, 6, 2, DIM, requires_grad=True) for _ in range(3)]
        query, key, value = (self.narrowed(one) for one in padded)
        position = torch.randn(6)  # of the longest sequence, no more
        score = lambda s, b, h, q_idx, kv_idx: s + position[kv_idx]  # noqa: E731
        out = flex_attention(query, key, value, score, mask_mod=causal, backend=backend)
        (total := out + query).values()
        assert total.shape == query.shape
        parts = [
            torch.cat(
                [
                    row[start : start + held]
                    for row, start, held in zip(one, self.STARTS, self.HELD, strict=True)
                ]
            )
            for one in padded
        ]
        expected, _ = one_by_one(exactly, parts, self.HELD, mask=causal, score=score)
        found = torch.cat(out.unbind(), dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        weights = torch.randn(found.shape)
        mine = torch.autograd.grad(out.values(), padded, self.spread(out, weights))
        theirs = torch.autograd.grad(expected, padded, weights.double())
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    def spread(self, out: Tensor, weights: Tensor) -> Tensor:
        """Weights of the sequences' tokens where those are among the values, 0 elsewhere."""
        spread = torch.zeros_like(out.values())
        bounds = zip(out.offsets().tolist(), self.HELD, strict=False)
        places = [place for start, held in bounds for place in range(start, start + held)]
        spread[:, places] = weights
        return spread

    @pytest.mark.parametrize("queries", ["holes", "rest", "full"])
    @pytest.mark.parametrize("keys", ["holes", "rest", "full"])
    def test_on_either_side_of_cross_attention(self, queries: str, keys: str) -> None:
        lengths = {"holes": self.HELD, "rest": (2, 1, 0, 4), "full": (3, 2, 2, 1)}
        made = {
            "holes": self.narrowed(torch.randn(4, 6, 2, DIM)),
            "rest": nest(torch.randn(9, 2, DIM), offsets_of(lengths["rest"])),
            "full": nest(torch.randn(8, 2, DIM), offsets_of(lengths["full"])),
        }
        rows = {
            name: torch.cat(
                [
                    one.values()[:, start : start + held]
                    for start, held in zip(one.offsets().tolist(), lengths[name], strict=False)
                ],
                dim=1,
            ).transpose(0, 1)
            for name, one in made.items()
        }
        out = flex_attention(made[queries], *[made[keys]] * 2, mask_mod=causal)
        expected, _ = one_by_one(
            exactly, [rows[queries], *[rows[keys]] * 2], lengths[queries], lengths[keys], mask=causal
        )
        bounds = zip(out.offsets().tolist(), lengths[queries], strict=False)
        found = torch.cat([out.values()[:, start : start + held] for start, held in bounds], dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_more_values_of_keys_than_of_queries_behind_the_same_offsets(self) -> None:
        offsets = offsets_of((4, 5))
        values, more = torch.randn(9, 2, DIM), torch.randn(12, 2, DIM)
        for rows, columns in ((values, more), (more, values)):
            query, key = nest(rows, offsets), nest(columns, offsets)
            out = flex_attention(query, key, key, mask_mod=causal).values()
            expected, _ = one_by_one(exactly, [rows[:9], *[columns[:9]] * 2], (4, 5), mask=causal)
            torch.testing.assert_close(out[:, :9].double(), expected, rtol=1e-5, atol=1e-5)
            assert not out[:, 9:].any()

    def test_values_beyond_the_last_offset_see_nothing(self) -> None:
        values = torch.randn(12, 2, DIM)
        query = nest(values, torch.tensor([0, 4, 9]))
        out, lse = flex_attention(query, query, query, return_lse=True)
        expected, _ = one_by_one(exactly, [values[:9]] * 3, (4, 5))
        torch.testing.assert_close(out.values()[:, :9].double(), expected, rtol=1e-5, atol=1e-5)
        assert not out.values()[:, 9:].any()
        assert torch.isneginf(lse.values()[:, 9:]).all()


class TestBlockMasks:
    def test_that_keep_sequences_apart_are_taken(self) -> None:
        leaves = leaves_of(LENGTHS)
        query, _, _ = nested(leaves, LENGTHS)
        total = sum(LENGTHS)
        masks = (
            saccade.jagged.create_nested_block_mask(causal, query),
            saccade.jagged.block_mask_of(causal, offsets_of(LENGTHS), BLOCK_SIZE=32),
            create_block_mask(causal & document(lengths=LENGTHS), None, None, total, total, "cpu"),
        )
        assert_like_the_oracle(leaves, LENGTHS, mask=causal, block_masks=masks, backends=ENGINES)

    def test_and_a_mask_mod_must_both_hold(self) -> None:
        leaves = leaves_of(LENGTHS)
        query, key, value = nested(leaves, LENGTHS)
        mask = saccade.jagged.create_nested_block_mask(causal, query)
        found = flex_attention(
            query, key, value, block_mask=mask, mask_mod=lambda b, h, q, k: (q - k < 4) & (b != 3)
        )
        expected = flex_attention(
            query, key, value, mask_mod=lambda b, h, q, k: (q >= k) & (q - k < 4) & (b != 3)
        )
        assert torch.equal(found.values(), expected.values())

    def test_of_given_blocks_are_joined_with_what_keeps_sequences_apart(self) -> None:
        leaves = leaves_of(LENGTHS)
        total = sum(LENGTHS)
        everything = create_block_mask(noop_mask, None, None, total, total, "cpu")
        given_blocks = BlockMask.from_torch(everything.to_torch())
        query, key, value = nested(leaves, LENGTHS)
        for mask in (given_blocks, everything.to_torch()):
            for mod in (None, causal):
                found = flex_attention(query, key, value, block_mask=mask, mask_mod=mod)
                assert torch.equal(found.values(), flex_attention(query, key, value, mask_mod=mod).values())

    @pytest.mark.parametrize(
        ("mask", "pair"),
        [
            (causal, "packed query 3 packed key 0"),
            (noop_mask, "packed query 0 packed key 3"),
            (lambda b, h, q_idx, kv_idx: (q_idx == 150) & (kv_idx == 132), "packed query 150 packed key 132"),
            (
                lambda b, h, q_idx, kv_idx: (h == 2) & (q_idx == 1) & (kv_idx == 170),
                "packed query 1 packed key 170",
            ),
        ],
        ids=["causal", "noop", "a pair", "a pair of a head"],
    )
    def test_that_do_not_are_refused(self, mask: Any, pair: str) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        total = sum(LENGTHS)
        blocks = create_block_mask(mask, None, HEADS, total, total, "cpu")
        with pytest.raises(ArgumentError, match=f"hide every pair of different sequences.*{pair}"):
            flex_attention(query, key, value, block_mask=blocks)

    def test_are_checked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        blocks = saccade.jagged.block_mask_of(causal, offsets_of(LENGTHS))
        asked = counted(monkeypatch)
        for _ in range(3):
            flex_attention(query, key, value, block_mask=blocks)
        assert len(asked) == 1

    def test_that_have_changed_since_they_were_checked_are_stale(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        ids = torch.tensor([0] * 4 + [1] * 5)
        blocks = create_block_mask(document(ids=ids), None, None, 9, 9, "cpu")
        flex_attention(query, key, value, block_mask=blocks)
        ids.zero_()
        with pytest.raises(saccade.StaleMaskError, match="has changed since"):
            flex_attention(query, key, value, block_mask=blocks)
        with pytest.raises(ArgumentError, match="hide every pair of different sequences"):
            flex_attention(query, key, value, block_mask=blocks.refreshed())

    def test_are_checked_by_what_they_say_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        numbers = np.array([0] * 4 + [1] * 5)
        ids = torch.from_numpy(numbers)
        blocks, another = (create_block_mask(document(ids=ids), None, None, 9, 9, "cpu") for _ in range(2))
        asked = counted(monkeypatch)
        flex_attention(query, key, value, block_mask=blocks)
        flex_attention(query, key, value, block_mask=another)
        assert len(asked) == 1
        numbers[:] = 0  # which torch does not count
        for each in (blocks, another):
            with pytest.raises(ArgumentError, match="hide every pair of different sequences"):
                flex_attention(query, key, value, block_mask=each)

    @pytest.mark.parametrize(("bytes_kept", "count"), [(72, 1), (71, 3)])
    def test_with_large_tables_are_checked_at_each_call(
        self, monkeypatch: pytest.MonkeyPatch, bytes_kept: int, count: int
    ) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        ids = torch.tensor([0] * 4 + [1] * 5)  # 72 bytes
        blocks = create_block_mask(document(ids=ids), None, None, 9, 9, "cpu")
        monkeypatch.setattr(sequences, "_MOST_BYTES", bytes_kept)
        asked = counted(monkeypatch)
        for _ in range(3):
            flex_attention(query, key, value, block_mask=blocks)
        assert len(asked) == count

    def test_of_another_length_are_refused(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        with pytest.raises(ShapeError, match="q_len=8 and kv_len=8, but the query has 9"):
            flex_attention(query, key, value, block_mask=saccade.jagged.block_mask_of(causal, [0, 4, 8]))

    def test_of_another_kind_are_refused(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        with pytest.raises(ArgumentTypeError, match="block_mask must be a BlockMask or None, got _Causal"):
            flex_attention(query, key, value, block_mask=causal)
