"""Attention by its equations, on whole score matrices, with torch operations that differentiate themselves.

Accumulates in float32 (float64 for float64 inputs) and holds every score: the meaning of attention for any
device and dtype, and the measure of the engines that are fast. Nothing here knows of programs beyond calling
them on all pairs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.layout import like_query
from saccade.backends.pairs import modified_scores, visible_pairs
from saccade.ir.dropout import keep_mask, keep_rate
from saccade.problem import AttentionProblem
from saccade.tracing.dtypes import TORCH

__all__ = ["DenseAttention"]


@final
@dataclass(frozen=True)
class DenseAttention:
    """The kernel of the `eager` backend."""

    problem: AttentionProblem

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        with _without_autocast(operands.query.device):
            return self._attend(operands)

    def _attend(self, operands: Operands) -> Results:
        problem, query, outputs = self.problem, operands.query, self.problem.outputs
        precise = TORCH[problem.accumulates_in]
        visible = visible_pairs(problem, operands)
        keys = operands.key.to(precise).transpose(-2, -1)
        scores = _per_group(query.to(precise), keys) * problem.scale
        if operands.score is not None:
            scores = modified_scores(problem, operands.score, scores, visible)
        if visible is not None:
            scores = torch.where(visible, scores, -torch.inf)
        softmax = _softmax(scores, operands.sinks)
        weights = softmax.weights
        if operands.dropout_seed is not None:
            weights = self._dropped(weights, operands.dropout_seed)
        out = _per_group(weights, operands.value.to(precise)).to(query.dtype)
        return Results(
            out=like_query(out, query),
            lse=softmax.lse if outputs.lse else None,
            max_scores=softmax.max_scores if outputs.max_scores else None,
            weights=weights.to(query.dtype) if outputs.weights else None,
        )

    def _dropped(self, weights: Tensor, seed: Tensor) -> Tensor:
        """`[B, Hq, Q, K]` weights with those not kept set to zero and the others enlarged."""
        problem = self.problem
        rate = keep_rate(problem.dropout_p)
        if rate == 0.0:
            return weights * 0.0
        rows, columns = np.arange(problem.q_len)[:, None], np.arange(problem.kv_len)
        kept = np.empty((problem.batch * problem.q_heads, problem.q_len, problem.kv_len), dtype=np.bool_)
        for b_h in range(len(kept)):
            kept[b_h] = keep_mask(int(seed), problem.dropout_p, b_h, rows, columns)
        keep = torch.from_numpy(kept).to(weights.device).view(weights.shape)
        return torch.where(keep, weights / rate, 0.0)


@final
@dataclass(frozen=True, eq=False)
class _Softmax:
    weights: Tensor  # [B, Hq, Q, K]
    lse: Tensor  # [B, Hq, Q]
    max_scores: Tensor  # [B, Hq, Q], detached


def _softmax(scores: Tensor, sinks: Tensor | None) -> _Softmax:
    """The softmax over keys and a sink, which takes weight and has no value; zeros where a row sees nothing.

    Args:
        scores: `[B, Hq, Q, K]`, −inf at hidden pairs.
        sinks: `[Hq]` or None.
    """
    if scores.shape[-1]:
        max_scores = scores.detach().amax(dim=-1)
    else:
        max_scores = scores.new_full(scores.shape[:-1], -torch.inf)
    sink = None if sinks is None else sinks.to(scores.dtype).view(1, -1, 1)  # [1, Hq, 1]
    row_max = max_scores if sink is None else torch.maximum(max_scores, sink.detach())
    row_max = torch.where(row_max == -torch.inf, 0.0, row_max)  # −inf − −inf would be NaN
    exponentials = torch.exp(scores - row_max[..., None])
    row_sum = exponentials.sum(dim=-1)
    if sink is not None:
        row_sum = row_sum + torch.exp(sink - row_max)
    empty = row_sum == 0
    row_sum = torch.where(empty, 1.0, row_sum)
    lse = torch.where(empty, -torch.inf, row_max + torch.log(row_sum))
    return _Softmax(exponentials / row_sum[..., None], lse, max_scores)


def _per_group(rows: Tensor, columns: Tensor) -> Tensor:
    """`rows [B, Hq, Q, X]` times `columns [B or 1, Hkv, X, Y]` of each head's group: `[B, Hq, Q, Y]`."""
    batch, q_heads, q_len, inner = rows.shape
    kv_heads = columns.shape[1]
    # The heads of a group are rows of one product, so that no key is repeated.
    folded = rows.reshape(batch, kv_heads, q_heads // kv_heads * q_len, inner)
    return (folded @ columns).reshape(batch, q_heads, q_len, columns.shape[-1])


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which torch computes in the precision it is told, whatever the caller's autocast."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        context: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
        return context
    return nullcontext()
