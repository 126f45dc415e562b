"""The order of an output's dimensions in memory.

It is the query's, so that what follows attention finds what came before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["like_query", "strides_like"]


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
    order = _order(query.stride())
    back = sorted(range(out.dim()), key=order.__getitem__)
    return out.permute(order).contiguous().permute(back)


def strides_like(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Return the strides that `like_query` gives an output.

    Args:
        shape: `[B, Hq, Q, Dv]`, the output's.
        strides: The query's.

    Example:
        >>> strides_like((1, 2, 5, 8), (80, 8, 16, 1))
        (80, 8, 16, 1)
    """
    order = _order(strides)
    moved = [dim for dim in order if shape[dim] != 1]
    if moved == sorted(moved) or 0 in shape:
        order = sorted(order)  # in memory it is the same, and torch leaves it as it was made
    dense = [1] * len(shape)
    step = 1
    for dim in reversed(order):
        dense[dim] = step
        step *= max(shape[dim], 1)
    return tuple(dense)


def _order(strides: Sequence[int]) -> list[int]:
    """The dimensions from the outermost in memory to the innermost, which is always the last."""
    last = len(strides) - 1
    return [*sorted(range(last), key=lambda dim: (-strides[dim], dim)), last]
