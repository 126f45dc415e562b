"""Additive tensors written out: 0 where a pair is visible, `finfo(dtype).min` where it is hidden.

Owns the two ways in which the masks of this package hide a pair, by position and by a two-dimensional mask,
as bool tensors, and how a bool tensor becomes an additive one. Invariant: a table holds no other number, and
no negative zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.mod_value import require_tensor

__all__ = [
    "hidden_by_mask",
    "hidden_by_position",
    "require_floating",
    "require_reach",
    "require_rows",
    "written",
]


def hidden_by_position(q_len: int, kv_len: int, window: int | None, device: torch.device | str) -> Tensor:
    """Where the order of positions hides a pair, the queries being the last of the keys.

    Args:
        q_len: Number of queries.
        kv_len: Number of keys, at least `q_len`.
        window: Keys kept before the query's own; None: all.
        device: Where the tensor lies.

    Returns:
        bool `[Q, K]`.

    Raises:
        ArgumentError: There are fewer keys than queries.

    Example:
        >>> hidden_by_position(2, 4, 1, "cpu").int()
        tensor([[1, 0, 0, 1],
                [1, 1, 0, 0]], dtype=torch.int32)
    """
    require_reach(q_len, kv_len)
    kv_idx = torch.arange(kv_len, device=device)
    q_idx = torch.arange(q_len, device=device)[:, None] + (kv_len - q_len)
    hidden = kv_idx > q_idx
    return hidden if window is None else hidden | (kv_idx < q_idx - window)


def hidden_by_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Where a two-dimensional mask hides keys: everywhere but at 1.

    Args:
        mask: `[B, K]` of any dtype; compared as `dtype`, in which a number close to 1 may be 1.
        dtype: The dtype of the table that is made of it.

    Returns:
        bool `[B, 1, 1, K]`.

    Example:
        >>> hidden_by_mask(torch.tensor([[1.0, 0.0, 0.5, 2.0]]), torch.float32)
        tensor([[[[False,  True,  True,  True]]]])
    """
    return (mask.to(dtype) != 1)[:, None, None, :]


def written(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Write the lowest number of a dtype where a pair is hidden, and 0 elsewhere.

    Args:
        hidden: bool, of any shape; an expanded one is written out.
        dtype: A floating dtype.

    Example:
        >>> written(torch.tensor([False, True]), torch.float16)
        tensor([     0., -65504.], dtype=torch.float16)
    """
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def require_floating(dtype: object, receiver: str, length: str = "") -> None:
    """Check that what stands in the place of a dtype is a floating one.

    Args:
        dtype: What was given.
        receiver: The function it was given to, for the message.
        length: The function's parameter that an int in this place was meant for, if there is one.

    Raises:
        ArgumentTypeError: It is no dtype.
        DTypeError: It is not floating.
    """
    if not isinstance(dtype, torch.dtype):
        meant = length and isinstance(dtype, int) and not isinstance(dtype, bool)
        remedy = f"give a length by its name, {length}={dtype}" if meant else "give one such as torch.float32"
        raise ArgumentTypeError(
            f"{receiver}: dtype must be a torch.dtype, got {type(dtype).__name__} {dtype!r}; {remedy}"
        )
    if not dtype.is_floating_point:
        raise DTypeError(
            f"{receiver}: dtype must be floating, to hold the number that hides, got dtype={dtype}; "
            "give that of the scores, such as torch.float32"
        )


def require_rows(mask: Tensor | torch.fx.Proxy, receiver: str) -> None:
    """Check that a two-dimensional mask is one; `receiver` names the function.

    Raises:
        ArgumentTypeError: It is no tensor.
        ShapeError: It has not two dimensions.
    """
    if isinstance(mask, torch.fx.Proxy):
        return  # its shape is known when the graph runs
    require_tensor(mask, f"{receiver}: the attention mask")
    if mask.dim() != 2:
        raise ShapeError(
            f"{receiver}: the attention mask must be [B, K], 1 = attend, got shape={list(mask.shape)}; "
            "add the batch with [None], or give a 4-D mask to a function that takes one"
        )


def require_reach(q_len: int, kv_len: int) -> None:
    """Check that every query has a position among the keys.

    Raises:
        ArgumentError: There are fewer keys than queries.
    """
    if kv_len < q_len:
        raise ArgumentError(
            "the queries of a causal mask are the last of the keys, so key_value_length must be at least "
            f"query_length, got query_length={q_len}, key_value_length={kv_len}; count the cached keys and "
            "the new ones"
        )
