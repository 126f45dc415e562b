"""The order of an output's dimensions in memory.

It is the query's, so that what follows attention finds what came before it.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["like_query"]


def like_query(out: Tensor, query: Tensor) -> Tensor:
    """Return `out` dense, its dimensions in memory ordered like those of `query`, the last one innermost.

    Args:
        out: `[B, Hq, Q, Dv]`.
        query: `[B, Hq, Q, D]`, of any strides.

    Example:
        >>> import torch
        >>> query = torch.empty(1, 5, 2, 8).transpose(1, 2)  # as a projection leaves it
        >>> like_query(torch.empty(1, 2, 5, 8), query).stride()
        (80, 8, 16, 1)
    """
    strides = query.stride()
    last = out.dim() - 1
    order = sorted(range(last), key=lambda dim: (-strides[dim], dim))
    order.append(last)
    back = sorted(range(out.dim()), key=order.__getitem__)
    return out.permute(order).contiguous().permute(back)
