"""The masks of torch.nn.MultiheadAttention read as mods: True hides a pair, a number is added to its score.

Owns their meaning, their checks, and how several mods become one. No table is enlarged: what holds for all
heads or all queries is kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from saccade.attention.additive import additive_mods
from saccade.errors import DTypeError, ShapeError
from saccade.masks import and_masks, causal, dense, not_mask, padding
from saccade.mod_value import require_tensor
from saccade.nn.layout import Layout
from saccade.scores import Score
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["ScoreShape", "TableMods", "joint_mask", "joint_score", "mods_of_tables"]


class ScoreShape(NamedTuple):
    """The sizes of a call's scores, and how its tokens lie."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    layout: Layout


class TableMods(NamedTuple):
    """What the tables of a call say."""

    masks: tuple[MaskMod, ...] = ()
    scores: tuple[ScoreMod, ...] = ()


def mods_of_tables(
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
    shape: ScoreShape,
    *,
    rescored: bool = False,
) -> TableMods:
    """Read the masks that torch.nn.MultiheadAttention takes.

    Args:
        key_padding_mask: `[N, S]`, or `[S]` without a batch: bool, True = hidden, or added to the scores.
        attn_mask: `[L, S]`, or `[N·heads, L, S]` (`[heads, L, S]` without a batch), likewise.
        is_causal: Whether to be causal; attn_mask then says the same, and is not read.
        shape: What the tables must fit.
        rescored: Whether the user's score_mod comes before what the tables add.

    Raises:
        ArgumentTypeError: A table is no tensor.
        ShapeError: It does not fit.
        DTypeError: It is neither bool nor floating.

    Example:
        >>> shape = ScoreShape(2, 4, 3, 3, Layout.BATCH_FIRST)
        >>> mods_of_tables(torch.zeros(2, 3, dtype=torch.bool), None, True, shape).masks
        (causal, padding(pads=bool[2, 3]))
    """
    masks: list[MaskMod] = [causal] if is_causal else []
    additive: list[Tensor] = []
    if key_padding_mask is not None:
        rows = _padding_rows(key_padding_mask, shape)
        if rows.dtype is torch.bool:
            masks.append(padding(pads=rows))
        else:
            additive.append(rows[:, None, None, :])
    if attn_mask is not None:
        table = _pair_table(attn_mask, shape)
        if is_causal:
            pass  # said already, and in a form that is analysed without reading a number
        elif table.dtype is torch.bool:
            masks.append(not_mask(dense(table)))
        else:
            additive.append(table)
    read = [additive_mods(table, shape.q_len, rescored=rescored) for table in additive]
    masks += [mask for mask, _ in read if mask is not None]
    return TableMods(tuple(masks), tuple(score for _, score in read))


def joint_mask(masks: Sequence[MaskMod]) -> MaskMod | None:
    """Return the mask that shows what all of them show; None for none."""
    return and_masks(*masks) if len(masks) > 1 else next(iter(masks), None)


def joint_score(scores: Sequence[ScoreMod]) -> ScoreMod | None:
    """Return the score change that makes each in turn, of what the one before returned; None for none."""
    return _InTurn(tuple(scores)) if len(scores) > 1 else next(iter(scores), None)


@final
@dataclass(frozen=True, eq=False, repr=False)
class _InTurn(Score):
    mods: tuple[ScoreMod, ...]

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        for mod in self.mods:
            score = mod(score, b, h, q_idx, kv_idx)
        return score


def _padding_rows(given: Tensor, shape: ScoreShape) -> Tensor:
    """A key_padding_mask as `[N, S]`."""
    _require_table("key_padding_mask", given)
    batched = shape.layout is not Layout.UNBATCHED
    wanted = [shape.batch, shape.kv_len] if batched else [shape.kv_len]
    if list(given.shape) != wanted:
        remedy = "what differs from query to query goes to attn_mask"
        if shape.layout is Layout.BATCH_SECOND and list(given.shape[::-1]) == wanted:
            remedy = "if tokens are [N, L, E], make the module with batch_first=True"
        raise ShapeError(
            f"key_padding_mask must have one entry for each key, shape {wanted}, got "
            f"shape={list(given.shape)} beside tokens of order {shape.layout.value}; {remedy}"
        )
    return given if batched else given[None]


def _pair_table(given: Tensor, shape: ScoreShape) -> Tensor:
    """An attn_mask as `[L, S]` or `[N, heads, L, S]`."""
    _require_table("attn_mask", given)
    pairs = [shape.q_len, shape.kv_len]
    by_head = [shape.batch * shape.heads, *pairs]
    if list(given.shape) not in (pairs, by_head):
        entries = "heads" if shape.layout is Layout.UNBATCHED else "batch·heads"
        raise ShapeError(
            f"attn_mask must be [queries, keys] = {pairs} or [{entries}, queries, keys] = {by_head}, got "
            f"shape={list(given.shape)}; "
            + (
                "a mask [batch, heads, queries, keys] becomes the second by .flatten(0, 1)"
                if given.dim() == 4
                else "a rule that needs no table goes to mask_mod"
            )
        )
    return given if given.dim() == 2 else torch.unflatten(given, 0, (shape.batch, shape.heads))


def _require_table(name: str, given: Tensor) -> None:
    require_tensor(given, name)
    if given.dtype is not torch.bool and not given.dtype.is_floating_point:
        raise DTypeError(
            f"{name} must be bool (True = hidden) or floating (added to the scores), got "
            f"dtype={given.dtype}; of a table with 1 for what is kept, pass table == 0"
        )
