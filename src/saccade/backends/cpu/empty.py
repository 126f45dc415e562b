"""Problems without a pair of a query and a key: their results are known, and no kernel runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch

from saccade.backends.base import Operands, Results
from saccade.backends.layout import strides_like
from saccade.problem import AttentionProblem
from saccade.tracing.dtypes import TORCH

__all__ = ["EmptyKernel"]


@final
@dataclass(frozen=True)
class EmptyKernel:
    """The callable of a problem with no batch, no query or no key: every row sees nothing."""

    problem: AttentionProblem

    def __call__(self, operands: Operands) -> Results:
        """Return outputs of 0 and lse of −inf, or of the sink."""
        problem, outputs, query = self.problem, self.problem.outputs, operands.query
        shape = (problem.batch, problem.q_heads, problem.q_len, problem.value_dim)
        out = torch.empty_strided(shape, strides_like(shape, query.stride()), dtype=query.dtype).zero_()
        nothing = torch.full(shape[:3], -math.inf, dtype=TORCH[problem.accumulates_in])
        lse = nothing.clone()  # an operator's outputs share no memory
        if operands.sinks is not None:
            lse.copy_(operands.sinks.detach()[:, None])
        return Results(out, lse if outputs.lse else None, nothing if outputs.max_scores else None)
