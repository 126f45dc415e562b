"""The oracle of the measurements: the user's own function on index tensors, and dense attention in float64.

Nothing here is traced, analysed or fused, so a fault of those shows. Written to be obviously right; memory is
bounded by working in chunks of query rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.ir.dropout import keep_mask, keep_rate
from saccade.signatures import MaskMod, ScoreMod

__all__ = [
    "dense_attention",
    "kinds_of_rows",
    "mask_rows",
    "pairwise_attention",
    "pairwise_mask",
    "row_chunks",
]

_CHUNK_PAIRS = 2**22  # pairs of a chunk: 4 MB of bools
# Pairs evaluated at once: the intermediates stay in a cache, and torch wakes no threads, which would wait for
# each other at every operation on a busy machine.
_PIECE_PAIRS = 2**15


def mask_rows(mod: MaskMod, b: int, h: int, rows: range, kv_len: int) -> Tensor:
    """Evaluate a mask on some query rows of one batch entry and head.

    Returns:
        bool `[len(rows), kv_len]`.
    """
    visible = torch.empty(len(rows), kv_len, dtype=torch.bool)
    kv_idx = torch.arange(kv_len)
    height = max(1, _PIECE_PAIRS // max(1, kv_len))
    for start in range(0, len(rows), height):
        q_idx = torch.tensor(rows[start : start + height])[:, None]
        visible[start : start + height] = mod(torch.tensor(b), torch.tensor(h), q_idx, kv_idx)
    return visible


def row_chunks(q_len: int, kv_len: int, multiple: int) -> Iterator[range]:
    """Cut the query rows into chunks of bounded size, each but the last a multiple of `multiple` rows."""
    rows = max(1, _CHUNK_PAIRS // max(1, kv_len) // multiple) * multiple
    for start in range(0, q_len, rows):
        yield range(start, min(start + rows, q_len))


def kinds_of_rows(visible: Tensor, block: int) -> Tensor:
    """Sort the blocks of some rows into EMPTY (0), PARTIAL (1) and FULL (2), inside the true lengths.

    Args:
        visible: bool `[rows, K]`.
        block: Rows and columns of a block; the last ones may be cut.

    Returns:
        uint8 `[ceil(rows / block), ceil(K / block)]`.
    """
    rows, columns = (np.arange(0, size, block) for size in visible.shape)
    seen = np.add.reduceat(np.add.reduceat(visible.numpy(), rows, axis=0, dtype=np.int32), columns, axis=1)
    pairs = np.outer(np.diff(rows, append=visible.shape[0]), np.diff(columns, append=visible.shape[1]))
    return torch.from_numpy((seen > 0).astype(np.uint8) + (seen == pairs))


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask_mod: MaskMod,
    score_mod: ScoreMod | None = None,
    rows: range,
    dtype: torch.dtype,
    dropout: tuple[int, float] | None = None,
) -> Tensor:
    """Compute attention the plain way: every score of the given rows, masked, softmaxed, times the values.

    Args:
        query: `[B, Hq, Q, D]`.
        key: `[B, Hkv, K, D]`; query head h reads key head `h // (Hq / Hkv)`.
        value: `[B, Hkv, K, Dv]`.
        mask_mod: Which pairs are visible.
        score_mod: What becomes of a score; None leaves it.
        rows: The query rows wanted; their positions are those in the whole sequence.
        dtype: What to compute in: float64 for the truth, float32 for the error that float32 has anyway.
        dropout: The seed of the library's stream and the probability to drop a weight; None for none.

    Returns:
        `[B, Hq, len(rows), Dv]` of `dtype`; a row that sees no key is 0.
    """
    batch, heads, _, head_dim = query.shape
    group = heads // key.shape[1]
    out = torch.zeros(batch, heads, len(rows), value.shape[-1], dtype=dtype)
    q_idx, kv_idx = torch.arange(rows.start, rows.stop)[:, None], torch.arange(key.shape[2])
    for b in range(batch):
        for h in range(heads):
            q, k, v = (
                query[b, h, rows.start : rows.stop].to(dtype),
                key[b, h // group].to(dtype),
                value[b, h // group].to(dtype),
            )
            scores = q @ k.T / math.sqrt(head_dim)
            if score_mod is not None:
                scores = score_mod(scores, torch.tensor(b), torch.tensor(h), q_idx, kv_idx)
            scores = scores.masked_fill(~mask_rows(mask_mod, b, h, rows, key.shape[2]), -math.inf)
            # A row of -inf alone gives NaN, which stands for "sees nothing".
            weights = scores.softmax(dim=-1).nan_to_num(0.0)
            if dropout is not None:
                kept = keep_mask(*dropout, b * heads + h, q_idx.cpu().numpy(), kv_idx.cpu().numpy())
                weights = weights * torch.from_numpy(kept).to(weights) / keep_rate(dropout[1])
            out[b, h] = weights @ v
    return out


def pairwise_mask(mod: MaskMod, shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """Ask a mask about one pair at a time, by indices without axes: what a mod means, to the letter.

    Slower than `mask_rows`, and right for functions that do not broadcast.

    Args:
        mod: The user's function.
        shape: B, Hq, Q and K.
        device: Where the indices lie.

    Returns:
        bool `[B, Hq, Q, K]`.
    """
    seen = [torch.as_tensor(mod(*pair), device=device) for pair in _pairs(shape, device)]
    return torch.stack(seen).to(torch.bool).view(shape)


def pairwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor,
    score_mod: ScoreMod | None = None,
    dtype: torch.dtype,
) -> Tensor:
    """Compute attention with a score_mod that is asked one pair at a time; differentiable by autograd.

    Args:
        query: `[B, Hq, Q, D]`.
        key: `[B, Hkv, K, D]`; query head h reads key head `h // (Hq / Hkv)`.
        value: `[B, Hkv, K, Dv]`.
        visible: bool `[B, Hq, Q, K]`; the function is not asked about other pairs.
        score_mod: The user's function; None leaves the scores.
        dtype: What to compute in: float64 for the truth, float32 for the error that float32 has anyway.

    Returns:
        `[B, Hq, Q, Dv]` of `dtype`; a row that sees no key is 0, and so are its gradients.
    """
    group = query.shape[1] // key.shape[1]
    key, value = (one.to(dtype).repeat_interleave(group, dim=1) for one in (key, value))
    scores = query.to(dtype) @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if score_mod is not None:
        pairs = zip(
            scores.flatten().unbind(),
            visible.flatten().tolist(),
            _pairs(scores.shape, scores.device),
            strict=True,
        )
        scores = torch.stack(
            [score_mod(one, *pair).to(dtype) if shown else one for one, shown, pair in pairs]
        ).view(visible.shape)
    hidden = ~visible | (scores == -math.inf)
    sees_nothing = hidden.all(dim=-1, keepdim=True)
    # 0 in rows that see nothing, so that neither they nor their gradients are NaN.
    masked = scores.masked_fill(hidden, -math.inf).masked_fill(sees_nothing, 0.0)
    return masked.softmax(dim=-1).masked_fill(sees_nothing, 0.0) @ value


def _pairs(shape: Sequence[int], device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The indices of each pair, without axes, in the order of a flattened `[B, H, Q, K]`."""
    b, h, q_idx, kv_idx = (torch.arange(size, device=device).unbind() for size in shape)
    return itertools.product(b, h, q_idx, kv_idx)
