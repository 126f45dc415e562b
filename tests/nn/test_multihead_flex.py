"""MultiheadFlexAttention: shapes, layout of the projection and padding (requirements R0)."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

import oracle
from saccade import (
    alibi,
    and_masks,
    causal,
    create_block_mask,
    create_padding_mask,
    sliding_window,
)
from saccade.errors import ArgumentError, ArgumentTypeError, ShapeError
from saccade.nn import MultiheadAttention, MultiheadFlexAttention


class Plain(nn.Module):
    """The same as the text writes it: one projection, viewed as (3, n_heads, d_head)."""

    def __init__(self, d_in: int, d_out: int, n_heads: int, bias: bool = False) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj = nn.Linear(d_in, 3 * d_out, bias=bias)
        self.out_proj = nn.Linear(d_out, d_out)

    def forward(self, x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = x.shape
        projected = self.in_proj(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        attended = oracle.attention(query, key, value, mask=lambda b, h, q, k: visible[b, h, q, k]).out
        return self.out_proj(attended.float().transpose(1, 2).flatten(-2)), query, key


@pytest.fixture
def padded() -> tuple[Tensor, Tensor]:
    """The text's sequence: ten tokens of 64 numbers, the last three zero vectors; and which those are."""
    tokens = torch.randn(1, 10, 64)
    tokens[:, 7:] = 0.0
    pads = (tokens == 0.0).all(dim=-1)
    assert pads.tolist() == [[False] * 7 + [True] * 3]
    return tokens, pads


class TestThePaddedSequence:
    def test_results_are_those_of_the_plain_module(self, padded: tuple[Tensor, Tensor]) -> None:
        tokens, pads = padded
        plain, ours = Plain(64, 64, 8), MultiheadFlexAttention(64, 64, 8)
        ours.load_state_dict(plain.state_dict(), strict=True)
        mask = create_block_mask(
            and_masks(causal, create_padding_mask(pads)), 1, None, 10, 10, device="cpu", _compile=False
        )
        out, queries, keys = ours(tokens, mask)
        visible = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
        visible[..., :7, :7] = torch.ones(7, 7).tril().bool()
        expected = plain(tokens, visible.expand(1, 8, 10, 10))
        assert [one.shape for one in (out, queries, keys)] == [(1, 10, 64), (1, 8, 10, 8), (1, 8, 10, 8)]
        for found, wanted in zip((out, queries, keys), expected, strict=True):
            torch.testing.assert_close(found, wanted)

    def test_padded_queries_get_attention_0_and_no_gradient(self, padded: tuple[Tensor, Tensor]) -> None:
        tokens, pads = padded
        module = MultiheadFlexAttention(64, 64, 8)
        mask = create_block_mask(causal & create_padding_mask(pads), 1, None, 10, 10, device="cpu")
        tokens = tokens.requires_grad_()
        out, _, _ = module(tokens, mask)
        assert torch.equal(out[0, 7:], module.out_proj.bias.expand(3, -1))
        out.sum().backward()
        assert tokens.grad is not None
        assert torch.equal(tokens.grad[0, 7:], torch.zeros(3, 64))
        assert all(not one.grad.isnan().any() for one in module.parameters() if one.grad is not None)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 300)])
@pytest.mark.parametrize("bias", [False, True])
def test_any_batch_and_any_length(shape: tuple[int, int], bias: bool) -> None:
    batch, length = shape
    plain, ours = Plain(12, 24, 4, bias), MultiheadFlexAttention(12, 24, 4, bias)
    ours.load_state_dict(plain.state_dict(), strict=True)
    tokens = torch.randn(batch, length, 12)
    mask = create_block_mask(causal, None, None, length, length, device="cpu")
    visible = torch.ones(length, length).tril().bool().expand(batch, 4, -1, -1)
    torch.testing.assert_close(ours(tokens, mask)[0], plain(tokens, visible)[0])


def test_functions_do_without_a_block_mask_or_beside_it() -> None:
    module, tokens = MultiheadFlexAttention(12, 24, 4), torch.randn(2, 9, 12)
    out, queries, keys = module(tokens, mask_mod=sliding_window(3), score_mod=alibi(4))
    values = module.in_proj(tokens)[..., 48:].view(2, 9, 4, 6).transpose(1, 2)
    attended = oracle.attention(queries, keys, values, mask=sliding_window(3), score=alibi(4)).out
    expected = module.out_proj(attended.float().transpose(1, 2).flatten(-2))
    torch.testing.assert_close(out, expected)
    mask = create_block_mask(sliding_window(3), None, None, 9, 9, device="cpu")
    both, _, _ = module(tokens, mask, mask_mod=causal, score_mod=alibi(4))
    torch.testing.assert_close(both, out)


def test_a_block_mask_of_torch_is_taken() -> None:
    module, tokens = MultiheadFlexAttention(12, 24, 4), torch.randn(2, 9, 12)
    mask = create_block_mask(causal, None, None, 9, 9, device="cpu")
    torch.testing.assert_close(module(tokens, mask.to_torch())[0], module(tokens, mask)[0])
    annotated = inspect.signature(MultiheadFlexAttention.forward).parameters["block_mask"].annotation
    assert annotated == inspect.signature(MultiheadAttention.forward).parameters["block_mask"].annotation


class TestAttributes:
    def test_they_are_the_texts(self) -> None:
        module = MultiheadFlexAttention(6, 8, 4)
        assert (module.n_heads, module.d_head) == (4, 2)
        assert module.in_proj.weight.shape == (24, 6)
        assert module.in_proj.bias is None
        assert module.out_proj.bias is not None
        assert MultiheadFlexAttention(6, 8, 4, True).in_proj.bias.shape == (24,)

    def test_dtype_and_device_are_those_asked_for(self) -> None:
        module = MultiheadFlexAttention(6, 8, 4, True, device="meta", dtype=torch.bfloat16)
        assert {(one.device.type, one.dtype) for one in module.parameters()} == {("meta", torch.bfloat16)}


class TestRefusals:
    def test_heads_must_divide_the_width(self) -> None:
        text = r"d_out must be a multiple of n_heads, got d_out=64 and n_heads=7"
        with pytest.raises(ValueError, match=text) as caught:
            MultiheadFlexAttention(64, 64, 7)
        assert isinstance(caught.value, ArgumentError)

    def test_sizes_must_be_positive_integers(self) -> None:
        with pytest.raises(
            ArgumentError, match=r"MultiheadFlexAttention\(\): n_heads must be at least 1, got 0"
        ):
            MultiheadFlexAttention(64, 64, 0)
        with pytest.raises(ArgumentTypeError, match=r"d_in must be an integer, got float 64.0"):
            MultiheadFlexAttention(64.0, 64, 8)  # type: ignore[arg-type]

    def test_tokens_must_fit(self) -> None:
        module = MultiheadFlexAttention(6, 8, 4)
        with pytest.raises(ShapeError, match=r"x must be \[B, S, d_in\] with d_in=6, got shape=\[2, 5, 8\]$"):
            module(torch.randn(2, 5, 8))
        with pytest.raises(ArgumentTypeError, match="x must be a torch tensor, got NoneType"):
            module(None)
        with pytest.raises(ShapeError, match=r"got shape=\[5, 6\]; add the batch axis with x\[None\]"):
            module(torch.randn(5, 6))

    def test_the_mask_must_fit(self) -> None:
        mask = create_block_mask(causal, None, None, 10, 10, device="cpu")
        with pytest.raises(ShapeError, match="the block_mask is for q_len=10 and kv_len=10"):
            MultiheadFlexAttention(6, 8, 4)(torch.randn(1, 9, 6), mask)
