"""The oracle agrees with torch's own attentions, and gives what they do not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import scaled_dot_product_attention

import oracle
from catalogue import SCORE_CASES, Sizes
from saccade.masks import causal, noop_mask, or_masks, sliding_window


def inputs(
    q_len: int, kv_len: int, heads: tuple[int, int] = (2, 2), value_dim: int = 8, batch: int = 2
) -> list[Tensor]:
    shapes = [(heads[0], q_len, 8), (heads[1], kv_len, 8), (heads[1], kv_len, value_dim)]
    return [torch.randn(batch, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def late_rows_see_nothing(b, h, q_idx, kv_idx):
    return (q_idx < 3) & (q_idx >= kv_idx)


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_equals_sdpa(heads, scale):
    q, k, v = inputs(5, 7, heads, value_dim=6)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    out = oracle.attention(q, k, v, mask=causal, scale=scale).out
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, [q, k, v], weight), torch.autograd.grad(expected, [q, k, v], weight)
    )


@pytest.fixture
def torch_gives_gradients_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch refuses inputs that want a gradient on the CPU, though its dense fallback gives them.
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_warn_once", lambda *args, **kwargs: None)


@pytest.mark.usefixtures("torch_gives_gradients_on_cpu")
@pytest.mark.parametrize("case", [case for case in SCORE_CASES if case.torch_forward], ids=str)
def test_it_equals_torchs_flex_attention(case):
    mods = case.build(Sizes(6, 7))
    q, k, v = inputs(6, 7)
    block_mask = None
    if mods.mask is not None:
        block_mask = torch_flex.create_block_mask(mods.mask, 2, 2, 6, 7, device="cpu", BLOCK_SIZE=4)
    expected, lse = torch_flex.flex_attention(q, k, v, mods.score, block_mask, return_lse=True)
    made = oracle.attention(q, k, v, mask=mods.mask, score=mods.score, pairwise=case.pairwise)
    # A slope that the user computes in float32 is no more exact than that, and neither is torch's lse.
    torch.testing.assert_close(made.out, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.lse, lse.double(), rtol=1e-6, atol=1e-6)
    if not case.torch_backward:
        return
    leaves, weight = [q, k, v, *mods.learned.values()], torch.randn_like(expected)
    mine, theirs = (torch.autograd.grad(out, leaves, weight) for out in (made.out, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_rows_that_see_nothing_give_zero_and_no_gradient():
    q, k, v = inputs(5, 4)
    made = oracle.attention(q, k, v, mask=late_rows_see_nothing)
    assert not made.out[:, :, 3:].any()
    assert not made.weights[:, :, 3:].any()
    assert (made.lse[:, :, 3:] == -math.inf).all()
    assert (made.max_scores[:, :, 3:] == -math.inf).all()
    gradients = torch.autograd.grad(made.out.sum() + made.lse[:, :, :3].sum(), [q, k, v])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][:, :, 3:].any()


def test_scores_of_minus_infinity_hide_as_a_mask_does():
    q, k, v = inputs(5, 4)
    hidden = oracle.attention(q, k, v, mask=late_rows_see_nothing)
    lowered = oracle.attention(
        q,
        k,
        v,
        score=lambda s, b, h, q_idx, kv_idx: torch.where(
            late_rows_see_nothing(b, h, q_idx, kv_idx), s, -math.inf
        ),
    )
    for mine, yours in zip(vars(hidden).values(), vars(lowered).values(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=0)


def test_a_sink_is_a_key_without_a_value():
    q, k, v = inputs(5, 4)
    sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)
    made = oracle.attention(q, k, v, mask=late_rows_see_nothing, sinks=sinks)
    # The same as one more key, seen by all, whose score is the sink and whose value is 0.
    scores = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(
        ~oracle.visible_pairs(late_rows_see_nothing, 2, 2, 5, 4), -math.inf
    )
    scores = torch.cat([scores, sinks[:, None, None].expand(2, 2, 5, 1)], dim=-1)
    weights = scores.softmax(dim=-1)[..., :-1]
    torch.testing.assert_close(made.weights, weights)
    torch.testing.assert_close(made.out, weights @ v)
    torch.testing.assert_close(made.lse, scores.logsumexp(dim=-1))
    assert torch.equal(made.lse[:, :, 3:], sinks[:, None].expand(2, 2, 2))
    assert torch.equal(made.max_scores, oracle.attention(q, k, v, mask=late_rows_see_nothing).max_scores)


def test_dropout_leaves_the_weights_it_is_told_to():
    q, k, v = inputs(5, 4)
    keep = torch.rand(2, 2, 5, 4) < 0.5
    made = oracle.attention(q, k, v, mask=causal, keep=keep, keep_rate=0.5)
    torch.testing.assert_close(made.out, (made.weights * keep * 2) @ v)
    torch.testing.assert_close(made.weights, oracle.attention(q, k, v, mask=causal).weights)


def test_keys_of_one_batch_entry_serve_all():
    q, _, _ = inputs(5, 4, batch=3)
    _, k, v = inputs(5, 4, batch=1)
    made = oracle.attention(q, k, v)
    repeated = oracle.attention(q, k.repeat(3, 1, 1, 1), v.repeat(3, 1, 1, 1))
    assert torch.equal(made.out, repeated.out)
    assert torch.autograd.grad(made.out.sum(), k)[0].shape == (1, 2, 4, 8)


def test_pair_by_pair_is_the_same():
    q, k, v = inputs(5, 4)

    def score(s, b, h, q_idx, kv_idx):
        return s * 0.5 + (kv_idx - q_idx) * h

    together = oracle.attention(q, k, v, mask=sliding_window(2), score=score)
    apart = oracle.attention(q, k, v, mask=sliding_window(2), score=score, pairwise=True)
    torch.testing.assert_close(together.out, apart.out, rtol=1e-14, atol=1e-14)


def test_pair_by_pair_a_hidden_pair_has_no_say():
    q, k, v = inputs(4, 4)
    table = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def score(s, b, h, q_idx, kv_idx):
        return s + table[q_idx - kv_idx]

    with pytest.raises(IndexError, match="out of"):
        oracle.attention(q, k, v, mask=sliding_window(3), score=score)
    made = oracle.attention(q, k, v, mask=sliding_window(3), score=score, pairwise=True)
    assert torch.autograd.grad(made.out.sum(), table)[0].isfinite().all()


def test_its_gradients_are_those_of_finite_differences():
    q, k, v = inputs(3, 4, (2, 1), value_dim=3, batch=1)
    sinks, slope = (torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def run(q, k, v, sinks, slope):
        def score(s, b, h, q_idx, kv_idx):
            return torch.tanh(s) + slope[h] * (kv_idx - q_idx)

        made = oracle.attention(q, k, v, mask=causal, score=score, sinks=sinks)
        return made.out, made.lse, made.weights

    assert gradcheck(run, (q, k, v, sinks, slope))


def test_inputs_of_any_dtype_give_float64():
    q, k, v = (
        torch.randn(1, 2, 4, 8, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
    made = oracle.attention(q, k, v, mask=noop_mask)
    assert {tensor.dtype for tensor in vars(made).values()} == {torch.float64}
    assert not oracle.attention(q, k, v, mask=or_masks()).out.any()
