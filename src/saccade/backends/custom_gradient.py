"""The user's own backward, as an autograd function around a value computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["apply_custom"]

Differentiate = Callable[[Tensor], Sequence[Tensor]]


def apply_custom(value: Tensor, inputs: Sequence[Tensor], differentiate: Differentiate) -> Tensor:
    """Return `value` as a function of `inputs` whose derivative is `differentiate`.

    Args:
        value: The function's value, detached; the inputs broadcast to its shape.
        inputs: What it is a function of.
        differentiate: From the gradient of `value`, the gradient for each input, before broadcasting is
            undone.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> apply_custom(torch.zeros(2), [x], lambda cotangent: [7 * cotangent]).sum().backward()
        >>> x.grad
        tensor([7., 7.])
    """
    result: Tensor = _CustomGradient.apply(value, differentiate, *inputs)  # type: ignore[no-untyped-call]
    return result


class _CustomGradient(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, differentiate: Differentiate, *inputs: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.differentiate, *tensors = inputs
        ctx.shapes = [tensor.shape for tensor in tensors]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None, None]
        computed = ctx.differentiate(cotangent)
        for gradient, shape, wanted in zip(computed, ctx.shapes, ctx.needs_input_grad[2:], strict=True):
            gradients.append(gradient.expand(cotangent.shape).sum_to_size(shape) if wanted else None)
        return tuple(gradients)
