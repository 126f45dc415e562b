"""Padding: positions of a batch that hold no token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.masks.vector import kept
from saccade.mod_value import is_integral, require_at_least, require_tensor

__all__ = ["create_padding_mask", "padding"]


@final
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class padding(Mask):
    """Show the keys that are not padding.

    Query i of batch entry b keeps every key of that entry that holds a token, later ones included; for
    language models write `causal & padding(...)`. With `queries=True` a query that is padding keeps none, so
    its output is 0. Give exactly one of `pads`, `keep` and `lengths`.

    Args:
        pads: bool tensor `[B, K]`, True where a key is padding.
        keep: bool or integer tensor `[B, K]`, True (or not 0) where a key is a token: the `attention_mask`
            of transformers. Both tables are kept as given, and read when the mask is used.
        lengths: Tokens in each batch entry: ints, or an integer tensor `[B]`. Of ints the table is made on
            the CPU, now.
        side: Where the padding of `lengths` lies: "right" (tokens first) or "left" (tokens last).
        kv_len: Keys in a row, K; needed by, and only by, `side="left"`.
        queries: Hide padded queries too. It reads the same table (or lengths) at `q_idx`, so it is for self
            attention, where queries and keys are the same positions.

    Raises:
        ArgumentError: Not exactly one of the three is given; `side` is neither word, or "left" without
            `lengths`; `kv_len` is missing, or given where it has no use; a length is negative or above
            `kv_len`.
        ArgumentTypeError: `pads` or `keep` is no tensor, or a number is not an integer.
        DTypeError: `pads` is not bool, `keep` is neither bool nor integer, or `lengths` are not integers.
        ShapeError: A table is not `[B, K]`, or `lengths` not `[B]`.

    Example:
        >>> b, q_idx, kv_idx = torch.arange(2)[:, None, None], torch.arange(3)[:, None], torch.arange(3)
        >>> padding(lengths=[3, 2], queries=True)(b, 0, q_idx, kv_idx).int()
        tensor([[[1, 1, 1],
                 [1, 1, 1],
                 [1, 1, 1]],
        <BLANKLINE>
                [[1, 1, 0],
                 [1, 1, 0],
                 [0, 0, 0]]], dtype=torch.int32)
    """

    pads: Tensor | None = None
    keep: Tensor | None = None
    lengths: Sequence[int] | Tensor | None = None
    side: Literal["right", "left"] = "right"
    kv_len: int | None = None
    queries: bool = False
    usage: ClassVar[str] = "padding(lengths=[1024, 700])"
    _lengths: Tensor | None = field(init=False, repr=False, compare=False, default=None)  # [B] integer

    def __post_init__(self) -> None:
        given = [name for name in ("pads", "keep", "lengths") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ArgumentError(
                "padding() expects exactly one of pads, keep and lengths, "
                f"got {' and '.join(given) or 'none'}; of several descriptions keep one"
            )
        self._check_side()
        if self.lengths is not None:
            object.__setattr__(self, "_lengths", self._read_lengths(self.lengths))
        if self.pads is not None:
            require_tensor(self.pads, "padding(): pads")
            if self.pads.dtype is not torch.bool:
                raise DTypeError(
                    f"padding(): pads must be bool, True = padding, got dtype={self.pads.dtype}; "
                    "for a 0/1 table of tokens use keep="
                )
            _check_axes(self.pads, "pads")
        if self.keep is not None:
            require_tensor(self.keep, "padding(): keep")
            if self.keep.dtype is not torch.bool and not is_integral(self.keep):
                raise DTypeError(
                    f"padding(): keep must be bool or 0/1 integers, got dtype={self.keep.dtype}; "
                    "convert it with .bool()"
                )
            _check_axes(self.keep, "keep")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        visible = self._is_token(b, kv_idx)
        return visible & self._is_token(b, q_idx) if self.queries else visible

    def _is_token(self, b: Tensor, position: Tensor) -> Tensor:
        if self.pads is not None:
            return ~self.pads[b, position]
        if self.keep is not None:
            kept = self.keep[b, position]
            return kept if self.keep.dtype is torch.bool else kept != 0
        assert self._lengths is not None
        if self.kv_len is None:
            return position < self._lengths[b]
        return position >= self.kv_len - self._lengths[b]

    def _check_side(self) -> None:
        if self.side not in ("right", "left"):
            raise ArgumentError(f"padding(): side must be 'right' or 'left', got side={self.side!r}")
        if self.side == "left" and self.lengths is None:
            raise ArgumentError(
                "padding(): side says where the padding of lengths lies, got side='left' with a table; "
                "leave it out"
            )
        if self.side == "left" and self.kv_len is None:
            raise ArgumentError(
                "padding(): side='left' needs the number of keys in a row, got kv_len=None; give kv_len="
            )
        if self.side == "right" and self.kv_len is not None:
            raise ArgumentError(
                f"padding(): kv_len is for side='left' alone, got kv_len={self.kv_len}; leave it out"
            )
        if self.kv_len is not None:
            require_at_least(0, self.kv_len, "padding(): kv_len")

    def _read_lengths(self, lengths: Sequence[int] | Tensor) -> Tensor:
        """The lengths as a tensor; ints are checked, a tensor is left unread and may change."""
        if isinstance(lengths, Tensor):
            if not is_integral(lengths):
                raise DTypeError(
                    f"padding(): lengths must be of an integer dtype, got dtype={lengths.dtype}; "
                    "convert it with .long()"
                )
            if lengths.dim() != 1:
                raise ShapeError(
                    f"padding(): lengths must be [B], got shape={list(lengths.shape)}; flatten it"
                )
            return lengths
        lengths = kept(lengths, "padding(): lengths")
        object.__setattr__(self, "lengths", lengths)
        for length in lengths:
            require_at_least(0, length, "padding(): each of lengths")
            if self.kv_len is not None and length > self.kv_len:
                raise ArgumentError(
                    f"padding(): lengths must not exceed kv_len={self.kv_len}, got {list(lengths)}; "
                    "give the keys in a row as kv_len"
                )
        # The device is named because torch.set_default_device may have made another one the default.
        return torch.tensor(lengths, dtype=torch.int64, device="cpu")


def _check_axes(table: Tensor, name: str) -> None:
    if table.dim() != 2:
        raise ShapeError(
            f"padding(): {name} must be [B, K], got shape={list(table.shape)}; add the batch axis with [None]"
        )


def create_padding_mask(pads: Tensor) -> padding:
    """Hide every pair of which the query or the key is padding.

    The same as `padding(pads=pads, queries=True)`: a token keeps all tokens of its batch entry, later ones
    included; padding keeps nothing, so its output is 0.

    Args:
        pads: bool tensor `[B, S]`, True where a position is padding.

    Returns:
        A mask. `and_masks(causal, create_padding_mask(pads))` is padded causal self attention.

    Raises:
        ArgumentTypeError: `pads` is no tensor.
        DTypeError: `pads` is not bool.
        ShapeError: `pads` is not `[B, S]`.

    Example:
        >>> pads = torch.tensor([[False, False, True]])
        >>> q_idx, kv_idx = torch.arange(3)[:, None], torch.arange(3)
        >>> create_padding_mask(pads)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0],
                [1, 1, 0],
                [0, 0, 0]], dtype=torch.int32)
    """
    return padding(pads=pads, queries=True)
