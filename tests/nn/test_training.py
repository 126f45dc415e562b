"""Each module trains a step like the same written densely: outputs, gradients and parameters after it.

The dense forms are written here in plain products. In float64 they are the truth; in float32 they tell how
much an ordinary computation errs, of which the modules may err a small multiple.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import low_precision
from saccade import causal, create_block_mask, create_padding_mask
from saccade.nn import (
    FlashAttention,
    MultiheadAttention,
    MultiheadFlexAttention,
    set_attn_implementation,
)

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A module, how it is called, and the same from its parameters alone."""

    module: Callable[[], nn.Module]
    call: Callable[[nn.Module], Tensor]
    dense: Callable[[Parameters], Tensor]


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, factor: Tensor | float, added: Tensor | float
) -> Tensor:
    """Attention [N, H, L, D] with weights 0 wherever not visible; key heads are repeated for their groups."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = query @ key.mT / math.sqrt(query.shape[-1]) * factor + added
    weights = torch.softmax(scores.masked_fill(~visible, -1e30), dim=-1) * visible
    return weights @ value


def heads(tokens: Tensor, n: int) -> Tensor:
    """[N, L, E] -> [N, n, L, E / n]."""
    return tokens.view(*tokens.shape[:2], n, -1).transpose(1, 2)


def merged(apart: Tensor) -> Tensor:
    """[N, H, L, D] -> [N, L, H·D]."""
    return apart.transpose(1, 2).reshape(apart.shape[0], apart.shape[2], -1)


def _random(*shape: int) -> Tensor:
    """Numbers in float64 that are float32 numbers too, the same for a shape at every call."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).double()


# A self-attention under padding: 10 tokens of which the last 3, or 0, are padding

PADS = torch.tensor([[False] * 7 + [True] * 3, [False] * 10])
PADDED_CAUSAL = (
    torch.ones(10, 10, dtype=torch.bool).tril() & ~PADS[:, None, :, None] & ~PADS[:, None, None, :]
)


def call_flex(module: nn.Module) -> Tensor:
    mask = create_block_mask(causal & create_padding_mask(PADS), 2, None, 10, 10, device="cpu")
    return module(_random(2, 10, 12).float(), mask)[0]


def dense_flex(parameters: Parameters) -> Tensor:
    dtype = parameters["in_proj.weight"].dtype
    rows = parameters["in_proj.weight"].view(3, 4, 6, 12)  # (3, n_heads, d_head), d_in
    bias = parameters["in_proj.bias"].view(3, 4, 1, 6)
    query, key, value = (
        torch.einsum("nse,hde->nhsd", _random(2, 10, 12).to(dtype), rows[each]) + bias[each]
        for each in range(3)
    )
    attended = merged(dense_attention(query, key, value, PADDED_CAUSAL, 1.0, 0.0))
    return functional.linear(attended, parameters["out_proj.weight"], parameters["out_proj.bias"])


# FlashAttention has no parameters: here it stands between three that learn, and reads a learned bias

KEPT = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, None, None, :]


