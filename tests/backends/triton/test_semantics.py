"""What attention means, of the GPU engine interpreted: empty rows, sinks, hidden pairs, blocks, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from backends.triton.calls import BACKEND, assert_as_the_oracle, attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade import BlockMask, create_block_mask
from saccade.masks import and_masks, causal, document, shift, sliding_window

Q_LEN, KV_LEN = 24, 56
BLOCKS = 16
LOWEST = torch.finfo(torch.float32).min


def sees_nothing_early(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """The first 18 queries, a whole tile and part of the next, see nothing, and of head 1 none does."""
    return (q_idx >= 18) & (h != 1)


def blocks_of(mask: Any, q_len: int = Q_LEN, kv_len: int = KV_LEN, *, heads: int | None = None) -> BlockMask:
    return create_block_mask(mask, None, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=BLOCKS)


def both_forms(mask: Any, *, heads: int | None = None) -> list[dict[str, object]]:
    return [{"mask_mod": mask}, {"block_mask": blocks_of(mask, heads=heads)}]


class TestRowsThatSeeNothing:
    @pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
    @pytest.mark.parametrize("form", [0, 1], ids=["mask_mod", "block_mask"])
    @interpreted
    def test_are_zero(self, form: int, with_sinks: bool) -> None:
        leaves = draw(Q_LEN, KV_LEN)
        sinks = torch.randn(4, requires_grad=True) if with_sinks else None
        out, lse, max_scores = attend(leaves, sinks=sinks, **both_forms(sees_nothing_early, heads=4)[form])
        empty = torch.zeros(1, 4, Q_LEN, dtype=torch.bool)
        empty[:, :, :18], empty[:, 1] = True, True
        assert not out[empty].any()
        expected = torch.full((4,), -math.inf) if sinks is None else sinks
        torch.testing.assert_close(lse[empty], expected[:, None].expand(1, 4, Q_LEN)[empty])
        assert torch.equal(max_scores == -math.inf, empty)
        found = torch.autograd.grad(
            (out.sum(), lse), leaves, (torch.tensor(1.0), torch.ones_like(lse)), retain_graph=True
        )
        assert all(each.isfinite().all() for each in found)
        assert not found[0][empty].any()
        every = leaves if sinks is None else [*leaves, sinks]
        assert_as_the_oracle(
            every, [both_forms(sees_nothing_early, heads=4)[form] | {"sinks": sinks}],
            mask=sees_nothing_early, sinks=sinks,
        )  # fmt: skip

    @interpreted
    def test_of_whom_none_sees_anything(self) -> None:
        """No block is visited at all."""
        leaves = draw(Q_LEN, KV_LEN)
        out, lse, _ = attend(leaves, block_mask=blocks_of(lambda b, h, q, k: q + 100 < k))
        assert not out.any()
        assert (lse == -math.inf).all()
        assert not any(each.any() for each in gradients((out, lse), leaves))

    @interpreted
    def test_scores_of_minus_infinity_are_as_hidden(self) -> None:
        leaves = draw(Q_LEN, KV_LEN)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return torch.where(sees_nothing_early(b, h, q_idx, kv_idx), score, -math.inf)

        scored, masked = (
            attend(leaves, score_mod=score),
            attend(leaves, mask_mod=sees_nothing_early),
        )
        torch.testing.assert_close(scored, masked)
        torch.testing.assert_close(gradients(scored, leaves), gradients(masked, leaves))


class TestScoresFarFromZero:
    """Scores that a product with log2(e) takes out of float32, or that round by more than weights bear."""

    @pytest.mark.parametrize("splits", [1, 3], ids=["walked_once", "split"])
    @pytest.mark.parametrize("far", [LOWEST, -3.0e38, 3.0e38, -1e10, 1e10], ids="{:.0e}".format)
    @interpreted
    def test_rows_of_the_same_score_are_means(self, far: float, splits: int) -> None:
        """As of padding that is added, or chosen: whole rows of it, and parts of others."""
        leaves = draw(Q_LEN, KV_LEN)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            padding = (q_idx < 5) | (kv_idx > q_idx + 20) & (far < 0)
            return torch.where(padding, far, score)

        out, lse, max_scores = attend(leaves, score_mod=score, kernel_options={"SPLIT_KV": splits})
        usual = attend(leaves, score_mod=score, backend="eager")
        digit = 2 * abs(far) * torch.finfo(torch.float32).eps
        exact = leaves[2].detach().mean(2, keepdim=True).repeat_interleave(2, 1).expand(1, 4, 5, 8)
        torch.testing.assert_close(out[:, :, :5], exact, atol=1e-6, rtol=1e-5)
        assert (max_scores[:, :, :5] == far).all()
        torch.testing.assert_close(lse[:, :, :5], torch.full((1, 4, 5), far), atol=digit, rtol=0)
        for mine, other in zip((out, lse, max_scores), usual, strict=True):
            torch.testing.assert_close(mine[:, :, 5:], other[:, :, 5:], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("far", [LOWEST, -1e10], ids="{:.0e}".format)
    @interpreted
    def test_gradients_pass_by_padding(self, far: float) -> None:
        """Row 3 sees one key of the usual size, row 5 one of a larger far score, row 7 is all padding."""
        leaves = draw(Q_LEN, KV_LEN)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            padding = (kv_idx > q_idx) | (q_idx == 7) | (q_idx == 3) & (kv_idx != 1)
            largest = (q_idx == 5) & (kv_idx == 2)
            far_row = torch.where(largest, 0.5 * far, far)
            return torch.where(padding | (q_idx == 5), far_row, score)

        weights = torch.linspace(-1, 1, 4 * Q_LEN * 8).view(1, 4, Q_LEN, 8)
        but_7 = weights.index_fill(2, torch.tensor([7]), 0.0)
        found, expected = (
            torch.autograd.grad(attend(leaves, score_mod=score, backend=backend)[0], leaves, but_7)
            for backend in (BACKEND, "eager")
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        (of_query, *others) = torch.autograd.grad(attend(leaves, score_mod=score)[0], leaves, weights)
        assert not of_query[:, :, 7].any()
        assert all(each.isfinite().all() for each in others)

    @interpreted
    def test_a_sink_joins_rows_of_padding(self) -> None:
        leaves = draw(Q_LEN, KV_LEN)
        sinks = torch.tensor([0.5, LOWEST, 3e38, -math.inf])

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return torch.where(q_idx < 5, LOWEST, score)

        for mine, other in zip(
            attend(leaves, score_mod=score, sinks=sinks),
            attend(leaves, score_mod=score, sinks=sinks, backend="eager"),
            strict=True,
        ):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("splits", [1, 3], ids=["walked_once", "split"])
    @interpreted
    def test_products_of_queries_and_keys_may_be(self, splits: int) -> None:
        """One key's product is 2.6e38, those of the others are its negative."""
        query, key, value = (each.detach() for each in draw(Q_LEN, KV_LEN, dim=8))
        query.zero_()[..., 0] = 1.6e19
        key.zero_()[..., 0] = -1.6e19
        key[:, :, 40] *= -1
        chosen = attend((query, key, value), scale=1.0, kernel_options={"SPLIT_KV": splits})
        turned = attend((query, key, value), scale=-1.0, kernel_options={"SPLIT_KV": splits})
        others = torch.cat([value[:, :, :40], value[:, :, 41:]], 2).mean(2, keepdim=True)
        for found, expected in ((chosen, value[:, :, 40:41]), (turned, others)):
            meant = expected.repeat_interleave(2, 1).expand(1, 4, Q_LEN, 8)
            torch.testing.assert_close(found[0], meant, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                found[1], torch.full((1, 4, Q_LEN), 1.6e19 * 1.6e19), rtol=1e-6, atol=0
            )
            torch.testing.assert_close(found[2], found[1], rtol=1e-6, atol=0)


