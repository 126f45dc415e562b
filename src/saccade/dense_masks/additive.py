"""Additive masks of any origin, to mods and back.

An additive mask is two things in one: where it hides it is a mask, where it only penalises it is a score.
Owns the split, and the way back from any mask to a tensor. Which entry hides is `mod_value`'s to say. How
`scaled_dot_product_attention` and the modules read an additive mask is `attention.additive`'s: they would
look for blocks and penalties at each call, and so look for blocks where that pays, and for penalties never.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saccade.block_mask import BlockMask, create_block_mask
from saccade.dense_masks.recording import is_recorded
from saccade.dense_masks.tables import require_floating, written
from saccade.errors import DTypeError
from saccade.masks import Mask, dense
from saccade.mod_value import as_stored, hides, require_tensor
from saccade.scores import Score, bias
from saccade.signatures import MaskMod

__all__ = ["AdditiveMods", "additive_mask", "mods_of_additive"]


class AdditiveMods(NamedTuple):
    """What an additive mask does, as the two mods of `flex_attention`, named as its arguments are.

    Attributes:
        mask_mod: Shows the pairs that it does not hide.
        score_mod: Adds the penalties; None where none is left.

    Example:
        >>> from saccade import flex_attention
        >>> mods = mods_of_additive(torch.tensor([[0.0, -torch.inf], [-0.5, 0.0]]))
        >>> mods
        AdditiveMods(mask_mod=dense(float32[2, 2]), score_mod=bias(float32[2, 2]))
        >>> query, key, value = torch.randn(3, 1, 1, 2, 8)
        >>> flex_attention(query, key, value, **mods._asdict()).shape
        torch.Size([1, 1, 2, 8])
    """

    mask_mod: Mask
    score_mod: Score | None


def mods_of_additive(table: Tensor) -> AdditiveMods:
    """Split an additive mask into the pairs that it hides and the penalties that it adds to the others.

    An entry hides its pair when it is at most `finfo(table.dtype).min / 2`. So a row of nothing but
    `finfo.min` or -inf gives attention 0, where a softmax over such scores gives equal weights or NaN; and a
    row of -0.0 sees everything.

    Args:
        table: Floating tensor `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`; axes of size 1 broadcast, and what was
            expanded is read as it is stored. Both mods keep it as given; it may require a gradient, which
            reaches it through the score.

    Returns:
        The two mods. `score_mod` is None where every visible entry is 0 now. It is kept where that cannot be
        told: for a table that requires a gradient, and while a graph is recorded.

    Raises:
        ArgumentTypeError: `table` is no tensor.
        DTypeError: `table` is not floating.
        ShapeError: `table` has not 2, 3 or 4 axes.

    Example:
        >>> mods_of_additive(torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
        AdditiveMods(mask_mod=dense(float32[2, 2]), score_mod=None)
    """
    require_tensor(table, "mods_of_additive(): table")
    if table.dtype is torch.bool:
        raise DTypeError(
            "mods_of_additive(): table must be floating, got dtype=torch.bool; a table of True = attend is a "
            "mask as it is: dense(table)"
        )
    return AdditiveMods(dense(table), bias(table) if _may_penalise(table) else None)


def additive_mask(
    mask: MaskMod | BlockMask,
    batch: int | None,
    heads: int | None,
    q_len: int,
    kv_len: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Write a mask out as an additive tensor, for code that takes nothing else.

    Such code gives a row that sees nothing equal weights or NaN, as its device will have it.

    Args:
        mask: A mask_mod, or a BlockMask of these lengths.
        batch: B; None for 1.
        heads: Number of query heads; None for 1.
        q_len: Number of queries.
        kv_len: Number of keys.
        dtype: The floating dtype of the result.
        device: Where it lies; by default a BlockMask's own device or, for a mask_mod, the machine's
            accelerator, or else the CPU.

    Returns:
        `[batch, heads, q_len, kv_len]`, 0 where the query sees the key and `finfo(dtype).min` elsewhere. An
        axis that the mask does not depend on is expanded, not copied: call `.contiguous()` before writing to
        it.

    Raises:
        ArgumentTypeError: `dtype` is no dtype.
        DTypeError: `dtype` is not floating.
        SaccadeError: The mask cannot be read, or a BlockMask does not fit or is stale, as for
            `create_block_mask` and `flex_attention`.

    Example:
        >>> from saccade import causal
        >>> additive_mask(causal, None, None, 2, 3, torch.float16, "cpu")
        tensor([[[[     0., -65504., -65504.],
                  [     0.,      0., -65504.]]]], dtype=torch.float16)
    """
    require_floating(dtype, "additive_mask()")
    if not isinstance(mask, BlockMask):
        mask = create_block_mask(mask, batch, heads, q_len, kv_len, device=device)
    batch, heads = batch or 1, heads or 1
    mask.check_usable(batch, heads, q_len, kv_len)
    table = written(~as_stored(mask.to_bool()), dtype)
    return table.to(mask.device if device is None else device).expand(batch, heads, q_len, kv_len)


def _may_penalise(table: Tensor) -> bool:
    """Whether a visible entry is not 0, as far as can be told."""
    if table.requires_grad or is_recorded(table):
        return True
    entries = as_stored(table)
    return bool(((entries != 0) & ~hides(entries, entries.dtype)).any())
