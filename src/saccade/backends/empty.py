"""Problems without a pair of a query and a key: their results are known, and no kernel runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.backends.base import Gradients, Operands, Results
from saccade.backends.layout import strides_like
from saccade.ir.program import Array
from saccade.problem import AttentionProblem, Wanted
from saccade.runtime.team import alone_in_child
from saccade.tracing.dtypes import TORCH

__all__ = ["EmptyBackward", "EmptyKernel"]


@final
@dataclass(frozen=True)
class EmptyKernel:
    """The callable of a problem with no batch, no query or no key: every row sees nothing."""

    problem: AttentionProblem

    @alone_in_child()
    def __call__(self, operands: Operands) -> Results:
        """Return outputs of 0 and lse of −inf, or of the sink."""
        problem, outputs, query = self.problem, self.problem.outputs, operands.query
        shape = (problem.batch, problem.q_heads, problem.q_len, problem.value_dim)
        out = torch.empty_strided(
            shape, strides_like(shape, query.stride()), dtype=query.dtype, device=query.device
        ).zero_()
        nothing = torch.full(shape[:3], -math.inf, dtype=TORCH[problem.accumulates_in], device=query.device)
        lse = nothing.clone()  # an operator's outputs share no memory
        if operands.sinks is not None:
            lse.copy_(operands.sinks.detach()[:, None])
        return Results(out, lse if outputs.lse else None, nothing if outputs.max_scores else None)


@final
@dataclass(frozen=True)
class EmptyBackward:
    """What differentiates its calls: only lse depends on something, the sinks."""

    problem: AttentionProblem

    @alone_in_child()
    def __call__(
        self,
        operands: Operands,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        wanted: Wanted,
    ) -> Gradients:
        """Return gradients of 0, and of lse where it is the sink."""
        query, sinks = operands.query, None
        if wanted.sinks:
            assert operands.sinks is not None, "only what is there is wanted"
            sinks = torch.zeros_like(operands.sinks)
            if grad_lse is not None:
                reached = operands.sinks.detach() > -math.inf
                sinks = torch.where(reached, grad_lse.sum(dim=(0, 2)).to(sinks.dtype), sinks)
        strides = strides_like(query.shape, query.stride())
        read = () if operands.score is None else operands.score.captures
        return Gradients(
            torch.empty_strided(query.shape, strides, dtype=query.dtype, device=query.device).zero_()
            if wanted.query
            else None,
            _zeros(operands.key) if wanted.key else None,
            _zeros(operands.value) if wanted.value else None,
            sinks,
            tuple(
                [_zeros(one) if asked else None for one, asked in zip(read, wanted.captures, strict=False)]
            ),
        )


def _zeros(tensor: Array) -> Tensor:
    assert isinstance(tensor, Tensor), "numpy arrays want no gradient"
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
