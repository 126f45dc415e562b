"""Attention and its gradients by torch's operations in the precision of the inputs: a gauge of error.

The recipe is that of every engine that keeps no weights (FlashAttention, arXiv 2205.14135): they are computed
again from lse, and a row's mean gradient from its output, rounded as it is. Sums and exponentials are
float32; the weights are rounded to what they multiply. Scores are differentiated by autograd. An engine is as
good as need be where its error, against the oracle's float64, is a small multiple of the one made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import oracle
from saccade.signatures import MaskMod, ScoreMod

_MULTIPLE = 6
"""How much larger an engine's error may be: it sums in another order, and rounds at other places."""


def precise(dtype: torch.dtype) -> torch.dtype:
    """What sums and softmax are in."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def attention(
    query: Tensor,  # [B, Hq, Q, D]
    key: Tensor,  # [B or 1, Hkv, K, D]
    value: Tensor,  # [B or 1, Hkv, K, Dv]
    *,
    mask: MaskMod | None = None,
    score: ScoreMod | None = None,
    scale: float | None = None,
    sinks: Tensor | None = None,  # [Hq]
    keep: Tensor | None = None,
    keep_rate: float = 1.0,
    pairwise: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output and lse; the arguments are the oracle's."""
    dtype = query.dtype
    wide = precise(dtype)
    batch, group = query.shape[0], query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(group, dim=1).expand(batch, -1, -1, -1) for one in (key, value))
    scores = query.to(wide) @ key.to(wide).mT
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    visible = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None:
        visible = oracle.visible_pairs(mask, *scores.shape, pairwise=pairwise)
    if score is not None:
        scores = oracle.modified_scores(score, scores, visible, pairwise=pairwise).to(wide)
    scores = scores.masked_fill(~visible, -math.inf)
    factor = scores.new_ones(()) if keep is None else keep / keep_rate
    sink = scores.new_full((scores.shape[1],), -math.inf) if sinks is None else sinks.to(wide)
    return _Attention.apply(scores, sink[:, None, None], value, factor)  # type: ignore[no-untyped-call, no-any-return]


class _Attention(torch.autograd.Function):
    """Scores [B, H, Q, K], sinks [H, 1, 1], values [B, H, K, Dv] and what weights are multiplied by."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, sink: Tensor, value: Tensor, factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        columns = torch.cat([scores, sink.expand(*scores.shape[:3], 1)], dim=-1)
        lse = torch.logsumexp(columns, dim=-1)
        kept = factor * _weights(scores, lse)
        out = (_rounded(kept, value) @ value.to(scores.dtype)).to(value.dtype)
        ctx.save_for_backward(scores, sink, value, factor, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor, ...]:
        scores, sink, value, factor, out, lse = ctx.saved_tensors
        weights, grad_out = _weights(scores, lse), grad_out.to(scores.dtype)
        grad_value = _rounded(factor * weights, value).mT @ grad_out
        mean = (grad_out * out).sum(-1) - grad_lse
        grad_scores = weights * (factor * (grad_out @ value.to(scores.dtype).mT) - mean[..., None])
        grad_sink = -(_weights(sink, lse)[..., 0] * mean).sum((0, 2))[:, None, None]
        return grad_scores, grad_sink, grad_value.to(value.dtype), None  # type: ignore[return-value]


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    """Softmax from lse; 0 in rows that see nothing."""
    return torch.exp(scores - torch.where(lse == -math.inf, 0.0, lse)[..., None])


def _rounded(weights: Tensor, like: Tensor) -> Tensor:
    return weights.to(like.dtype).to(weights.dtype)


def gradients(results: Sequence[Tensor], leaves: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Gradients of a sum in which each number of the output, and each finite lse, has a weight of its own.

    The weights are numbers of the types in which an engine is given them where its inputs are of `dtype`.
    """
    out, lse = results
    generator = torch.Generator().manual_seed(5)
    of_out, of_lse = (torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in results)
    of_lse = torch.where(lse.isfinite(), of_lse.to(precise(dtype)).double(), 0.0)
    weighted = ((out, of_out.to(dtype)), (lse, of_lse))
    learned = [(one, weight.to(one.dtype)) for one, weight in weighted if one.requires_grad]
    outputs, weights = zip(*learned, strict=True)
    found = torch.autograd.grad(
        outputs, leaves, weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def assert_as_good(
    found: Sequence[Tensor], independent: Sequence[Tensor], exact: Sequence[Tensor], *, digits: float = 16
) -> None:
    """Hold gradients against float64 ones: their error is a small multiple of what another computation has.

    Where that makes next to none, it is one of the last digits of the largest number, so many of them.
    """
    for place, (mine, other, true) in enumerate(zip(found, independent, exact, strict=True)):
        assert mine.dtype is other.dtype
        if true.numel() == 0:
            continue
        error, usual = (float((one.double() - true).abs().max()) for one in (mine, other))
        bound = max(_MULTIPLE * usual, digits * torch.finfo(mine.dtype).eps * float(true.abs().max()))
        assert error <= bound, f"gradient {place}: its error is {error:.3g}, and {usual:.3g} is usual"
