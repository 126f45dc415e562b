"""Attention by its definition, in float64: what every engine is held against.

It calls the user's own functions on index tensors, never a traced program, so that a fault of the tracer
shows as a difference. Everything is differentiable by autograd.

    s = q·k * scale -> score_mod -> mask (-inf) -> sink joins the denominator -> softmax -> dropout -> ·v
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.signatures import MaskMod, ScoreMod


@dataclass(frozen=True)
class Reference:
    """What attention gives. Rows that see nothing have out 0, weights 0 and, without a sink, lse -inf."""

    out: Tensor  # [B, Hq, Q, Dv]
    lse: Tensor  # [B, Hq, Q], natural logarithm, the sink included
    max_scores: Tensor  # [B, Hq, Q], the largest visible score, -inf where there is none; the sink is none
    weights: Tensor  # [B, Hq, Q, K], after the softmax and before dropout


def attention(
    query: Tensor,  # [B, Hq, Q, D]
    key: Tensor,  # [B or 1, Hkv, K, D]
    value: Tensor,  # [B or 1, Hkv, K, Dv]
    *,
    mask: MaskMod | None = None,
    score: ScoreMod | None = None,
    scale: float | None = None,  # 1/√D unless given
    sinks: Tensor | None = None,  # [Hq]
    keep: Tensor | None = None,  # [B, Hq, Q, K] bool: the weights that dropout leaves
    keep_rate: float = 1.0,  # what the weights that are left are divided by
    pairwise: bool = False,
) -> Reference:
    """Attention in float64, whatever the dtype of the inputs; see `visible_pairs` for `pairwise`."""
    query, key, value = query.double(), key.double(), value.double()
    batch, q_heads, _, head_dim = query.shape
    group = q_heads // key.shape[1]
    key = key.repeat_interleave(group, dim=1).expand(batch, -1, -1, -1)
    value = value.repeat_interleave(group, dim=1).expand(batch, -1, -1, -1)

    scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(head_dim) if scale is None else scale)
    visible = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None:
        visible = visible_pairs(mask, *scores.shape, pairwise=pairwise)
    if score is not None:
        scores = modified_scores(score, scores, visible, pairwise=pairwise)
    scores = scores.masked_fill(~visible, -math.inf)

    nothing_to_see = scores.new_full(scores.shape[:-1], -math.inf)
    max_scores = scores.amax(dim=-1) if scores.shape[-1] else nothing_to_see
    # Any finite number may be subtracted; the largest keeps exp from overflowing.
    shift = max_scores if sinks is None else torch.maximum(max_scores, sinks.double()[:, None])
    shift = torch.where(shift.isfinite(), shift, torch.zeros_like(shift)).detach()
    terms = torch.exp(scores - shift[..., None])
    total = terms.sum(dim=-1)
    if sinks is not None:
        total = total + torch.exp(sinks.double()[:, None] - shift)
    # 1 in place of 0, so that neither the quotient nor its gradient is NaN in a row that sees nothing.
    nothing = total == 0
    total = torch.where(nothing, torch.ones_like(total), total)
    lse = torch.where(nothing, torch.full_like(total, -math.inf), torch.log(total) + shift)
    weights = terms / total[..., None]
    kept = weights if keep is None else torch.where(keep, weights / keep_rate, torch.zeros_like(weights))
    return Reference(kept @ value, lse, max_scores, weights)


def visible_pairs(
    mask: MaskMod, batch: int, heads: int, q_len: int, kv_len: int, *, pairwise: bool = False
) -> Tensor:
    """[B, Hq, Q, K] bool: what a mask_mod says of every pair.

    All pairs are asked at once, by indices that broadcast; or, `pairwise`, one at a time by 0-d indices, for
    functions that take no others.
    """
    shape = (batch, heads, q_len, kv_len)
    if not pairwise:
        return torch.as_tensor(mask(*_indices(shape))).to(torch.bool).expand(shape)
    return torch.stack([torch.as_tensor(mask(*pair)) for pair in _pairs(shape)]).to(torch.bool).view(shape)


def modified_scores(score: ScoreMod, scores: Tensor, visible: Tensor, *, pairwise: bool = False) -> Tensor:
    """[B, Hq, Q, K] float64: what a score_mod makes of scores; pair by pair, hidden ones are left out."""
    if not pairwise:
        return score(scores, *_indices(scores.shape)).double().expand(scores.shape)
    made = [
        score(one, *pair).double() if shown else one
        for one, shown, pair in zip(scores.flatten(), visible.flatten(), _pairs(scores.shape), strict=True)
    ]
    return torch.stack(made).view(scores.shape)


def _indices(shape: tuple[int, ...]) -> list[Tensor]:
    """b [B,1,1,1], h [1,H,1,1], q_idx [1,1,Q,1], kv_idx [1,1,1,K]."""
    return [
        torch.arange(size, device="cpu").view([size if axis == own else 1 for axis in range(4)])
        for own, size in enumerate(shape)
    ]


def _pairs(shape: tuple[int, ...]) -> list[tuple[Tensor, ...]]:
    """The 0-d indices of each pair, in the order of a flattened [B, H, Q, K]."""
    grid = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in shape))
    return [row.unbind() for row in grid.view(-1, 4)]
