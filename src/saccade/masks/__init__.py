"""Ready-made masks: small frozen values, written in the index arithmetic a user would write.

Each tells which keys a query keeps, how many, and whether it looks ahead. They combine with `& | ^ ~`, with
each other and with plain functions. This package knows nothing of how a mask is read, analysed or run.
"""

from saccade.masks.base import Mask, and_masks, not_mask, or_masks, xor_masks
from saccade.masks.dense import dense
from saccade.masks.document import document
from saccade.masks.natten import natten
from saccade.masks.order import causal, local, noop_mask, prefix_lm, sliding_window
from saccade.masks.padding import create_padding_mask, padding
from saccade.masks.shift import shift

__all__ = [
    "Mask",
    "and_masks",
    "causal",
    "create_padding_mask",
    "dense",
    "document",
    "local",
    "natten",
    "noop_mask",
    "not_mask",
    "or_masks",
    "padding",
    "prefix_lm",
    "shift",
    "sliding_window",
    "xor_masks",
]
