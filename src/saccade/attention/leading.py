"""torch's broadcasting of leading dimensions, told as a batch and heads.

`scaled_dot_product_attention` takes tensors of any number of dimensions and broadcasts all but the last two.
Here the third from the end becomes the heads, and those before it one batch. Tensors that fit already pass
through untouched. Invariant: a mask is never enlarged, and keys that every batch or head shares stay one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.errors import OperandError
from saccade.mod_value import as_stored

__all__ = ["Folded", "fold", "fold_mask"]

_FOLDED_DIMS = 4  # batch, heads, length, features


@final
@dataclass(frozen=True, eq=False)
class Folded:
    """Tensors of four dimensions, and the shape they came from.

    Attributes:
        query: `[B, Hq, L, E]`.
        key: `[B or 1, Hkv, S, E]`, Hq a multiple of Hkv.
        value: `[B or 1, Hkv, S, Ev]`.
        leading: The dimensions of the output before its last two, as torch has them: their product is B * Hq.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    leading: tuple[int, ...]

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """What the mask broadcasts to: the leading dimensions, L and S."""
        return (*self.leading, self.query.shape[-2], self.key.shape[-2])


def fold(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> Folded:
    """Fold the leading dimensions of query, key and value into batch and heads.

    Args:
        query: `[..., L, E]`, two dimensions or more.
        key: `[..., S, E]`.
        value: `[..., S, Ev]`.
        enable_gqa: Whether the third dimension from the end of key and value may be a divisor of the query's,
            rather than 1 or equal.

    Raises:
        OperandError: The shapes do not fit each other.

    Example:
        >>> query, key = torch.empty(2, 3, 8, 5, 16), torch.empty(4, 7, 16)
        >>> folded = fold(query, key, key, enable_gqa=True)
        >>> folded.query.shape, folded.key.shape, folded.leading
        (torch.Size([6, 8, 5, 16]), torch.Size([1, 4, 7, 16]), (2, 3, 8))
    """
    if query.dim() == key.dim() == value.dim() == _FOLDED_DIMS:
        batch, heads, _, features = query.shape
        kv_batch, kv_heads, kv_len, _ = key.shape
        shares = kv_heads in (heads, 1) or (enable_gqa and kv_heads > 0 and heads % kv_heads == 0)
        fits = key.shape[3] == features and value.shape[:3] == (kv_batch, kv_heads, kv_len)
        if shares and fits and kv_batch in (batch, 1):
            return Folded(query, key, value, (batch, heads))
    _require_matrices(query.shape, key.shape, value.shape)
    return _fold_grouped(query, key, value) if enable_gqa else _fold_broadcast(query, key, value)


def fold_mask(mask: Tensor, folded: Folded) -> Tensor:
    """Fold the leading dimensions of a mask; an axis that was expanded shrinks to the one entry it holds.

    Args:
        mask: Broadcasts to `folded.scores_shape` without enlarging it.
        folded: The tensors that it is for.

    Returns:
        Two to four dimensions, each of size 1 or that of `[B, Hq, L, S]`.

    Raises:
        OperandError: The mask does not broadcast.

    Example:
        >>> folded = fold(*torch.empty(3, 2, 8, 5, 16), enable_gqa=False)
        >>> fold_mask(torch.ones(2, 1, 1, 5).expand(2, 8, 5, 5), folded).shape
        torch.Size([2, 1, 1, 5])
    """
    full = folded.scores_shape
    fits = 2 <= mask.dim() <= len(full) and all(
        size in (1, wanted) for size, wanted in zip(mask.shape[::-1], full[::-1], strict=False)
    )
    if not fits:
        raise OperandError(
            "attn_mask must have two dimensions or more and broadcast to [..., L, S] of the scores, got "
            f"attn_mask.shape={list(mask.shape)} for scores of shape {list(full)}; add axes of size 1 where "
            "it does not vary"
        )
    mask = as_stored(mask)
    if len(full) <= _FOLDED_DIMS:
        return mask
    batch = full[:-3]
    own_batch, rest = mask.shape[:-3], mask.shape[-3:]
    if math.prod(own_batch) == 1:
        return mask.reshape(rest)
    return mask.expand(*batch, *rest).reshape(math.prod(batch), *rest)


def _require_matrices(query: torch.Size, key: torch.Size, value: torch.Size) -> None:
    for name, shape in (("query", query), ("key", key), ("value", value)):
        if len(shape) < 2:
            raise OperandError(
                f"{name} must have two dimensions [length, features] or more, got {name}.shape={list(shape)}"
            )
    if query[-1] != key[-1]:
        raise OperandError(
            "query and key must have the same last dimension, got "
            f"query.shape={list(query)} and key.shape={list(key)}; only the value's may differ"
        )
    if key[-2] != value[-2]:
        raise OperandError(
            "key and value must have the same length (their last dimension but one), got "
            f"key.shape={list(key)} and value.shape={list(value)}"
        )


def _fold_broadcast(query: Tensor, key: Tensor, value: Tensor) -> Folded:
    """Fold where every leading dimension broadcasts."""
    tensors = (query, key, value)
    leading = _broadcast([tensor.shape[:-2] for tensor in tensors], tensors)
    heads = leading[-1] if leading else 1
    kv_heads = _heads(key) if _heads(key) == _heads(value) else heads
    return _folded(tensors, leading, heads, kv_heads)


def _fold_grouped(query: Tensor, key: Tensor, value: Tensor) -> Folded:
    """Fold where groups of query heads share a key head and a value head."""
    tensors = (query, key, value)
    q_heads, k_heads, v_heads = map(_heads, tensors)
    if min(map(Tensor.dim, tensors)) < 3 or any(not n or q_heads % n for n in (k_heads, v_heads)):
        raise OperandError(
            "with enable_gqa=True, query, key and value must have three dimensions [heads, length, features] "
            "or more, and the heads of key and value must divide the query's, got "
            + _shown(tensors)
            + "; or let them broadcast with enable_gqa=False"
        )
    if k_heads != v_heads:
        key = key.repeat_interleave(q_heads // k_heads, dim=-3)
        value = value.repeat_interleave(q_heads // v_heads, dim=-3)
    batch = _broadcast([tensor.shape[:-3] for tensor in tensors], tensors)
    return _folded((query, key, value), (*batch, q_heads), q_heads, _heads(key))


def _folded(
    tensors: tuple[Tensor, Tensor, Tensor], leading: tuple[int, ...], q_heads: int, kv_heads: int
) -> Folded:
    query, key, value = tensors
    batch = leading[:-1]
    folded_query = _to_four(query, batch, q_heads)
    if query.shape[:-2] != leading:
        # The output takes the query's order in memory, which entries that overlap do not have.
        folded_query = folded_query.contiguous()
    shared = math.prod(key.shape[:-3]) == math.prod(value.shape[:-3]) == 1
    kv_batch = () if shared else batch
    return Folded(
        folded_query,
        _to_four(key, kv_batch, kv_heads),
        _to_four(value, kv_batch, kv_heads),
        leading,
    )


def _to_four(tensor: Tensor, batch: tuple[int, ...], heads: int) -> Tensor:
    matrices = tensor.shape[-2:]
    if math.prod(tensor.shape[:-3]) == 1:
        tensor = tensor.reshape(_heads(tensor), *matrices)
    return tensor.expand(*batch, heads, *matrices).reshape(math.prod(batch), heads, *matrices)


def _heads(tensor: Tensor) -> int:
    return tensor.shape[-3] if tensor.dim() > 2 else 1


def _broadcast(shapes: list[torch.Size], tensors: tuple[Tensor, Tensor, Tensor]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    except RuntimeError as fault:
        raise OperandError(
            "the leading dimensions of query, key and value must be equal or 1, got "
            + _shown(tensors)
            + "; pass enable_gqa=True to let groups of query heads share a key head"
        ) from fault


def _shown(tensors: tuple[Tensor, Tensor, Tensor]) -> str:
    names = ("query", "key", "value")
    return ", ".join(
        f"{name}.shape={list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True)
    )
