"""How the tokens of a batch lie in the tensors that modules take, and how heads are split off and put back.

Attention itself always sees `[N, H, L, D]`. Splitting and merging are views (merging copies where heads are
not beside each other), and what is nested stays so.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

__all__ = ["Layout", "merge_heads", "split_heads"]


class Layout(Enum):
    """Where tokens and batch stand: `[N, L, E]` (nested tensors too), `[L, N, E]` or `[L, E]`."""

    BATCH_FIRST = "[N, L, E]"
    BATCH_SECOND = "[L, N, E]"
    UNBATCHED = "[L, E]"


def split_heads(tokens: Tensor, heads: int, layout: Layout) -> Tensor:
    """Return tokens, laid out so, as `[N, H, L, D]`; N is 1 where they have no batch.

    Example:
        >>> split_heads(torch.empty(7, 3, 16), 2, Layout.BATCH_SECOND).shape
        torch.Size([3, 2, 7, 8])
    """
    apart = torch.unflatten(tokens, -1, (heads, -1))
    if layout is Layout.BATCH_FIRST:
        return apart.transpose(1, 2)
    if layout is Layout.BATCH_SECOND:
        return apart.permute(1, 2, 0, 3)
    return apart.transpose(0, 1).unsqueeze(0)


def merge_heads(apart: Tensor, layout: Layout) -> Tensor:
    """Return what is `[N, H, L, D]` as tokens, laid out so.

    Example:
        >>> merge_heads(torch.empty(3, 2, 7, 8), Layout.BATCH_SECOND).shape
        torch.Size([7, 3, 16])
    """
    if layout is Layout.BATCH_FIRST:
        beside = apart.transpose(1, 2)
    elif layout is Layout.BATCH_SECOND:
        beside = apart.permute(2, 0, 1, 3)
    else:
        beside = apart.squeeze(0).transpose(0, 1)
    return beside.flatten(-2)