class TestSinks:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @interpreted
    def test_join_the_denominator(self, dtype: torch.dtype) -> None:
        leaves = draw(Q_LEN, KV_LEN, dtype=dtype)
        # One outweighs all scores, one has none.
        sinks = torch.tensor([0.5, -1.0, 30.0, -math.inf], dtype=dtype, requires_grad=True)
        forms = [form | {"sinks": sinks} for form in both_forms(causal)]
        assert_as_the_oracle([*leaves, sinks], forms, mask=causal, sinks=sinks)


class TestHiddenPairsHaveNoSay:
    @interpreted
    def test_what_a_score_makes_of_them_reaches_nothing(self) -> None:
        leaves, slope = draw(Q_LEN, KV_LEN), torch.full((4,), 0.3, requires_grad=True)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            """At hidden pairs: the root of a negative number, and 1 / 0."""
            return score + slope[h] * torch.sqrt(q_idx - kv_idx + 1) / (kv_idx - q_idx - 2)

        def plain(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            distance = (q_idx - kv_idx).clamp(min=0).double()
            return score - slope[h] * torch.sqrt(distance + 1) / (distance + 2)

        forms = [form | {"score_mod": score} for form in both_forms(causal)]
        assert_as_the_oracle(leaves, forms, learned=[slope], mask=causal, score=plain)

    @interpreted
    def test_infinite_keys_reach_nothing(self) -> None:
        """Keys past a window's end hold NaN and infinity, in blocks that are visited and in others."""
        query, key, value = (each.detach() for each in draw(Q_LEN, KV_LEN))
        expected = oracle.attention(query, key, value, mask=lambda b, h, q, k: k < 21)
        key[:, :, 21:40], key[:, :, 40:] = math.nan, math.inf
        for form in both_forms(lambda b, h, q, k: k < 21):
            out, lse, max_scores = attend((query, key, value), **form)
            torch.testing.assert_close(out.double(), expected.out, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(lse.double(), expected.lse, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(max_scores.double(), expected.max_scores, atol=1e-5, rtol=1e-5)

    @interpreted
    def test_nan_reaches_all_that_see_it(self) -> None:
        leaves = draw(Q_LEN, KV_LEN)
        leaves[1].data[0, 0, 5], leaves[1].data[0, 1, 20] = math.nan, math.nan
        expected = oracle.attention(*leaves, mask=causal)
        for form in both_forms(causal):
            out, lse, _ = attend(leaves, **form)
            assert torch.equal(lse.isnan(), expected.lse.isnan())
            assert torch.equal(out.isnan(), expected.out.isnan())

    @interpreted
    def test_what_lies_past_the_ends_of_tensors_reaches_nothing(self) -> None:
        """Tiles are padded; what memory holds there is not read, or has no say."""
        q_len, kv_len = 19, 37
        drawn = [each.detach() for each in draw(q_len, kv_len)]
        expected = oracle.attention(*drawn)
        wide = [torch.full((1, each.shape[1], 128, each.shape[3]), math.nan) for each in drawn]
        inner = []
        for each, around in zip(drawn, wide, strict=True):
            around[:, :, : each.shape[2]] = each
            inner.append(around[:, :, : each.shape[2]].requires_grad_())
        exact = oracle.attention(*inner)
        torch.testing.assert_close(exact.out, expected.out)
        assert_as_the_oracle(inner, [{}])

    @interpreted
    def test_an_index_out_of_range_is_read_nowhere(self) -> None:
        leaves = draw(Q_LEN, KV_LEN)
        table = torch.arange(Q_LEN, dtype=torch.float32).mul(0.1).requires_grad_()

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + table[q_idx - kv_idx]

        def plain(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + table[(q_idx - kv_idx).clamp(min=0)]

        forms = [form | {"score_mod": score} for form in both_forms(causal)]
        assert_as_the_oracle(leaves, forms, learned=[table], mask=causal, score=plain)

    @interpreted
    def test_kleenes_logic_holds_in_masks(self) -> None:
        """False & poison is False, True | poison is True, and where drops the side not taken."""
        leaves = draw(Q_LEN, KV_LEN)
        short = torch.arange(8) % 3 != 0

        def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            inside = kv_idx < 8
            either = (q_idx < 5) & inside & short[kv_idx] | (q_idx >= 5) & (~inside | short[kv_idx])
            return torch.where(q_idx == 7, kv_idx // (q_idx - 7 + 1) > 3, either)

        def plain(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            inside, read = kv_idx < 8, short[kv_idx.clamp(max=7)]
            either = (q_idx < 5) & inside & read | (q_idx >= 5) & (~inside | read)
            return torch.where(q_idx == 7, kv_idx > 3, either)

        assert_as_the_oracle(leaves, both_forms(mask), mask=plain)


class TestBlocks:
    @pytest.mark.parametrize("axes", [(1, 1), (2, 4)], ids=["shared", "per_head"])
    @interpreted
    def test_given_ones_are_the_truth(self, axes: tuple[int, int]) -> None:
        """Whatever the mod says of FULL and EMPTY ones; and tiles are larger and smaller than they are."""
        batch, heads = axes
        chosen = torch.randint(0, 3, (batch, heads, 3, 4))  # 0: EMPTY, 1: PARTIAL, 2: FULL

        def listed(kind: int) -> tuple[Tensor, Tensor]:
            counts = (chosen == kind).sum(-1).to(torch.int32)
            order = torch.argsort((chosen != kind).to(torch.int8), dim=-1, stable=True).to(torch.int32)
            return counts, order

        given = BlockMask.from_kv_blocks(
            *listed(1), *listed(2), BLOCK_SIZE=(8, 16), mask_mod=causal, seq_lengths=(Q_LEN, KV_LEN)
        )

        def truth(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            kind = chosen[b % batch, h % heads, q_idx // 8, kv_idx // 16]
            return (kind == 2) | (kind == 1) & (q_idx >= kv_idx)

        forms: list[dict[str, Any]] = [{"block_mask": given}]
        if batch == 1:
            forms.append({"block_mask": given, "kernel_options": {"BLOCK_M": 32, "BLOCK_N": 16}})
        assert_as_the_oracle(draw(Q_LEN, KV_LEN, batch=2), forms, mask=truth)

    @interpreted
    def test_a_mask_mod_beside_them_must_hold_too(self) -> None:
        window, documents = sliding_window(13), document(lengths=[20, 36])
        assert_as_the_oracle(
            draw(Q_LEN, KV_LEN),
            [{"block_mask": blocks_of(documents), "mask_mod": window}],
            mask=and_masks(documents, window),
        )

    @interpreted
    def test_a_cropped_mask_begins_inside_a_block(self) -> None:
        whole = create_block_mask(sliding_window(30), None, None, 80, 80, device="cpu", BLOCK_SIZE=BLOCKS)
        part = whole.crop(q=(21, 21 + Q_LEN), kv=(3, 3 + KV_LEN))

        def shifted(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return sliding_window(30)(b, h, q_idx + 21, kv_idx + 3)

        assert_as_the_oracle(draw(Q_LEN, KV_LEN), [{"block_mask": part}], mask=shifted)


class TestWhichGradients:
    """Each alone is what it is among all: nothing is computed for others, and nothing is missing."""

    @pytest.mark.parametrize("place", range(5), ids=["query", "key", "value", "sinks", "bias"])
    @interpreted
    def test_one_alone(self, place: int) -> None:
        leaves = [*draw(Q_LEN, KV_LEN), torch.randn(4, requires_grad=True)]
        bias = torch.randn(Q_LEN, KV_LEN, requires_grad=True)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + bias[q_idx, kv_idx]

        every = [*leaves, bias]
        options = {"score_mod": score, "mask_mod": causal}
        all_of_them = gradients(attend(leaves, sinks=leaves[3], **options), every)
        for leaf in every:
            leaf.requires_grad_(leaf is every[place])
        (alone,) = gradients(attend(leaves, sinks=leaves[3], **options), [every[place]])
        torch.testing.assert_close(alone, all_of_them[place])

    @pytest.mark.parametrize("uses", ["out", "lse"])
    @interpreted
    def test_of_one_output_alone(self, uses: str) -> None:
        leaves = draw(Q_LEN, KV_LEN)

        def loss(out: Tensor, lse: Tensor) -> Tensor:
            used = {"out": out, "lse": lse}[uses]
            return (used.double() * torch.linspace(-1, 1, used.numel()).view_as(used)).sum()

        out, lse, _ = attend(leaves, mask_mod=causal)
        found = torch.autograd.grad(loss(out, lse), leaves, allow_unused=True, materialize_grads=True)
        reference = oracle.attention(*leaves, mask=causal)
        expected = torch.autograd.grad(
            loss(reference.out, reference.lse), leaves, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    @interpreted
    def test_the_largest_scores_have_none(self) -> None:
        _, _, max_scores = attend(draw(Q_LEN, KV_LEN))
        assert not max_scores.requires_grad


class TestArithmetic:
    @interpreted
    def test_integers_have_64_bits_where_they_need_them(self) -> None:
        def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return ((q_idx + 1) * 3_000_000_019 + (kv_idx - 7) * 5_000_000_029) % 7 < 4

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + ((kv_idx - 9) * 2**33 // (q_idx - 50)).to(torch.float32) * 2.0**-33

        options = {"mask_mod": mask, "score_mod": score}
        assert_as_the_oracle(draw(Q_LEN, KV_LEN), [options], mask=mask, score=score)

    @pytest.mark.parametrize("offset", [2**33, 2**31 - 30, -(2**40)])
    @interpreted
    def test_so_have_numbers(self, offset: int) -> None:
        """The same program with small numbers is computed in 32 bits."""
        mask, moved = sliding_window(20), shift(sliding_window(20), q=offset, kv=offset)
        for each in (mask, moved):
            assert_as_the_oracle(draw(Q_LEN, KV_LEN), [{"mask_mod": each}], mask=mask)

    @interpreted
    def test_captured_integers_are_read_in_their_type(self) -> None:
        ids = [
            torch.arange(KV_LEN).div(9, rounding_mode="floor").to(dtype)
            for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        ]
        large = ids[4] + 2**40

        def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            same = ids[0][q_idx] == ids[1][kv_idx]
            return (same | (ids[2][kv_idx] > ids[3][q_idx] + 2)) & (large[kv_idx] - large[q_idx] < 5)

        assert_as_the_oracle(draw(Q_LEN, KV_LEN), both_forms(mask), mask=mask)

    @pytest.mark.parametrize("scale", [0.0, -1.5, 3.0])
    @interpreted
    def test_any_scale(self, scale: float) -> None:
        assert_as_the_oracle(
            draw(Q_LEN, KV_LEN), [{"scale": scale, "mask_mod": causal}], scale=scale, mask=causal
        )

    @pytest.mark.parametrize("splits", [1, 3], ids=["walked_once", "split"])
    @interpreted
    def test_a_scale_of_0_makes_all_scores_0(self, splits: int) -> None:
        options = {"scale": 0.0, "kernel_options": {"SPLIT_KV": splits}}
        _, lse, max_scores = attend(draw(Q_LEN, KV_LEN), mask_mod=sees_nothing_early, **options)
        empty = lse == -math.inf
        assert empty[:, :, :18].all()
        assert (max_scores == torch.where(empty, -math.inf, 0.0)).all()

    @pytest.mark.parametrize("shift", [0.0, -3e4], ids=["large", "far_from_zero"])
    @interpreted
    def test_large_scores_overflow_nothing(self, shift: float) -> None:
        """Weights err as much as their scores do: by the last digits of these."""
        leaves = draw(Q_LEN, KV_LEN)

        def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + shift

        meant: dict[str, Any] = {"scale": 40.0, "score": score}
        exact, usual = oracle.attention(*leaves, **meant), low_precision.attention(*leaves, **meant)
        found = attend(leaves, scale=40.0, score_mod=score)
        detached = ([each.detach() for each in results] for results in (found[:2], usual, _results(exact)))
        digits = 16 * max(1.0, float(exact.max_scores.detach().abs().max()))
        low_precision.assert_as_good(*detached, digits=digits)
        low_precision.assert_as_good(
            gradients(found, leaves),
            gradients(usual, leaves),
            gradients(_results(exact), leaves),
            digits=digits,
        )


def _results(reference: oracle.Reference) -> tuple[Tensor, Tensor]:
    return reference.out, reference.lse
