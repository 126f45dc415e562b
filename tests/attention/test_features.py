"""What flex_attention has beside mods: sinks, dropout, shared keys, further outputs, empty rows and axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from saccade.attention import AuxOutput, AuxRequest, explain, flex_attention
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import (
    BackendError,
    DivisionByZeroError,
    IndexOutOfRangeError,
    MaskAxisError,
    StaleMaskError,
)
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.ir.program import Program
from saccade.ir.text import parse_structure
from saccade.masks import causal, dense, padding, sliding_window
from saccade.tracing import trace


def tensors(
    batch: int = 2, q_heads: int = 4, kv_heads: int = 2, q_len: int = 5, kv_len: int = 7, dtype=torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((batch, q_heads, q_len, 6), (batch, kv_heads, kv_len, 6), (batch, kv_heads, kv_len, 3))
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return query, key, value


def eager(*args: object, **options: object) -> Tensor:
    return flex_attention(*args, enable_gqa=True, backend="eager", **options)  # type: ignore[arg-type, return-value]


def with_aux(*args: object, **options: object) -> tuple[Tensor, AuxOutput]:
    wanted = AuxRequest(lse=True, max_scores=True, weights=True)
    return flex_attention(*args, enable_gqa=True, backend="eager", return_aux=wanted, **options)  # type: ignore[call-overload]


def sees_nothing_early(b, h, q_idx, kv_idx):
    return (q_idx >= 2) & (kv_idx <= q_idx)


class TestSinks:
    def test_results_and_gradients_equal_the_oracle(self) -> None:
        q, k, v = tensors()
        sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
        out, aux = with_aux(q, k, v, mask_mod=sees_nothing_early, sinks=sinks)
        reference = oracle.attention(q, k, v, mask=sees_nothing_early, sinks=sinks)
        torch.testing.assert_close(out, reference.out)
        torch.testing.assert_close(aux.lse, reference.lse)
        torch.testing.assert_close(aux.max_scores, reference.max_scores)
        torch.testing.assert_close(aux.weights, reference.weights)
        leaves = (q, k, v, sinks)
        mine = torch.autograd.grad(out.square().sum() + aux.lse.sum(), leaves)
        theirs = torch.autograd.grad(reference.out.square().sum() + reference.lse.sum(), leaves)
        torch.testing.assert_close(mine, theirs)

    def test_a_row_that_sees_only_its_sink(self) -> None:
        q, k, v = tensors()
        sinks = torch.tensor([0.5, -1.0, 2.0, -math.inf], dtype=torch.float64)
        out, aux = with_aux(q, k, v, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx < 0, sinks=sinks)
        assert not out.any()
        torch.testing.assert_close(aux.lse, sinks.view(1, 4, 1).expand(2, 4, 5))
        assert aux.max_scores.isneginf().all()

    def test_a_sink_far_above_every_score(self) -> None:
        q, k, v = tensors(dtype=torch.float32)
        sinks = torch.tensor([500.0, -500.0, 90.0, 0.0])
        out, aux = with_aux(q, k, v, sinks=sinks)
        reference = oracle.attention(q, k, v, sinks=sinks)
        torch.testing.assert_close(out, reference.out.float())
        torch.testing.assert_close(aux.lse, reference.lse.float())

    def test_sinks_of_another_precision(self) -> None:
        q, k, v = tensors(dtype=torch.bfloat16)
        sinks = torch.randn(4, dtype=torch.float32, requires_grad=True)
        eager(q, k, v, sinks=sinks).sum().backward()
        assert sinks.grad is not None
        assert sinks.grad.dtype is torch.float32


class TestRowsThatSeeNothing:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_output_lse_and_gradients(self, dtype: torch.dtype) -> None:
        q, k, v = tensors(dtype=dtype)
        out, aux = with_aux(q, k, v, mask_mod=sees_nothing_early)
        assert not out[:, :, :2].any()
        assert aux.lse[:, :, :2].isneginf().all()
        assert aux.max_scores[:, :, :2].isneginf().all()
        assert not aux.weights[:, :, :2].any()
        assert aux.lse[:, :, 2:].isfinite().all()
        gradients = torch.autograd.grad(out.sum() + aux.lse[:, :, 2:].sum(), (q, k, v))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not gradients[0][:, :, :2].any()

    def test_even_the_gradient_of_their_lse_is_zero(self) -> None:
        q, k, v = tensors()
        _, aux = with_aux(q, k, v, mask_mod=sees_nothing_early)
        (gradient,) = torch.autograd.grad(aux.lse, q, torch.ones_like(aux.lse))
        assert not gradient[:, :, :2].any()
        assert gradient.isfinite().all()

    def test_scores_of_minus_infinity_count_as_hidden(self) -> None:
        q, k, v = tensors()

        def score(score, b, h, q_idx, kv_idx):
            return torch.where(sees_nothing_early(b, h, q_idx, kv_idx), score, -math.inf)

        mine, masked = with_aux(q, k, v, score), with_aux(q, k, v, mask_mod=sees_nothing_early)
        torch.testing.assert_close(mine, masked)
        torch.testing.assert_close(
            torch.autograd.grad(mine[0].sum(), (q, k, v)), torch.autograd.grad(masked[0].sum(), (q, k, v))
        )


class TestHiddenPairsHaveNoSay:
    def test_nan_and_infinity_reach_nothing(self) -> None:
        q, k, v = tensors()
        slope = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)

        def score(score, b, h, q_idx, kv_idx):
            # At hidden pairs: the root of a negative number, and 1 / 0.
            return score + slope[h] * torch.sqrt(q_idx - kv_idx) / (kv_idx - q_idx - 1)

        def plain(score, b, h, q_idx, kv_idx):
            distance = (q_idx - kv_idx).clamp(min=0).double()
            return score - slope[h] * torch.where(distance > 0, distance, 1e-300).sqrt() / (distance + 1)

        leaves = (q, k, v, slope)
        mine = eager(q, k, v, score, mask_mod=causal)
        theirs = oracle.attention(q, k, v, mask=causal, score=plain).out
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(
            torch.autograd.grad(mine.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves)
        )

    def test_a_score_divided_by_zero_sends_nothing_back(self) -> None:
        q, k, v = tensors(q_len=5, kv_len=5)

        def per_step(score, b, h, q_idx, kv_idx):
            return score / (q_idx - kv_idx) + torch.sqrt(score.abs())

        def earlier(b, h, q_idx, kv_idx):
            return kv_idx < q_idx

        out = eager(q, k, v, per_step, mask_mod=earlier)
        for gradient in torch.autograd.grad(out.sum(), (q, k, v)):
            assert gradient.isfinite().all()

    def test_an_index_out_of_range_is_read_nowhere(self) -> None:
        q, k, v = tensors(q_len=5, kv_len=5)
        table = torch.arange(5, dtype=torch.float64)

        def score(score, b, h, q_idx, kv_idx):
            return score + table[kv_idx - q_idx + 4]

        def shorter(score, b, h, q_idx, kv_idx):
            return score + table[(kv_idx - q_idx + 4).clamp(max=4)]

        torch.testing.assert_close(
            eager(q, k, v, score, mask_mod=causal), eager(q, k, v, shorter, mask_mod=causal)
        )

    def test_a_block_that_is_given_as_empty_is_not_asked(self) -> None:
        q, k, v = tensors(q_len=4, kv_len=4)
        short = torch.tensor([True, True])
        mask = BlockMask.from_kv_blocks(
            torch.tensor([[[1, 1]]]),
            torch.tensor([[[[0, 1], [0, 1]]]]),
            BLOCK_SIZE=2,
            mask_mod=lambda b, h, q_idx, kv_idx: short[kv_idx],
        )
        first_two = torch.tensor([[True, True, False, False]]).expand(4, 4)
        torch.testing.assert_close(eager(q, k, v, block_mask=mask), eager(q, k, v, mask_mod=dense(first_two)))


class TestPoisonThatCounts:
    def test_the_score_of_a_visible_pair(self) -> None:
        q, k, v = tensors(q_len=5, kv_len=5)
        table = torch.zeros(3)
        with pytest.raises(
            IndexOutOfRangeError, match=r"table has 3 entries.*index 3.*b=0, h=0, q_idx=3, kv_idx=0"
        ):
            eager(q, k, v, lambda score, b, h, q_idx, kv_idx: score + table[q_idx], mask_mod=causal)

    def test_the_mask_of_a_pair(self) -> None:
        q, k, v = tensors()
        table = torch.ones(5, dtype=torch.bool)
        with pytest.raises(IndexOutOfRangeError, match=r"table has 5 entries.*kv_idx=5"):
            eager(q, k, v, mask_mod=lambda b, h, q_idx, kv_idx: table[kv_idx])

    def test_a_partial_block_that_was_given(self) -> None:
        q, k, v = tensors(q_len=4, kv_len=4)
        short = torch.tensor([True, True])
        mask = BlockMask.from_kv_blocks(
            torch.tensor([[[2, 1]]]),
            torch.tensor([[[[0, 1], [0, 1]]]]),
            BLOCK_SIZE=2,
            mask_mod=lambda b, h, q_idx, kv_idx: short[kv_idx],
        )
        with pytest.raises(IndexOutOfRangeError, match=r"short has 2 entries.*q_idx=0, kv_idx=2"):
            eager(q, k, v, block_mask=mask)

    def test_division_by_zero(self) -> None:
        q, k, v = tensors()
        with pytest.raises(DivisionByZeroError, match="divisor"):
            eager(q, k, v, lambda score, b, h, q_idx, kv_idx: score + q_idx // kv_idx)


class TestMasksTogether:
    def test_block_mask_and_mask_mod_both_hold(self) -> None:
        q, k, v = tensors(q_len=7)
        block_mask = create_block_mask(causal, None, None, 7, 7, device="cpu", BLOCK_SIZE=2)
        both = eager(q, k, v, block_mask=block_mask, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx > q_idx - 3)
        torch.testing.assert_close(both, eager(q, k, v, mask_mod=sliding_window(3)))

    def test_given_blocks_are_the_truth(self) -> None:
        """The mod of a full block is not asked, that of a partial one is."""
        q, k, v = tensors(q_len=4, kv_len=4)
        mask = BlockMask.from_kv_blocks(
            torch.tensor([[[0, 1]]]),
            torch.tensor([[[[0, 1], [1, 0]]]]),
            torch.tensor([[[1, 1]]]),
            torch.tensor([[[[1, 0], [0, 1]]]]),
            BLOCK_SIZE=2,
            mask_mod=causal,
        )
        shown = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
        torch.testing.assert_close(eager(q, k, v, block_mask=mask), eager(q, k, v, mask_mod=dense(shown)))

    def test_given_blocks_hide_even_without_a_mod(self) -> None:
        q, k, v = tensors(q_len=4, kv_len=4)
        mask = BlockMask.from_kv_blocks(
            torch.tensor([[[1, 1]]]), torch.tensor([[[[1, 0], [0, 1]]]]), BLOCK_SIZE=2
        )
        out = eager(q, k, v, block_mask=mask)
        across = eager(q, k, v, mask_mod=lambda b, h, q_idx, kv_idx: q_idx // 2 != kv_idx // 2)
        torch.testing.assert_close(out, across)

    def test_torchs_block_mask(self) -> None:
        q, k, v = tensors(q_len=7)
        mask = create_block_mask(causal, None, None, 7, 7, device="cpu", BLOCK_SIZE=2)
        torch.testing.assert_close(
            eager(q, k, v, block_mask=mask.to_torch()), eager(q, k, v, block_mask=mask)
        )

    def test_programs_are_taken_for_mods(self) -> None:
        q, k, v = tensors()

        def score(score, b, h, q_idx, kv_idx):
            return 2 * score

        torch.testing.assert_close(
            eager(q, k, v, trace(score), mask_mod=trace(causal)), eager(q, k, v, score, mask_mod=causal)
        )

    def test_a_program_of_numpy_arrays(self) -> None:
        q, k, v = tensors()
        structure = parse_structure("score(c0: f32[1]) -> f64\nscore + f64(c0[kv_idx])")
        table = np.arange(7, dtype=np.float32)
        out = eager(q, k, v, Program(structure, (table,)))
        torch.testing.assert_close(out, eager(q, k, v, lambda score, b, h, q_idx, kv_idx: score + kv_idx))

    def test_a_changed_closure_is_seen(self) -> None:
        q, k, v = tensors()
        window = 2

        def mask(b, h, q_idx, kv_idx):
            return kv_idx < window

        before = eager(q, k, v, mask_mod=mask)
        window = 3
        assert not torch.equal(before, eager(q, k, v, mask_mod=mask))

    def test_a_stale_block_mask(self) -> None:
        q, k, v = tensors()
        keep = torch.ones(7, dtype=torch.bool)
        mask = create_block_mask(lambda b, h, q_idx, kv_idx: keep[kv_idx], None, None, 5, 7, device="cpu")
        keep[3] = False
        with pytest.raises(StaleMaskError, match="keep"):
            eager(q, k, v, block_mask=mask)

    def test_a_mask_of_another_batch(self) -> None:
        q, k, v = tensors()
        lengths = torch.tensor([3, 4, 5])
        mask = create_block_mask(padding(lengths=lengths), 3, None, 5, 7, device="cpu")
        with pytest.raises(MaskAxisError, match="B=3"):
            eager(q, k, v, block_mask=mask)


class TestDropout:
    def test_follows_the_seed_and_the_stream(self) -> None:
        q, k, v = tensors()
        torch.manual_seed(5)
        out, aux = with_aux(q, k, v, mask_mod=causal, dropout_p=0.4)
        torch.manual_seed(5)
        seed = int(torch.randint(2**63 - 1, ()))
        b_h, rows = torch.arange(8).view(2, 4, 1, 1).numpy(), torch.arange(5).view(5, 1).numpy()
        keep = torch.from_numpy(keep_mask(seed, 0.4, b_h, rows, torch.arange(7).numpy()))
        reference = oracle.attention(q, k, v, mask=causal, keep=keep, keep_rate=keep_rate(0.4))
        torch.testing.assert_close(out, reference.out)
        torch.testing.assert_close(aux.lse, reference.lse)
        assert torch.equal(aux.weights != 0, keep & (reference.weights != 0))
        torch.testing.assert_close(
            torch.autograd.grad(out.square().sum(), (q, k, v)),
            torch.autograd.grad(reference.out.square().sum(), (q, k, v)),
        )

    def test_drops_as_many_as_it_says_and_keeps_the_mean(self) -> None:
        q, k, v = tensors(batch=1, q_heads=2, kv_heads=2, q_len=128, kv_len=512, dtype=torch.float32)
        with torch.no_grad():
            _, plain = with_aux(q, k, v)
            _, dropped = with_aux(q, k, v, dropout_p=0.25)
        part = float((dropped.weights == 0).double().mean())
        deviation = math.sqrt(0.25 * 0.75 / dropped.weights.numel())
        assert abs(part - 0.25) < 5 * deviation
        assert abs(float(dropped.weights.sum() / plain.weights.sum()) - 1) < 0.02

    def test_explaining_and_refusing_draw_nothing(self) -> None:
        q, k, v = tensors()
        before = torch.get_rng_state()
        explain(q, k, v, enable_gqa=True, dropout_p=0.5)
        with pytest.raises(BackendError, match="random stream"):
            flex_attention(q, k, v, enable_gqa=True, dropout_p=0.5, backend="sdpa")
        assert torch.equal(before, torch.get_rng_state())

    def test_two_calls_differ_and_everything_may_go(self) -> None:
        q, k, v = tensors()
        assert not torch.equal(eager(q, k, v, dropout_p=0.5), eager(q, k, v, dropout_p=0.5))
        gone = eager(q, k, v, dropout_p=1.0)
        assert not gone.any()
        assert not any(gradient.any() for gradient in torch.autograd.grad(gone.sum(), (q, k, v)))


class TestShapes:
    def test_keys_that_every_batch_shares(self) -> None:
        q, k, v = tensors()
        k, v = k[:1], v[:1]
        mine = eager(q, k, v, mask_mod=causal)
        reference = oracle.attention(q, k, v, mask=causal).out
        torch.testing.assert_close(mine, reference)
        torch.testing.assert_close(
            torch.autograd.grad(mine.square().sum(), (k, v)),
            torch.autograd.grad(reference.square().sum(), (k, v)),
        )

    def test_no_keys(self) -> None:
        q, k, v = tensors(kv_len=0)
        out, aux = with_aux(q, k, v, mask_mod=causal)
        assert out.shape == (2, 4, 5, 3)
        assert not out.any()
        assert aux.lse.isneginf().all()
        assert not torch.autograd.grad(out.sum(), q)[0].any()

    @pytest.mark.parametrize("sizes", [{"q_len": 0}, {"batch": 0}], ids=str)
    def test_no_queries(self, sizes: dict[str, int]) -> None:
        q, k, v = tensors(**sizes)
        out = eager(q, k, v, lambda score, b, h, q_idx, kv_idx: score + q_idx, mask_mod=causal)
        assert out.shape == (*q.shape[:3], 3)
        out.sum().backward()

    def test_the_output_lies_like_the_query(self) -> None:
        projected = torch.randn(2, 5, 4, 6).transpose(1, 2)
        _, k, v = tensors(dtype=torch.float32)
        for backend in ("eager", "sdpa"):
            out = flex_attention(projected, k, v, enable_gqa=True, backend=backend)
            assert out.transpose(1, 2).is_contiguous()
            plain = flex_attention(projected.contiguous(), k, v, enable_gqa=True, backend=backend)
            assert plain.is_contiguous()


class TestReturns:
    def test_each_form(self) -> None:
        q, k, v = tensors()
        out = eager(q, k, v)
        pair = flex_attention(q, k, v, enable_gqa=True, return_lse=True)
        torch.testing.assert_close(pair[0], out)
        assert pair[1].shape == (2, 4, 5)
        assert flex_attention(q, k, v, enable_gqa=True, return_aux=AuxRequest(lse=True))[1].max_scores is None
        _, nothing = flex_attention(q, k, v, enable_gqa=True, return_aux=AuxRequest())
        assert nothing == AuxOutput()

    def test_torchs_own_request(self) -> None:
        from torch.nn.attention.flex_attention import AuxRequest as TorchAuxRequest

        q, k, v = tensors()
        _, aux = flex_attention(q, k, v, enable_gqa=True, return_aux=TorchAuxRequest(max_scores=True))
        assert aux.lse is None
        assert aux.max_scores is not None
        assert aux.weights is None

    def test_max_scores_have_no_gradient(self) -> None:
        q, k, v = tensors()
        assert not with_aux(q, k, v)[1].max_scores.requires_grad

    def test_types(self) -> None:
        q, k, v = tensors(dtype=torch.bfloat16)
        out, aux = with_aux(q, k, v)
        assert (out.dtype, aux.lse.dtype, aux.max_scores.dtype) == (
            torch.bfloat16,
            torch.float32,
            torch.float32,
        )
        assert aux.weights.dtype is torch.bfloat16

    def test_weights_times_values_are_the_output(self) -> None:
        q, k, v = tensors(kv_heads=4)
        out, aux = with_aux(q, k, v, mask_mod=causal, dropout_p=0.3)
        torch.testing.assert_close(aux.weights @ v, out)


class TestAutocast:
    def test_casts_as_torch_does_and_accumulates_in_float32(self) -> None:
        q, k, v = tensors(dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, aux = with_aux(q, k.bfloat16(), v)
        half = with_aux(q.bfloat16(), k.bfloat16(), v.bfloat16())
        assert out.dtype is torch.bfloat16
        torch.testing.assert_close((out, aux), half, rtol=0, atol=0)

    def test_leaves_float64_alone(self) -> None:
        q, k, v = tensors()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert eager(q, k, v).dtype is torch.float64


class TestGradcheck:
    def test_everything_at_once(self) -> None:
        q, k, v = tensors(batch=1, q_heads=2, kv_heads=1, q_len=3, kv_len=4)
        slope = torch.randn(2, dtype=torch.float64, requires_grad=True)
        temperature = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)

        def attend(q, k, v, slope, temperature, sinks):
            def score(score, b, h, q_idx, kv_idx):
                return torch.tanh(score * temperature) + slope[h] * (kv_idx - q_idx)

            out, aux = with_aux(q, k, v, score, mask_mod=causal, sinks=sinks)
            return out, aux.lse, aux.weights

        assert torch.autograd.gradcheck(attend, (q, k, v, slope, temperature, sinks))

    def test_twice(self) -> None:
        q, k, v = tensors(batch=1, q_heads=1, kv_heads=1, q_len=2, kv_len=3)
        assert torch.autograd.gradgradcheck(lambda *inputs: eager(*inputs, mask_mod=causal), (q, k, v))

    def test_a_score_that_is_forgotten_still_has_a_gradient(self) -> None:
        q, k, v = tensors()
        out = eager(q, k, v, lambda score, b, h, q_idx, kv_idx: kv_idx * 0.1)
        assert not torch.autograd.grad(out.sum(), q)[0].any()

    def test_a_users_own_backward(self) -> None:
        class Straight(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.floor(x)

            @staticmethod
            def backward(ctx, grad):
                return 3 * grad

        q, k, v = tensors()
        rounded = eager(q, k, v, lambda score, b, h, q_idx, kv_idx: Straight.apply(score))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(2, 1)) / math.sqrt(6)
        by_hand = torch.softmax(Straight.apply(scores), -1) @ v.repeat_interleave(2, 1)
        torch.testing.assert_close(rounded, by_hand)
        torch.testing.assert_close(
            torch.autograd.grad(rounded.square().sum(), (q, k)),
            torch.autograd.grad(by_hand.square().sum(), (q, k)),
        )


@st.composite
def drawn_calls(draw: st.DrawFn) -> dict[str, object]:
    """Shapes, strides, head groups, block sizes and a window: everything that is not a mod's content."""
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    q_len, kv_len = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator("cpu").manual_seed(draw(st.integers(0, 1000)))

    def tensor(batch: int, heads: int, length: int, width: int) -> Tensor:
        order = draw(st.permutations(range(4)))
        shape = (batch, heads, length, width)
        made = torch.randn([shape[dim] for dim in order], generator=generator, dtype=torch.float64)
        return made.permute(*sorted(range(4), key=order.__getitem__)).requires_grad_()

    kv_batch = draw(st.sampled_from((1, batch)))
    return {
        "query": tensor(batch, kv_heads * group, q_len, 4),
        "key": tensor(kv_batch, kv_heads, kv_len, 4),
        "value": tensor(kv_batch, kv_heads, kv_len, draw(st.integers(1, 5))),
        "scale": draw(st.sampled_from((None, 0.0, -1.5, 3))),
        "sinks": torch.randn(kv_heads * group, dtype=torch.float64) if draw(st.booleans()) else None,
        "window": draw(st.integers(0, 9)),
        "offset": draw(st.integers(-9, 9)),
        "block": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
    }


@given(drawn_calls())
def test_any_call_equals_the_oracle(call: dict[str, Any]) -> None:
    q, k, v, sinks = call["query"], call["key"], call["value"], call["sinks"]
    window, offset = call["window"], call["offset"]

    def mask(b, h, q_idx, kv_idx):
        distance = q_idx + offset - kv_idx
        return (distance >= -h) & (distance < window)

    blocks = create_block_mask(
        mask, None, q.shape[1], q.shape[2], k.shape[2], device="cpu", BLOCK_SIZE=call["block"]
    )
    out, aux = with_aux(q, k, v, block_mask=blocks, scale=call["scale"], sinks=sinks)
    reference = oracle.attention(q, k, v, mask=mask, scale=call["scale"], sinks=sinks)
    torch.testing.assert_close((out, aux.lse), (reference.out, reference.lse))
    mine = torch.autograd.grad(out.square().sum(), (q, k, v))
    theirs = torch.autograd.grad(reference.out.square().sum(), (q, k, v))
    torch.testing.assert_close(mine, theirs)
