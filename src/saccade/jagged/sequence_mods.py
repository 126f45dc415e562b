"""Masks and scores of one sequence, as those of all packed positions.

Owns how they are asked for. What they become is `saccade.masks.jagged`, and its like for scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from saccade.attention.nested import PerSequence, ragged_of, require_jagged
from saccade.attention.sequences import sequences_of
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentTypeError, MaskAxisError
from saccade.ir.structure import ModKind
from saccade.masks import jagged, noop_mask
from saccade.mod_value import require_mod
from saccade.scores import Score
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

__all__ = ["block_mask_of", "create_nested_block_mask", "score_mod_of"]


def block_mask_of(
    mask_mod: MaskMod,
    cu_seqlens: Sequence[int] | Tensor,
    kv_cu_seqlens: Sequence[int] | Tensor | None = None,
    *,
    heads: int | None = None,
    device: torch.device | str | None = None,
    BLOCK_SIZE: int | tuple[int, int] = 128,
) -> BlockMask:
    """Make the block mask of packed sequences, each under the same mask.

    It is the mask of `saccade.masks.jagged(mask_mod, cu_seqlens, kv_cu_seqlens)`, for packed values in a
    batch of one: `flex_attention(query, key, value, block_mask=...)` with `[1, H, total, D]`.

    Args:
        mask_mod: The mask of one sequence: b is the number of the sequence, positions are within it.
        cu_seqlens: Where each sequence starts, and the end of the last.
        kv_cu_seqlens: The same of the keys, for cross attention. Default: the queries' own.
        heads: Number of query heads, for a mask that reads h; None for one mask shared by every head.
        device: Where the index tensors are handed out. Default: that of cu_seqlens; of ints, the CPU.
        BLOCK_SIZE: Tokens a block: one number, or (queries, keys).

    Returns:
        The mask, of shape `(1, heads or 1, total, total of keys)`.

    Raises:
        SaccadeError: Whatever `saccade.masks.jagged` and `create_block_mask` raise for these arguments.

    Example:
        >>> from saccade.masks import causal
        >>> print(block_mask_of(causal, [0, 200, 512]))
        BlockMask(shape=(1, 1, 512, 512), sparsity=50.00%,
        (0, 0)
        ░░
        ░░░░
          ░░░░
          ░░██░░
        )
    """
    within = jagged(mask_mod, cu_seqlens, kv_cu_seqlens)
    trace(mask_mod, ModKind.MASK)  # by itself, so that an error is about it and not about what wraps it
    q_len = _end(cu_seqlens)
    kv_len = q_len if kv_cu_seqlens is None else _end(kv_cu_seqlens)
    if device is None:
        device = cu_seqlens.device if isinstance(cu_seqlens, Tensor) else "cpu"
    return create_block_mask(within, None, heads, q_len, kv_len, device, BLOCK_SIZE)


def create_nested_block_mask(
    mask_mod: MaskMod,
    q_nested: Tensor,
    kv_nested: Tensor | None = None,
    *,
    heads: int | None = None,
    BLOCK_SIZE: int | tuple[int, int] = 128,
) -> BlockMask:
    """Make the block mask of nested tensors, each sequence under the same mask.

    To hold a mask for many calls; `flex_attention` of nested tensors also finds the mask of its `mask_mod`
    again by itself while the offsets live. The name is that of a function torch had in its releases 2.5 to
    2.7; the numbers of batches and heads that it took after the mask are left out here.

    Args:
        mask_mod: The mask of one sequence: b is the number of the sequence, positions are within it.
        q_nested: The query, or any nested tensor of layout jagged with its sequences: `[B, H, j, D]`,
            `[B, j, H, D]`, ...
        kv_nested: The key, for cross attention. Default: the query's sequences.
        heads: Number of query heads. Default: where the mask reads h, those of a `q_nested` `[B, H, j, D]` or
            `[B, j, H, D]`.
        BLOCK_SIZE: Tokens a block: one number, or (queries, keys).

    Returns:
        The mask of packed positions, of shape `(1, heads or 1, total, total of keys)`.

    Raises:
        ArgumentTypeError: A tensor is not nested.
        UnsupportedError: It is nested with another layout.
        ArgumentError: There are not as many sequences of keys as of queries.
        MaskAxisError: The mask reads h, and neither `heads` nor `q_nested` tells how many there are.
        SaccadeError: Whatever `create_block_mask` raises for the mask.

    Example:
        >>> from saccade.attention import flex_attention
        >>> from saccade.jagged import Packed, to_nested
        >>> from saccade.masks import causal
        >>> packed = Packed(torch.randn(7, 2, 8), torch.tensor([0, 3, 7]))
        >>> query = to_nested(packed).transpose(1, 2)
        >>> block_mask = create_nested_block_mask(causal, query)
        >>> flex_attention(query, query, query, block_mask=block_mask).unbind()[1].shape
        torch.Size([2, 4, 8])
    """
    require_mod(mask_mod, "create_nested_block_mask()")
    keys = q_nested if kv_nested is None else kv_nested
    for name, nested in (("q_nested", q_nested), ("kv_nested", keys)):
        if not isinstance(nested, Tensor):
            raise ArgumentTypeError(
                f"create_nested_block_mask(): {name} must be a nested tensor, got {type(nested).__name__} "
                f"{nested!r}; numbers of batches and heads are left out here"
            )
        require_jagged(name, nested)
    if trace(mask_mod, ModKind.MASK).reads("h") and heads is None:
        heads = _heads(q_nested)
    sequences = sequences_of(ragged_of(q_nested), ragged_of(keys))
    return sequences.new_block_mask(mask_mod, heads, BLOCK_SIZE)


def score_mod_of(
    score_mod: ScoreMod,
    cu_seqlens: Sequence[int] | Tensor,
    kv_cu_seqlens: Sequence[int] | Tensor | None = None,
) -> Score:
    """Make a score_mod of one sequence one of packed positions.

    Args:
        score_mod: The score change of one sequence: b is its number, positions are within it. Tensors that it
            reads get gradients.
        cu_seqlens: Where each sequence starts, and the end of the last.
        kv_cu_seqlens: The same of the keys. Default: the queries' own.

    Returns:
        The score_mod for a call with the mask of `block_mask_of`, which hides what is between sequences.

    Raises:
        ModError: `score_mod` is no score_mod.
        SaccadeError: Whatever `saccade.masks.jagged` raises for these arguments.

    Example:
        >>> def nearer(score, b, h, q_idx, kv_idx):
        ...     return score - 0.1 * (q_idx - kv_idx)
        >>> packed = score_mod_of(nearer, [0, 3, 7])
        >>> packed(torch.tensor(0.0), *map(torch.tensor, (0, 0, 6, 4)))
        tensor(-0.2000)
    """
    require_mod(score_mod, "score_mod_of()")
    trace(score_mod, ModKind.SCORE)  # by itself, as in block_mask_of
    return PerSequence(score_mod, jagged(noop_mask, cu_seqlens, kv_cu_seqlens))


def _heads(nested: Tensor) -> int:
    """The query heads of a nested tensor that has a dimension of them."""
    ragged = cast("Any", nested)._ragged_idx
    if ragged == 2:
        return nested.shape[1]
    if ragged == 1 and nested.dim() == 4:
        return nested.shape[2]
    raise MaskAxisError(
        "create_nested_block_mask(): the mask reads 'h', and q_nested of shape "
        f"[{', '.join(map(str, nested.shape))}] does not tell how many heads there are; pass heads="
    )


def _end(cu_seqlens: Sequence[int] | Tensor) -> int:
    return int(cu_seqlens[-1])
