"""Gradients, inside an operator, of kernels that are made of torch's operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from saccade.backends.base import Gradients, Kernel, Operands, Results
from saccade.backends.layout import like_query
from saccade.ir.program import Array
from saccade.problem import Wanted

__all__ = ["Recomputing"]

_KEYS = torch._C.DispatchKey
# What an operator's kernel runs below, and autograd needs.
_EXCLUDED = (
    _KEYS.AutogradFunctionality,
    _KEYS.AutogradOther,
    _KEYS.AutogradNestedTensor,
    _KEYS.ADInplaceOrView,
)


@final
@dataclass(frozen=True)
class Recomputing:
    """What differentiates a kernel by running it again; see `BackwardKernel`.

    Attributes:
        kernel: The kernel; it returns lse.
    """

    kernel: Kernel

    def __call__(
        self,
        operands: Operands,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        wanted: Wanted,
    ) -> Gradients:
        """Compute gradients."""
        with _recording():
            query, key, value = (_leaf(one) for one in (operands.query, operands.key, operands.value))
            sinks = None if operands.sinks is None else _leaf(operands.sinks)
            score = operands.score
            captures = () if score is None else tuple([_captured(one) for one in score.captures])
            if score is not None:
                score = replace(score, captures=captures)
            again = replace(operands, query=query, key=key, value=value, sinks=sinks, score=score)
            results = self.kernel(again)
            read = wanted.captures or (False,) * len(captures)
            flags = (wanted.query, wanted.key, wanted.value, wanted.sinks, *read)
            leaves = (query, key, value, sinks, *captures)
            asked = [
                leaf for leaf, flag in zip(leaves, flags, strict=True) if flag and isinstance(leaf, Tensor)
            ]
            found = iter(_gradients(results, grad_out, grad_lse, asked))
        of_query, *others = [next(found) if flag else None for flag in flags]
        of_key, of_value, of_sinks, *of_captures = [
            None if one is None else one.contiguous() for one in others
        ]
        of_query = None if of_query is None else like_query(of_query, query)
        return Gradients(of_query, of_key, of_value, of_sinks, tuple(of_captures))


@contextmanager
def _recording() -> Iterator[None]:
    with ExitStack() as stack:
        for key in _EXCLUDED:
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        stack.enter_context(torch.enable_grad())
        yield


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _captured(array: Array) -> Array:
    return _leaf(array) if isinstance(array, Tensor) and array.is_floating_point() else array


def _gradients(
    results: Results, grad_out: Tensor | None, grad_lse: Tensor | None, leaves: list[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients of what some leaves became, 0 where one had no part in it."""
    both = ((results.out, grad_out), (results.lse, grad_lse))
    pairs = [(one, grad) for one, grad in both if one is not None and grad is not None]
    outputs, grads = zip(*pairs, strict=True)
    gradients: tuple[Tensor, ...] = torch.autograd.grad(
        outputs, leaves, grads, allow_unused=True, materialize_grads=True
    )
    return gradients
