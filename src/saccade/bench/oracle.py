"""The oracle of the measurements: the user's own function on index tensors, and dense attention in float64.

Nothing here is traced, analysed or fused, so a fault of those shows. Written to be obviously right; memory is
bounded by working in chunks of query rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from saccade.signatures import MaskMod, ScoreMod

__all__ = ["dense_attention", "kinds_of_rows", "mask_rows", "row_chunks"]

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
) -> Tensor:
    """Compute attention the plain way: every score of the given rows, masked, softmaxed, times the values.

    Args:
        query: `[B, H, Q, D]`.
        key: `[B, H, K, D]`.
        value: `[B, H, K, Dv]`.
        mask_mod: Which pairs are visible.
        score_mod: What becomes of a score; None leaves it.
        rows: The query rows wanted; their positions are those in the whole sequence.
        dtype: What to compute in: float64 for the truth, float32 for the error that float32 has anyway.

    Returns:
        `[B, H, len(rows), Dv]` of `dtype`; a row that sees no key is 0.
    """
    batch, heads, _, head_dim = query.shape
    out = torch.zeros(batch, heads, len(rows), value.shape[-1], dtype=dtype)
    q_idx, kv_idx = torch.arange(rows.start, rows.stop)[:, None], torch.arange(key.shape[2])
    for b in range(batch):
        for h in range(heads):
            q, k, v = (
                query[b, h, rows.start : rows.stop].to(dtype),
                key[b, h].to(dtype),
                value[b, h].to(dtype),
            )
            scores = q @ k.T / math.sqrt(head_dim)
            if score_mod is not None:
                scores = score_mod(scores, torch.tensor(b), torch.tensor(h), q_idx, kv_idx)
            scores = scores.masked_fill(~mask_rows(mask_mod, b, h, rows, key.shape[2]), -math.inf)
            # A row of -inf alone gives NaN, which stands for "sees nothing".
            out[b, h] = scores.softmax(dim=-1).nan_to_num(0.0) @ v
    return out