class Flash(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = FlashAttention(causal=True)
        self.query = nn.Parameter(_random(2, 3, 4, 8).float())
        self.key = nn.Parameter(_random(2, 3, 6, 8).float())
        self.value = nn.Parameter(_random(2, 3, 6, 5).float())
        self.bias = nn.Parameter(_random(3, 4, 6).float())

    def forward(self) -> Tensor:
        return self.attention(self.query, self.key, self.value, KEPT, self.bias)


def dense_flash(parameters: Parameters) -> Tensor:
    query, key, value, bias = (parameters[name] for name in ("query", "key", "value", "bias"))
    visible = KEPT & torch.ones(4, 6, dtype=torch.bool).tril(diagonal=2)
    return dense_attention(query, key, value, visible, 1.0, bias)


# Grouped heads, of other widths, with added keys, tables and functions


def closer(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score * 1.5 - 0.25 * (q_idx - kv_idx).abs()


def not_third(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return kv_idx != 3


HIDDEN_KEYS = torch.tensor([[False, True, False, False, False, False], [False] * 6])
PENALTY = _random(5, 6).float()


def make_cross() -> nn.Module:
    return MultiheadAttention(
        16, 4, num_kv_heads=2, kdim=9, vdim=7, add_bias_kv=True, add_zero_attn=True, batch_first=True
    )


def call_cross(module: nn.Module) -> Tensor:
    query, key, value = (_random(2, *shape).float() for shape in ((5, 16), (6, 9), (6, 7)))
    out: Tensor = module(
        query,
        key,
        value,
        key_padding_mask=HIDDEN_KEYS,
        attn_mask=PENALTY,
        mask_mod=not_third,
        score_mod=closer,
    )[0]
    return out


def dense_cross(parameters: Parameters) -> Tensor:
    dtype = parameters["q_proj_weight"].dtype
    biases = parameters["in_proj_bias"].split([16, 8, 8])
    query, key, value = (
        heads(functional.linear(_random(2, *shape).to(dtype), parameters[f"{letter}_proj_weight"], bias), n)
        for letter, shape, bias, n in zip("qkv", ((5, 16), (6, 9), (6, 7)), biases, (4, 2, 2), strict=True)
    )
    added = [
        torch.cat(
            [parameters[f"bias_{letter}"].view(1, 2, 1, 4), torch.zeros(1, 2, 1, 4, dtype=dtype)], dim=2
        )
        for letter in "kv"
    ]
    key, value = (
        torch.cat([given, more.expand(2, -1, -1, -1)], dim=2)
        for given, more in zip((key, value), added, strict=True)
    )
    pairs = torch.ones(2, 1, 5, 6, dtype=torch.bool) & ~HIDDEN_KEYS[:, None, None, :]
    pairs[..., 3] = False
    visible = functional.pad(pairs, (0, 2), value=True)
    distance = (torch.arange(5)[:, None] - torch.arange(6)).abs()
    factor = functional.pad(torch.full((5, 6), 1.5, dtype=dtype), (0, 2), value=1.0)
    offset = functional.pad(-0.25 * distance + PENALTY.to(dtype), (0, 2))
    attended = merged(dense_attention(query, key, value, visible, factor, offset))
    return functional.linear(attended, parameters["out_proj.weight"], parameters["out_proj.bias"])


CASES = {
    "MultiheadFlexAttention": Case(
        lambda: MultiheadFlexAttention(12, 24, 4, bias=True), call_flex, dense_flex
    ),
    "FlashAttention": Case(Flash, lambda module: module(), dense_flash),
    "MultiheadAttention": Case(make_cross, call_cross, dense_cross),
}


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_a_module_trains_a_step_like_its_dense_form(name: str, backend: str) -> None:
    case = CASES[name]
    module = case.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that no bias is 0
    set_attn_implementation(module, backend)
    found, independent, exact = (
        _step(module, case.call),
        _dense_step(module, case.dense, torch.float32),
        _dense_step(module, case.dense, torch.float64),
    )
    assert len(found) == 2 + 2 * len(list(module.parameters()))
    low_precision.assert_as_good(found, independent, exact)


def _loss(out: Tensor) -> Tensor:
    """A number in which each entry of the output has its own weight."""
    return (out * _random(*out.shape).to(out.dtype)).sum()


def _step(module: nn.Module, call: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    """Output, gradients, parameters after a step, and output then; `module` itself is left as it is."""
    module = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    before = call(module)
    _loss(before).backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    optimizer.step()
    return [
        before.detach(),
        *gradients,
        *(one.detach() for one in module.parameters()),
        call(module).detach(),
    ]


def _dense_step(module: nn.Module, dense: Callable[[Parameters], Tensor], dtype: torch.dtype) -> list[Tensor]:
    parameters = {
        name: parameter.detach().to(dtype).clone().requires_grad_()
        for name, parameter in module.named_parameters()
    }
    before = dense(parameters)
    gradients = torch.autograd.grad(_loss(before), list(parameters.values()))
    after = {
        name: parameter.detach() - 0.01 * gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
    return [before.detach(), *gradients, *after.values(), dense(after)]
