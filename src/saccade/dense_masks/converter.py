"""`AttentionMaskConverter`: one rule of causality, window and padding, as an additive tensor or as a mask.

Owns what the rule hides. Which of its tensors a model's attention is given is `prepare`'s. Invariant: for the
same lengths and the same 2-D mask, tensor and mask form agree about every pair, but for keys whose number in
a floating 2-D mask is not 1 and is rounded to 1 in the table's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.block_mask import BlockMask, create_block_mask
from saccade.dense_masks.recording import is_recorded
from saccade.dense_masks.tables import (
    hidden_by_mask,
    hidden_by_position,
    require_floating,
    require_reach,
    require_rows,
    written,
)
from saccade.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from saccade.masks import Mask, causal, local, noop_mask, padding, shift
from saccade.mod_value import require_at_least

__all__ = ["AttentionMaskConverter"]


@final
@dataclass(frozen=True)
class AttentionMaskConverter:
    """Turn lengths and a 2-D padding mask into a 4-D additive mask, or into a mask of this library.

    The queries are the last of the keys: query i stands at position `key_value_length - query_length + i`.
    Methods that transformers has give its tensors, to the bit; `mask_mod` and `block_mask` give the same
    pairs without a table. In the 2-D masks 1 keeps a key, and *any* other number hides it. A table compares
    them in its own dtype, as transformers does, so that bfloat16 takes 0.9999 for 1; the mask forms, which
    have no dtype, compare them as they are.

    Where transformers raises or guesses, this does not follow: a 2-D mask of one entry must be for one key
    (there it is broadcast over all), a bool 4-D mask is taken, and float64 tables are written even by
    releases of transformers that overflow on them.

    Args:
        is_causal: Whether a query sees keys up to its own position alone.
        sliding_window: Keys that a query keeps *before its own*, so `sliding_window + 1` in all: one more
            than `saccade.sliding_window` of the same number keeps. None: all of them. Needs `is_causal`.

    Raises:
        ArgumentError: `sliding_window` is less than 1.
        ArgumentTypeError: `sliding_window` is not an integer.

    Source: transformers, `modeling_attn_mask_utils.AttentionMaskConverter`.

    Example:
        >>> converter = AttentionMaskConverter(is_causal=True)
        >>> converter
        AttentionMaskConverter(is_causal=True, sliding_window=None)
        >>> converter.to_4d(torch.tensor([[0, 1, 1]]), 3, dtype=torch.float16, key_value_length=3)
        tensor([[[[-65504., -65504., -65504.],
                  [-65504.,      0., -65504.],
                  [-65504.,      0.,      0.]]]], dtype=torch.float16)
        >>> converter.mask_mod(3, 3, torch.tensor([[0, 1, 1]]))
        causal & padding(keep=bool[1, 3])
    """

    is_causal: bool
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        if self.sliding_window is not None:
            require_at_least(1, self.sliding_window, "AttentionMaskConverter(): sliding_window")

    def to_causal_4d(
        self,
        batch_size: int,
        query_length: int,
        key_value_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor | None:
        """Write out what the order of positions hides.

        Args:
            batch_size: B.
            query_length: Q.
            key_value_length: K, cached keys included; at least Q.
            dtype: The floating dtype of the table.
            device: Where it lies.

        Returns:
            `[B, 1, Q, K]`, 0 or `finfo(dtype).min`, expanded along the batch; None when nothing is hidden,
            which is so for a single query without a window.

        Raises:
            ArgumentError: The converter is not causal, or there are fewer keys than queries.
            ArgumentTypeError: `dtype` is no dtype.
            DTypeError: `dtype` is not floating.

        Example:
            >>> AttentionMaskConverter(True).to_causal_4d(1, 2, 4, torch.float16)
            tensor([[[[     0.,      0.,      0., -65504.],
                      [     0.,      0.,      0.,      0.]]]], dtype=torch.float16)
            >>> AttentionMaskConverter(True).to_causal_4d(1, 1, 4) is None
            True
        """
        require_floating(dtype, "to_causal_4d()")
        if not self.is_causal:
            raise ArgumentError(
                f"to_causal_4d() expects a causal converter, got {self!r}; call to_4d() with a 2-D mask, or "
                "make the converter with is_causal=True"
            )
        if not self._reads_positions(query_length):
            return None
        past = key_value_length - query_length
        return self._make_causal_mask((batch_size, query_length), dtype, device, past, self.sliding_window)

    def to_4d(
        self,
        attention_mask_2d: Tensor,
        query_length: int,
        dtype: torch.dtype = torch.float32,
        key_value_length: int | None = None,
    ) -> Tensor:
        """Write out what a 2-D mask hides and, if the converter is causal, the order of positions too.

        Args:
            attention_mask_2d: `[B, K]` of any dtype: 1 keeps a key, any other number hides it.
            query_length: Q.
            dtype: The floating dtype of the table.
            key_value_length: K. A causal converter needs it, except for a single query without a window,
                where it is not read.

        Returns:
            `[B, 1, Q, K]`, 0 or `finfo(dtype).min`, on the mask's device.

        Raises:
            ArgumentError: `key_value_length` is missing, or less than `query_length`.
            ArgumentTypeError: `dtype` is no dtype, or the mask no tensor.
            DTypeError: `dtype` is not floating.
            ShapeError: The mask is not `[B, K]`.
            UnsupportedError: A window and no causality.

        Example:
            >>> AttentionMaskConverter(False).to_4d(torch.tensor([[0, 1, 1]]), 2, torch.float16)
            tensor([[[[-65504.,      0.,      0.],
                      [-65504.,      0.,      0.]]]], dtype=torch.float16)
        """
        require_floating(dtype, "to_4d()", length="key_value_length")
        require_rows(attention_mask_2d, "to_4d()")
        if not self._reads_positions(query_length):
            return self._expand_mask(attention_mask_2d, dtype, query_length)
        if key_value_length is None:
            raise ArgumentError(
                f"to_4d() of {self!r} needs the number of keys, to know where the queries stand among them, "
                "got key_value_length=None; give key_value_length=, the cached keys and the new ones"
            )
        _require_keys(attention_mask_2d, key_value_length, "to_4d()")
        by_position = hidden_by_position(
            query_length, key_value_length, self.sliding_window, attention_mask_2d.device
        )
        return written(by_position | hidden_by_mask(attention_mask_2d, dtype), dtype)

    def mask_mod(
        self, query_length: int, key_value_length: int, attention_mask_2d: Tensor | None = None
    ) -> Mask:
        """Give the rule as a mask, without a table.

        It shows the pairs at which `to_4d` (without a 2-D mask, `to_causal_4d`) has 0: exactly those, unless
        a number of a floating 2-D mask is not 1 and is rounded to 1 in the table's dtype, which is hidden
        here.

        Args:
            query_length: Q.
            key_value_length: K.
            attention_mask_2d: `[B, K]`: True or 1 keeps a key, any other number hides it. A bool one is
                kept as given, and read when the mask is used; of another dtype it is compared with 1 now.

        Returns:
            A mask made of `causal`, `local`, `shift` and `padding`; `noop_mask` when nothing is hidden.

        Raises:
            ArgumentError: The converter is causal, and there are fewer keys than queries.
            ArgumentTypeError: The 2-D mask is no tensor.
            ShapeError: It is not `[B, K]`.
            UnsupportedError: A window and no causality.

        Example:
            >>> AttentionMaskConverter(True).mask_mod(2, 6)
            shift(causal, q=4)
            >>> AttentionMaskConverter(True, sliding_window=3).mask_mod(6, 6)
            local(left=3, right=0)
        """
        rule: Mask | None = None
        if self._reads_positions(query_length):
            require_reach(query_length, key_value_length)
            window, past = self.sliding_window, key_value_length - query_length
            rule = causal if window is None else local(left=window, right=0)
            rule = shift(rule, q=past) if past else rule
        if attention_mask_2d is None:
            return noop_mask if rule is None else rule
        require_rows(attention_mask_2d, "mask_mod()")
        _require_keys(attention_mask_2d, key_value_length, "mask_mod()")
        is_bool = attention_mask_2d.dtype is torch.bool
        tokens = padding(keep=attention_mask_2d if is_bool else attention_mask_2d == 1)
        return tokens if rule is None else rule & tokens

    def block_mask(
        self,
        batch_size: int,
        query_length: int,
        key_value_length: int,
        attention_mask_2d: Tensor | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> BlockMask:
        """Work out which blocks the rule shows: `create_block_mask` of `mask_mod`.

        Args:
            batch_size: B; the mask serves every head.
            query_length: Q.
            key_value_length: K.
            attention_mask_2d: As for `mask_mod`.
            device: Where its index tensors are handed out; by default the 2-D mask's device or, without one,
                the machine's accelerator, or else the CPU.

        Returns:
            The mask, of shape `(B, 1, Q, K)`.

        Raises:
            ShapeError: The 2-D mask is for another number of batch entries, or not `[B, K]`.
            SaccadeError: As for `mask_mod` and `create_block_mask`.

        Example:
            >>> mask = AttentionMaskConverter(True).block_mask(2, 256, 512, device="cpu")
            >>> print(mask.mask_mod, mask.shape, mask.visible_pairs())
            shift(causal, q=256) (2, 1, 256, 512) 196864
        """
        mask_mod = self.mask_mod(query_length, key_value_length, attention_mask_2d)
        if attention_mask_2d is not None:
            if attention_mask_2d.shape[0] != batch_size:
                raise ShapeError(
                    "block_mask(): the attention mask must have one row a batch entry, got "
                    f"shape={list(attention_mask_2d.shape)} and batch_size={batch_size}; expand it"
                )
            device = attention_mask_2d.device if device is None else device
        return create_block_mask(mask_mod, batch_size, None, query_length, key_value_length, device=device)

    @staticmethod
    def _make_causal_mask(
        input_ids_shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        past_key_values_length: int = 0,
        sliding_window: int | None = None,
    ) -> Tensor:
        """Write out causality: `[B, 1, Q, past + Q]`, expanded along the batch, from a shape `(B, Q)`.

        Args:
            input_ids_shape: `(B, Q)`.
            dtype: The floating dtype of the table.
            device: Where it lies.
            past_key_values_length: Cached keys, all before the first query.
            sliding_window: Keys kept before the query's own; None: all.

        Raises:
            ArgumentError: The cache's length is negative.
            ArgumentTypeError: `dtype` is no dtype.
            DTypeError: `dtype` is not floating.
        """
        require_floating(dtype, "_make_causal_mask()")
        batch, q_len = input_ids_shape
        hidden = hidden_by_position(q_len, q_len + past_key_values_length, sliding_window, device)
        return written(hidden, dtype).expand(batch, 1, *hidden.shape)

    @staticmethod
    def _expand_mask(mask: Tensor, dtype: torch.dtype = torch.float32, tgt_len: int | None = None) -> Tensor:
        """Write out a 2-D mask `[B, K]` for every query: `[B, 1, Q, K]`.

        Args:
            mask: 1 keeps a key, any other number hides it.
            dtype: The floating dtype of the table.
            tgt_len: Q; None: K.

        Raises:
            ArgumentTypeError: `dtype` is no dtype, or the mask no tensor.
            DTypeError: `dtype` is not floating.
            ShapeError: The mask is not `[B, K]`.
        """
        require_floating(dtype, "_expand_mask()", length="tgt_len")
        require_rows(mask, "_expand_mask()")
        batch, kv_len = mask.shape
        q_len = kv_len if tgt_len is None else tgt_len
        return written(hidden_by_mask(mask, dtype).expand(batch, 1, q_len, kv_len), dtype)

    @staticmethod
    def _unmask_unattended(expanded_mask: Tensor, min_dtype: float | None = None) -> Tensor:
        """Let rows that see nothing see everything, for kernels that fail on them; their zeros are -0.0.

        Saccade needs no such repair: its backends give such a row 0.

        Args:
            expanded_mask: An additive mask `[..., Q, K]`.
            min_dtype: The number that hides; None: `finfo(expanded_mask.dtype).min`.

        Returns:
            The mask, in which a row of nothing but that number holds -0.0.

        Raises:
            DTypeError: The mask is not floating.

        Example:
            >>> lowest = torch.finfo(torch.float16).min
            >>> table = torch.tensor([[lowest, lowest], [0.0, lowest]], dtype=torch.float16)
            >>> AttentionMaskConverter._unmask_unattended(table)
            tensor([[    -0.,     -0.],
                    [     0., -65504.]], dtype=torch.float16)
        """
        if not expanded_mask.dtype.is_floating_point:
            raise DTypeError(
                "_unmask_unattended() expects an additive mask of a floating dtype, got "
                f"expanded_mask.dtype={expanded_mask.dtype}; write it out first, for one with to_4d()"
            )
        lowest = torch.finfo(expanded_mask.dtype).min if min_dtype is None else min_dtype
        sees_nothing = (expanded_mask == lowest).all(dim=-1, keepdim=True)
        return expanded_mask.masked_fill(sees_nothing, -0.0)

    @staticmethod
    def _ignore_causal_mask_sdpa(
        attention_mask: Tensor | None,
        inputs_embeds: Tensor,
        past_key_values_length: int,
        sliding_window: int | None = None,
        is_training: bool = False,
    ) -> bool:
        """Tell whether SDPA's `is_causal` (for one query, nothing) says all that the mask would.

        While a graph is recorded that must serve other inputs, a 2-D mask is never left out, and no mask only
        in training; see `saccade.dense_masks.recording`.

        Args:
            attention_mask: None, `[B, K]` or `[B, 1, Q, K]`.
            inputs_embeds: `[B, Q, ...]`.
            past_key_values_length: Cached keys.
            sliding_window: Keys kept before the query's own; the mask is needed unless K is below it.
            is_training: Whether a recorded graph is for training.

        Returns:
            Whether the mask may be left out. False for every 4-D mask.
        """
        q_len = inputs_embeds.shape[1]
        kv_len = q_len + past_key_values_length
        recorded = is_recorded(inputs_embeds)
        if recorded and not (is_training and attention_mask is None):
            return False
        if sliding_window is not None and kv_len >= sliding_window:
            return False
        # In these cases alone a query at the end of the keys sees what SDPA's `is_causal` (or nothing) says.
        if q_len != 1 and kv_len != q_len:
            return False
        return attention_mask is None or (attention_mask.dim() != 4 and bool((attention_mask == 1).all()))

    def _reads_positions(self, query_length: int) -> bool:
        """Whether the order of positions can hide a pair; a single query is the last position.

        Raises:
            UnsupportedError: A window and no causality.
        """
        if self.sliding_window is None:
            return self.is_causal and query_length > 1
        if not self.is_causal:
            raise UnsupportedError(
                f"a sliding window is offered for causal converters alone, got {self!r}; for a window in "
                "both directions use the mask local(left=..., right=...)"
            )
        return True


def _require_keys(mask: Tensor, kv_len: int, receiver: str) -> None:
    """Check that a 2-D mask has one entry a key."""
    if mask.shape[1] != kv_len:
        raise ShapeError(
            f"{receiver}: the attention mask must have one entry a key, [B, {kv_len}], got "
            f"shape={list(mask.shape)} and key_value_length={kv_len}; cached keys count too"
        )
