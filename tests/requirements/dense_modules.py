"""Attention modules written out in plain torch and float64, to hold the library's training steps to.

Nothing here knows the library: projections are matrix products, attention is a softmax over a masked matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Parameters = dict[str, Tensor]

RATE = 0.1


def float64_copy(parameters: Parameters) -> Parameters:
    """Leaves of the same numbers in float64."""
    return {name: each.detach().double().clone().requires_grad_() for name, each in parameters.items()}


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Softmax attention over `visible` pairs; a row that sees nothing is 0. All is [B, H, length, D]."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
    scores = torch.where(visible, scores, torch.full_like(scores, -1e30))
    weights = torch.exp(scores - scores.amax(-1, keepdim=True)) * visible
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total) @ value


def multihead(p: Parameters, x: Tensor, visible: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """R0's module: one projection with rows (3, n_heads, d_head), attention, one projection."""
    batch, length, _ = x.shape
    projected = x.double() @ p["in_proj.weight"].T
    if "in_proj.bias" in p:
        projected = projected + p["in_proj.bias"]
    d_head = projected.shape[-1] // (3 * n_heads)
    by_head = projected.view(batch, length, 3, n_heads, d_head).permute(2, 0, 3, 1, 4)
    query, key, value = by_head
    joined = attend(query, key, value, visible).transpose(1, 2).reshape(batch, length, n_heads * d_head)
    return joined @ p["out_proj.weight"].T + p["out_proj.bias"], query, key


def step(parameters: Parameters, loss: Callable[[], Tensor]) -> tuple[Parameters, Parameters]:
    """Gradients, and the parameters after one step of gradient descent."""
    found = torch.autograd.grad(loss(), list(parameters.values()))
    gradients = dict(zip(parameters, found, strict=True))
    stepped = {name: each.detach() - RATE * gradients[name] for name, each in parameters.items()}
    return gradients, stepped


def assert_float32_accuracy(found: Tensor, exact: Tensor) -> None:
    """Hold a float32 result to float64: its error is a few float32 digits of the largest number."""
    assert found.dtype is torch.float32
    assert found.shape == exact.shape
    error = float((found.detach().double() - exact.detach()).abs().max())
    assert error <= 32 * torch.finfo(torch.float32).eps * max(float(exact.detach().abs().max()), 1e-3), error
