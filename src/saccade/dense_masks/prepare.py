"""The 4-D additive mask that a model's attention is given, from whatever the model was given.

Owns the choice between a 2-D mask, a 4-D mask and none, and when SDPA needs no tensor at all; what the
tensors hold is `converter`'s. The names, with their underscore, are those of transformers'
`modeling_attn_mask_utils`, which models import.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.dense_masks.converter import AttentionMaskConverter
from saccade.dense_masks.recording import is_recorded
from saccade.dense_masks.tables import require_floating, require_rows
from saccade.errors import ShapeError

__all__ = [
    "_create_4d_causal_attention_mask",
    "_prepare_4d_attention_mask",
    "_prepare_4d_attention_mask_for_sdpa",
    "_prepare_4d_causal_attention_mask",
    "_prepare_4d_causal_attention_mask_for_sdpa",
]

# Where SDPA's memory-efficient kernel gives NaN for a row that sees nothing (pytorch issue 110213).
_NEEDS_A_KEY = ("cuda", "xpu")


def _create_4d_causal_attention_mask(
    input_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    past_key_values_length: int = 0,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Write out causality for a batch without padding.

    Args:
        input_shape: `(B, ..., Q)`; the first and the last number are read.
        dtype: The floating dtype of the table.
        device: Where it lies.
        past_key_values_length: Cached keys, all before the first query.
        sliding_window: Keys kept before the query's own, so one more in all; None: all.

    Returns:
        `[B, 1, Q, past + Q]`, 0 or `finfo(dtype).min`; None for one query without a window.

    Raises:
        ArgumentError: `sliding_window` is less than 1, or the cache's length negative.
        ArgumentTypeError: `dtype` is no dtype.
        DTypeError: `dtype` is not floating.

    Example:
        >>> _create_4d_causal_attention_mask((1, 2), torch.float16, past_key_values_length=1)
        tensor([[[[     0.,      0., -65504.],
                  [     0.,      0.,      0.]]]], dtype=torch.float16)
    """
    q_len = input_shape[-1]
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    return converter.to_causal_4d(input_shape[0], q_len, q_len + past_key_values_length, dtype, device)


