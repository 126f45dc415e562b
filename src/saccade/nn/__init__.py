"""Attention as `torch.nn.Module`s, and the switch of who computes it."""

from saccade.nn.flash import FlashAttention
from saccade.nn.implementation import set_attn_implementation
from saccade.nn.multihead import MultiheadAttention
from saccade.nn.multihead_flex import MultiheadFlexAttention

__all__ = ["FlashAttention", "MultiheadAttention", "MultiheadFlexAttention", "set_attn_implementation"]
