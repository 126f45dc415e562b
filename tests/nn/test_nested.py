"""Nested (jagged) tokens go through modules as each sequence would alone, gradients included."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade import alibi, causal
from saccade.errors import ArgumentError, UnsupportedError
from saccade.nn import (
    FlashAttention,
    MultiheadAttention,
    MultiheadFlexAttention,
    set_attn_implementation,
)

LENGTHS = (3, 6, 1)


def sequences(lengths: tuple[int, ...], width: int) -> list[Tensor]:
    return [torch.randn(length, width) for length in lengths]


def nested(parts: list[Tensor]) -> Tensor:
    return torch.nested.nested_tensor(parts, layout=torch.jagged)


def self_attention(module: Any, tokens: Tensor) -> Tensor:
    out: Tensor = module(tokens, tokens, tokens, mask_mod=causal, score_mod=alibi(4))[0]
    return out


def only_causal(module: Any, tokens: Tensor) -> Tensor:
    out: Tensor = module(tokens, tokens, tokens, is_causal=True)[0]
    return out


def flex(module: Any, tokens: Tensor) -> Tensor:
    out: Tensor = module(tokens, mask_mod=causal, score_mod=alibi(4))[0]
    return out


FORMS: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor]]] = {
    "MultiheadFlexAttention": (MultiheadFlexAttention(16, 24, 4, bias=True), flex),
    "MultiheadAttention": (MultiheadAttention(16, 4, batch_first=True), self_attention),
    "grouped": (MultiheadAttention(16, 4, batch_first=True, num_kv_heads=2), self_attention),
    "is_causal": (MultiheadAttention(16, 4, batch_first=True, bias=False), only_causal),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_sequence_attends_alone(name: str) -> None:
    module, call = FORMS[name]
    parts = sequences(LENGTHS, 16)
    packed = torch.cat(parts).requires_grad_()
    offsets = torch.tensor([0, 3, 9, 10])
    found = call(module, torch.nested.nested_tensor_from_jagged(packed, offsets))
    assert found.is_nested
    assert found.layout is torch.jagged
    alone = [part.clone().requires_grad_() for part in parts]
    plain = copy.deepcopy(module)
    set_attn_implementation(plain, "eager")
    expected = torch.cat([call(plain, part[None])[0] for part in alone])
    torch.testing.assert_close(found.values(), expected)

    weights = torch.randn(expected.shape)
    mine = torch.autograd.grad((found.values() * weights).sum(), [packed, *module.parameters()])
    wanted = torch.autograd.grad((expected * weights).sum(), [*alone, *plain.parameters()])
    torch.testing.assert_close(mine[0], torch.cat(wanted[: len(alone)]))
    for one, other in zip(mine[1:], wanted[len(alone) :], strict=True):
        torch.testing.assert_close(one, other)


def test_queries_and_keys_of_other_lengths() -> None:
    module = MultiheadAttention(16, 4, kdim=6, vdim=10, batch_first=True)
    parts = [sequences(lengths, width) for lengths, width in ((LENGTHS, 16), ((2, 1, 4), 6), ((2, 1, 4), 10))]
    out, _ = module(*(nested(one) for one in parts))
    for found, query, key, value in zip(out.unbind(), *parts, strict=True):
        torch.testing.assert_close(found, module(query, key, value)[0])


# torch warns of this layout whenever it is made.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_the_older_layout_comes_back_as_it_came() -> None:
    module = MultiheadAttention(16, 4, batch_first=True)
    parts = sequences(LENGTHS, 16)
    out, _ = module(*[torch.nested.nested_tensor(parts)] * 3, is_causal=True)
    assert out.layout is torch.strided
    for found, part in zip(out.unbind(), parts, strict=True):
        torch.testing.assert_close(found, module(part, part, part, is_causal=True)[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_the_older_layout_goes_through_self_attention_too() -> None:
    module, parts = MultiheadFlexAttention(16, 24, 4), sequences(LENGTHS, 16)
    results = module(torch.nested.nested_tensor(parts), mask_mod=causal)
    assert {one.layout for one in results} == {torch.strided}
    for *found, part in zip(*(one.unbind() for one in results), parts, strict=True):
        for one, alone in zip(found, module(part[None], mask_mod=causal), strict=True):
            torch.testing.assert_close(one, alone[0])


class TestRefusals:
    def call(self, module: MultiheadAttention, **options: Any) -> None:
        tokens = nested(sequences(LENGTHS, 16))
        module(tokens, tokens, tokens, **options)

    def test_the_batch_second(self) -> None:
        with pytest.raises(
            ArgumentError, match="nested tensors have their batch first, got batch_first=False"
        ):
            self.call(MultiheadAttention(16, 4))

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    @pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
    @pytest.mark.parametrize("first", [True, False])
    def test_some_nested_and_some_not(self, layout: torch.layout, first: bool) -> None:
        module, dense = MultiheadAttention(16, 4, batch_first=True), torch.randn(3, 4, 16)
        tokens = torch.nested.nested_tensor(sequences(LENGTHS, 16), layout=layout)
        text = rf"or none, got query\.is_nested={first}, key\.is_nested={not first}"
        with pytest.raises(ArgumentError, match=text):
            module(*([tokens, dense, dense] if first else [dense, tokens, tokens]))

    @pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
    def test_tables(self, name: str) -> None:
        text = rf"nested tensors take their masks as functions, got {name} of shape \[3, 6\]; .*mask_mod="
        with pytest.raises(UnsupportedError, match=text):
            self.call(MultiheadAttention(16, 4, batch_first=True), **{name: torch.zeros(3, 6)})

    @pytest.mark.parametrize("name", ["add_bias_kv", "add_zero_attn"])
    def test_added_keys(self, name: str) -> None:
        with pytest.raises(
            UnsupportedError, match="nested tensors take no added keys, got some for a module"
        ):
            self.call(MultiheadAttention(16, 4, batch_first=True, **{name: True}))

    def test_flash_attention(self) -> None:
        tokens = nested(sequences(LENGTHS, 16)).unflatten(-1, (2, 8)).transpose(1, 2)
        with pytest.raises(
            UnsupportedError, match="FlashAttention takes dense tensors, got a nested q; call"
        ):
            FlashAttention()(tokens, tokens, tokens)
