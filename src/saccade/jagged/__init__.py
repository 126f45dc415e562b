"""Batches of sequences of unequal lengths, in three forms, and masks and scores for them.

    padded    [B, L, ...]       every sequence filled up to one length
    packed    [total, ...]      sequences end to end, told apart by cu_seqlens [B + 1]: a `Packed`
    nested    [B, j, ...]       torch's nested tensor of layout jagged: packed values that know their offsets

`pack` and `unpack` go between the first two, `to_nested` and `from_nested` between the last two. All four are
differentiable, take any trailing dimensions, and give back exactly what went in. `flex_attention` takes
nested tensors `[B, H, j, D]`; with packed values, give it a mask of `block_mask_of`.

This package owns the forms alone: the mask that keeps sequences apart is `saccade.masks.jagged`, and how
nested tensors are computed is `attention`'s business. Invariant: the sequences of a `Packed` lie end to end.

Example:
    >>> import torch
    >>> padded = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 4.0], [5.0, 6.0]]])  # [2, 2, 2]
    >>> packed = pack(padded, lengths=[1, 2])
    >>> packed
    Packed(values=float32[3, 2], cu_seqlens=[0, 1, 3], max_seqlen=2)
    >>> bool((unpack(packed) == padded).all())
    True
    >>> [tuple(one.shape) for one in to_nested(packed).unbind()]
    [(1, 2), (2, 2)]
"""

from saccade.jagged.nested import from_nested, to_nested
from saccade.jagged.packed import Packed, PaddingSide, pack, unpack
from saccade.jagged.sequence_mods import block_mask_of, create_nested_block_mask, score_mod_of

__all__ = [
    "Packed",
    "PaddingSide",
    "block_mask_of",
    "create_nested_block_mask",
    "from_nested",
    "pack",
    "score_mod_of",
    "to_nested",
    "unpack",
]