def _prepare_4d_causal_attention_mask(
    attention_mask: Tensor | None,
    input_shape: Sequence[int],
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Write out causality and padding.

    Args:
        attention_mask: `[B, past + Q]`, 1 = a token; or `[B, 1, Q, past + Q]`, 1 = attend, which is
            turned into an additive mask as it is, without causality; or None.
        input_shape: `(B, Q)`.
        inputs_embeds: Any tensor of the dtype and on the device that the table shall have.
        past_key_values_length: Cached keys, all before the first query.
        sliding_window: Keys kept before the query's own, so one more in all; None: all.

    Returns:
        `[B, 1, Q, past + Q]`, 0 or `finfo(inputs_embeds.dtype).min`; None without a mask for one query and no
        window. Of a 4-D mask it has that mask's own floating dtype (the default dtype for integers and bool)
        unless that cannot hold the number.

    Raises:
        ArgumentError: `sliding_window` is less than 1, or the cache's length negative.
        DTypeError: `inputs_embeds` are not floating.
        ShapeError: The mask has another shape.

    Example:
        >>> embeds = torch.zeros(1, 2, 8, dtype=torch.float16)
        >>> _prepare_4d_causal_attention_mask(torch.tensor([[0, 1]]), (1, 2), embeds, 0)
        tensor([[[[-65504., -65504.],
                  [-65504.,      0.]]]], dtype=torch.float16)
    """
    q_len = input_shape[-1]
    kv_len = q_len + past_key_values_length
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    if attention_mask is None:
        return converter.to_causal_4d(
            input_shape[0], q_len, kv_len, inputs_embeds.dtype, inputs_embeds.device
        )
    if attention_mask.dim() != 4:
        return converter.to_4d(attention_mask, q_len, inputs_embeds.dtype, kv_len)
    expected = (input_shape[0], 1, q_len, kv_len)
    if tuple(attention_mask.shape) != expected:
        raise ShapeError(
            f"a 4-D attention mask must be [B, 1, Q, K] = {list(expected)}, got "
            f"shape={list(attention_mask.shape)}; K counts the cached keys and the new ones"
        )
    return _inverted(attention_mask, inputs_embeds.dtype)


def _prepare_4d_causal_attention_mask_for_sdpa(
    attention_mask: Tensor | None,
    input_shape: Sequence[int],
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor | None:
    """Write out causality and padding where SDPA's `is_causal` does not say it all.

    Args:
        attention_mask: `[B, past + Q]`, 1 = a token; or a 4-D additive mask, which is handed on as it is;
            or None.
        input_shape: `(B, Q)`.
        inputs_embeds: `[B, Q, ...]`, of the dtype and on the device that the table shall have.
        past_key_values_length: Cached keys, all before the first query.
        sliding_window: Keys kept before the query's own, so one more in all; None: all.

    Returns:
        None where causality (for one query, nothing) is all there is; then pass `is_causal=Q > 1`. Else
        `[B, 1, Q, past + Q]`. On a GPU its rows that see nothing are turned into -0.0, since SDPA's kernel
        there gives NaN for them.

    Raises:
        ArgumentError: `sliding_window` is less than 1, or the cache's length negative.
        DTypeError: `inputs_embeds` are not floating, or, on a GPU, a 4-D mask is not.
        ShapeError: The mask has neither two nor four dimensions, or two and another number of keys.

    Example:
        >>> embeds, mask = torch.zeros(1, 2, 8), torch.tensor([[1, 1]])
        >>> _prepare_4d_causal_attention_mask_for_sdpa(mask, (1, 2), embeds, 0) is None
        True
    """
    q_len = input_shape[-1]
    kv_len = q_len + past_key_values_length
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    if converter._ignore_causal_mask_sdpa(
        attention_mask, inputs_embeds, past_key_values_length, sliding_window
    ):
        return None
    dtype = inputs_embeds.dtype
    if attention_mask is None:
        return converter.to_causal_4d(input_shape[0], q_len, kv_len, dtype, inputs_embeds.device)
    given_whole = attention_mask.dim() == 4
    table = attention_mask if given_whole else converter.to_4d(attention_mask, q_len, dtype, kv_len)
    if table.device.type in _NEEDS_A_KEY and not is_recorded(inputs_embeds):
        return converter._unmask_unattended(table, torch.finfo(dtype).min)
    return table


def _prepare_4d_attention_mask(
    mask: Tensor, dtype: torch.dtype = torch.float32, tgt_len: int | None = None
) -> Tensor:
    """Write out padding alone, for attention in both directions and for cross-attention.

    Args:
        mask: `[B, K]` of any dtype: 1 keeps a key, any other number hides it.
        dtype: The floating dtype of the table.
        tgt_len: Q; None: K.

    Returns:
        `[B, 1, Q, K]`, 0 or `finfo(dtype).min`.

    Raises:
        ArgumentTypeError: `dtype` is no dtype, or the mask no tensor.
        DTypeError: `dtype` is not floating.
        ShapeError: The mask is not `[B, K]`.

    Example:
        >>> _prepare_4d_attention_mask(torch.tensor([[0, 1]]), torch.float16)
        tensor([[[[-65504.,      0.],
                  [-65504.,      0.]]]], dtype=torch.float16)
    """
    return AttentionMaskConverter._expand_mask(mask, dtype, tgt_len)


def _prepare_4d_attention_mask_for_sdpa(
    mask: Tensor, dtype: torch.dtype = torch.float32, tgt_len: int | None = None
) -> Tensor | None:
    """Write out padding alone, unless there is none.

    Args:
        mask: `[B, K]` of any dtype: 1 keeps a key, any other number hides it.
        dtype: The floating dtype of the table.
        tgt_len: Q; None: K.

    Returns:
        None for a mask of ones, outside a recorded graph; else `[B, 1, Q, K]`.

    Raises:
        ArgumentTypeError: `dtype` is no dtype, or the mask no tensor.
        DTypeError: `dtype` is not floating.
        ShapeError: The mask is not `[B, K]`.

    Example:
        >>> _prepare_4d_attention_mask_for_sdpa(torch.ones(2, 5)) is None
        True
    """
    require_rows(mask, "_prepare_4d_attention_mask_for_sdpa()")
    if not is_recorded(mask) and bool((mask == 1).all()):
        return None
    return AttentionMaskConverter._expand_mask(mask, dtype, tgt_len)


def _inverted(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a mask is 1, the lowest number of `dtype` elsewhere, in the mask's own floating dtype."""
    require_floating(dtype, "_prepare_4d_causal_attention_mask()")
    lowest = torch.finfo(dtype).min
    own = mask.dtype if mask.dtype.is_floating_point else torch.get_default_dtype()
    holds = own if torch.finfo(own).min <= lowest else dtype
    return torch.zeros_like(mask, dtype=holds).masked_fill_(mask != 1, lowest)
