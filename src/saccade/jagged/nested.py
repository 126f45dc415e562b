"""Packed sequences as torch's nested tensors of layout jagged, and back.

Owns the two conversions. Invariant: a nested tensor whose sequences lie end to end shares its values and its
offsets with the `Packed`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from saccade.attention.nested import ragged_of, require_jagged
from saccade.jagged.packed import Packed, require_packed
from saccade.mod_value import require_tensor

__all__ = ["from_nested", "to_nested"]


def to_nested(packed: Packed) -> Tensor:
    """Make packed sequences a nested tensor of torch, of layout jagged; nothing is copied.

    Nested tensors made of one `Packed`, or of several with the same cu_seqlens tensor, have one ragged size,
    so that torch adds them and attention plans for them once. For `flex_attention`, transpose `[B, j, H, D]`
    to `[B, H, j, D]`.

    Args:
        packed: The sequences.

    Returns:
        `[B, j, ...]`, whose gradient reaches the values.

    Raises:
        ArgumentTypeError: `packed` is no `Packed`.

    Example:
        >>> packed = Packed(torch.randn(7, 2, 8, requires_grad=True), torch.tensor([0, 3, 7]))
        >>> query = to_nested(packed).transpose(1, 2)
        >>> from saccade.attention import flex_attention
        >>> from saccade.masks import causal
        >>> out = flex_attention(query, query, query, mask_mod=causal)
        >>> from_nested(out.transpose(1, 2))
        Packed(values=float32[7, 2, 8], cu_seqlens=[0, 3, 7], max_seqlen=4)
    """
    require_packed(packed, "to_nested()")
    lengths = packed.lengths
    return torch.nested.nested_tensor_from_jagged(
        packed.values,
        packed.cu_seqlens,
        min_seqlen=int(lengths.min()) if lengths.numel() else 0,
        max_seqlen=packed.max_seqlen,
    )


def from_nested(nested: Tensor) -> Packed:
    """Take a nested tensor of layout jagged for packed sequences.

    Args:
        nested: `[B, j, ...]`, or ragged in a later dimension, which comes to the front: `[B, H, j, D]` gives
            values `[total, H, D]`. One with holes (of `torch.nested.narrow`) is copied, all others are not.

    Returns:
        The sequences; their cu_seqlens are the nested tensor's own offsets, where those lie end to end.

    Raises:
        ArgumentTypeError: `nested` is not nested.
        UnsupportedError: It is of another layout.

    Example:
        >>> rows = [torch.randn(3, 16), torch.randn(4, 16)]
        >>> from_nested(torch.nested.nested_tensor(rows, layout=torch.jagged))
        Packed(values=float32[7, 16], cu_seqlens=[0, 3, 7], max_seqlen=4)
    """
    require_tensor(nested, "from_nested(): nested")
    require_jagged("nested", nested)
    cut = ragged_of(nested)
    values = nested.values().movedim(cast("Any", nested)._ragged_idx - 1, 0)
    starts, end = cut.offsets[:-1], cut.offsets[-1]
    if cut.lengths is None and int(cut.offsets[0]) == 0 and int(end) == cut.total:
        return Packed(values, cut.offsets)
    lengths = cut.offsets.diff() if cut.lengths is None else cut.lengths
    cu_seqlens = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    # From a position among the sequences end to end to where its value lies.
    moved = torch.repeat_interleave(starts - cu_seqlens[:-1], lengths)
    return Packed(
        values.index_select(0, torch.arange(moved.numel(), device=moved.device) + moved), cu_seqlens
    )
