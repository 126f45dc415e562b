"""A cheap hyperbolic tangent: seven multiplications, a division, and a derivative of its own.

Owns what "approximate" means, to the digit, for every engine. It is written in plain operations and not
registered as an operator, so that a traced mod holds them, kernels inline them, and torch's compiler fuses
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["approximate_tanh"]

_LIMIT = 4.97  # the quotient reaches 1 a little later, at 4.9718


def approximate_tanh(x: Tensor) -> Tensor:
    """Compute tanh by a quotient of polynomials, within 1e-4 of it, absolute and relative.

    With x held between -4.97 and 4.97, it is the convergent of Lambert's continued fraction::

        x (135135 + 17325 x^2 + 378 x^4 + x^6) / (135135 + 62370 x^2 + 3150 x^4 + 28 x^6)

    It grows with x, is odd, and stays between -1 and 1. A GPU's own instruction, `tanh.approx.f32`, is within
    2^-11. The derivative handed to autograd is 1 - y^2, of the value y computed here.

    Args:
        x: Floating tensor, or a traced value.

    Returns:
        The values, in x's dtype and shape.

    Example:
        >>> approximate_tanh(torch.tensor([-100.0, 0.0, 0.5, 4.0]))
        tensor([-1.0000,  0.0000,  0.4621,  0.9993])
    """
    value: Tensor = _ApproximateTanh.apply(x)  # type: ignore[no-untyped-call]
    return value


class _ApproximateTanh(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        x = torch.clamp(x, -_LIMIT, _LIMIT)
        square = x * x
        # Both divided by 135135, so that half types hold the coefficients.
        above = 1 + square * (5 / 39 + square * (2 / 715 + square * (1 / 135135)))
        below = 1 + square * (6 / 13 + square * (10 / 429 + square * (4 / 19305)))
        return x * above / below

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        gradient: Tensor = cotangent * (1 - value * value)
        return gradient
