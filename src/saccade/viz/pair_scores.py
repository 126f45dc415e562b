"""The numbers of one attention matrix, pair by pair: raw scores, modified scores, or weights.

Owns the arithmetic and no drawing. A hidden pair is masked in the array and its score is never computed by
the mod, so what a mod would do there has no say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from saccade.attention.validate import require_dense, require_scale, require_shapes, require_types
from saccade.block_mask import BlockMask
from saccade.block_mask.shares import values_at
from saccade.block_mask.snapshot import mask_program
from saccade.errors import ArgumentError, IndexOutOfRangeError, ModError
from saccade.ir.structure import ModKind
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

__all__ = ["PairValues", "Show", "modified", "number_range", "pair_values", "visible"]

_MOST_PAIRS = 2**24  # of one matrix: 4,096 tokens

PairValues: TypeAlias = "np.ma.MaskedArray[Any, np.dtype[np.float64]]"


class Show(str, Enum):
    """What is shown of each pair."""

    RAW = "raw"  # q·k · scale, all pairs
    MODIFIED = "modified"  # after score_mod and mask
    WEIGHTS = "weights"  # the softmax of those


def pair_values(
    query: Tensor,
    key: Tensor,
    score_mod: ScoreMod | None,
    mask_mod: MaskMod | BlockMask | None,
    *,
    show: Show,
    place: tuple[int, int],
    scale: float | None,
) -> PairValues:
    """Compute the numbers of one batch and query head.

    Args:
        query: `[B, Hq, Q, D]`.
        key: `[B or 1, Hkv, K, D]`.
        score_mod: What becomes of a score, or None.
        mask_mod: Which pairs are visible: a function, or a BlockMask; None shows all.
        show: Which numbers.
        place: Batch and query head.
        scale: What q·k is multiplied by; None for 1/√D.

    Returns:
        float64 `[Q, K]`, masked where the pair is hidden.

    Raises:
        ArgumentError: There are more pairs than a picture can show.
        IndexOutOfRangeError: There is no such batch or head.
        SaccadeError: Tensors or mods cannot be used, as for `flex_attention`.
    """
    require_dense(query=query, key=key)
    require_types(query, key, key)
    require_shapes(query, key, key, enable_gqa=True)
    require_scale(scale)
    batch, heads, q_len, head_dim = query.shape
    for name, index, size in (("batch_idx", place[0], batch), ("head_idx", place[1], heads)):
        if not 0 <= index < size:
            raise IndexOutOfRangeError(f"{name} must be in [0, {size}), got {name}={index}")
    _require_drawable(q_len, key.shape[2])
    b, h = place
    rows = query[b, h].detach().double().cpu().numpy()
    columns = key[b if key.shape[0] > 1 else 0, h // (heads // key.shape[1])].detach().double().cpu().numpy()
    raw = rows @ columns.T * (1 / math.sqrt(head_dim) if scale is None else scale)
    if show is Show.RAW:
        return np.ma.MaskedArray(raw, mask=np.zeros(raw.shape, dtype=np.bool_))
    if isinstance(mask_mod, BlockMask):
        mask_mod.check_usable(batch, heads, q_len, key.shape[2])
    shown = modified(score_mod, raw, visible(mask_mod, raw.shape, place), place)
    return _softmax(shown) if show is Show.WEIGHTS else shown


def visible(
    mask_mod: MaskMod | BlockMask | None, lengths: tuple[int, int], place: tuple[int, int]
) -> np.ndarray:
    """Return which pairs of one batch and head are visible: bool `[Q, K]`."""
    if mask_mod is None:
        return np.ones(lengths, dtype=np.bool_)
    if isinstance(mask_mod, BlockMask):
        b, h = (index if size > 1 else 0 for index, size in zip(place, mask_mod.shape, strict=False))
        shown: np.ndarray = mask_mod[b, h].to_bool()[0, 0].cpu().numpy()
        return shown
    program = mask_program(mask_mod, "plot_attention_scores()")
    q_idx, kv_idx = np.arange(lengths[0])[:, None], np.arange(lengths[1])
    return np.broadcast_to(values_at(program, np.int64(place[0]), np.int64(place[1]), q_idx, kv_idx), lengths)


def modified(
    score_mod: ScoreMod | None, raw: np.ndarray, visible: np.ndarray, place: tuple[int, int]
) -> PairValues:
    """Return the scores after score_mod, masked where the pair is hidden or its score is −inf or NaN."""
    values = np.array(raw, dtype=np.float64)
    if score_mod is not None and visible.any():
        require_mod(score_mod, "plot_attention_scores()")
        program = trace(score_mod)
        if program.kind is not ModKind.SCORE:
            raise ModError(
                "plot_attention_scores() expects a score_mod, a function of (score, b, h, q_idx, kv_idx); "
                f"got the mask_mod {getattr(score_mod, '__name__', score_mod)!r}; give it as mask_mod"
            )
        q_idx, kv_idx = visible.nonzero()
        b, h = (np.int64(index) for index in place)
        values[visible] = values_at(program, raw[visible].astype(np.float32), b, h, q_idx, kv_idx)
    return np.ma.MaskedArray(values, mask=~(visible & np.isfinite(values)))


def number_range(matrices: Sequence[PairValues]) -> tuple[float, float]:
    """Return the lowest and highest visible number, apart where they are equal, with that in the middle."""
    seen = np.concatenate([matrix.compressed() for matrix in matrices])
    if not seen.size:
        return 0.0, 1.0
    low, high = float(seen.min()), float(seen.max())
    return (low, high) if low < high else (low - 1, high + 1)


def _softmax(scores: PairValues) -> PairValues:
    """The weights of each row over its visible keys; a row that sees none stays masked."""
    hidden = np.ma.getmaskarray(scores)
    filled = np.where(hidden, -np.inf, scores.data)
    row_max = filled.max(axis=1, keepdims=True, initial=np.finfo(np.float64).min)
    exponentials = np.exp(filled - row_max)
    row_sum = exponentials.sum(axis=1, keepdims=True)
    return np.ma.MaskedArray(exponentials / np.where(row_sum == 0, 1, row_sum), mask=hidden)


def _require_drawable(q_len: int, kv_len: int) -> None:
    if q_len * kv_len > _MOST_PAIRS or q_len * kv_len == 0:
        raise ArgumentError(
            f"a picture of scores shows 1 to {_MOST_PAIRS:,} pairs, got Q={q_len:,} and K={kv_len:,}; slice "
            "query and key, or draw the mask alone with plot_block_mask"
        )
