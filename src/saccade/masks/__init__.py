"""Ready-made masks: small frozen values, written in the index arithmetic a user would write.

Each tells which keys a query keeps, how many, and whether it looks ahead. They combine with `& | ^ ~`, with
each other and with plain functions. This package knows nothing of how a mask is read, analysed or run.
"""

from saccade.masks.base import Mask, and_masks, not_mask, or_masks, xor_masks
from saccade.masks.block_diffusion import block_diffusion
from saccade.masks.dense import dense
from saccade.masks.document import document
from saccade.masks.global_tokens import global_tokens
from saccade.masks.image_cross_attention import image_cross_attention, image_intervals
from saccade.masks.jagged import build_seq_idx, create_njt_wrapper, jagged
from saccade.masks.local_2d import local_2d
from saccade.masks.natten import natten
from saccade.masks.order import causal, local, noop_mask, prefix_lm, sliding_window
from saccade.masks.padding import create_padding_mask, padding
from saccade.masks.random_blocks import random_blocks
from saccade.masks.shared_prefix import shared_prefix
from saccade.masks.shift import shift
from saccade.masks.sliding_tile import sliding_tile
from saccade.masks.sparse import chunked, dilated_window, streaming, strided
from saccade.masks.token_order import token_order
from saccade.masks.tree import tree

__all__ = [
    "Mask",
    "and_masks",
    "block_diffusion",
    "build_seq_idx",
    "causal",
    "chunked",
    "create_njt_wrapper",
    "create_padding_mask",
    "dense",
    "dilated_window",
    "document",
    "global_tokens",
    "image_cross_attention",
    "image_intervals",
    "jagged",
    "local",
    "local_2d",
    "natten",
    "noop_mask",
    "not_mask",
    "or_masks",
    "padding",
    "prefix_lm",
    "random_blocks",
    "shared_prefix",
    "shift",
    "sliding_tile",
    "sliding_window",
    "streaming",
    "strided",
    "token_order",
    "tree",
    "xor_masks",
]
