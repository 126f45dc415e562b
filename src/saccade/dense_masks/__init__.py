"""Masks as four-dimensional additive tensors, and the way from there to masks.

Owns `AttentionMaskConverter` and the functions around it, with the names, signatures and results of
transformers' `modeling_attn_mask_utils`, so that code written for those runs by changing the import; their
forms as a mask_mod and as a `BlockMask`; and the split of any additive mask into a mask and a score. It
computes no attention and never imports transformers. Invariant: a tensor made here and its mask form agree
about every pair, rounding of a floating 2-D mask to the tensor's dtype excepted.
"""

from saccade.dense_masks.additive import AdditiveMods, additive_mask, mods_of_additive
from saccade.dense_masks.converter import AttentionMaskConverter
from saccade.dense_masks.prepare import (
    _create_4d_causal_attention_mask,
    _prepare_4d_attention_mask,
    _prepare_4d_attention_mask_for_sdpa,
    _prepare_4d_causal_attention_mask,
    _prepare_4d_causal_attention_mask_for_sdpa,
)

__all__ = [
    "AdditiveMods",
    "AttentionMaskConverter",
    "_create_4d_causal_attention_mask",
    "_prepare_4d_attention_mask",
    "_prepare_4d_attention_mask_for_sdpa",
    "_prepare_4d_causal_attention_mask",
    "_prepare_4d_causal_attention_mask_for_sdpa",
    "additive_mask",
    "mods_of_additive",
]
