"""Masks that compare the two positions alone: nothing, causality, windows, a prefix.

Invariant: `q_idx` and `kv_idx` count from the upper left corner; `shift` moves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.masks.base import Mask
from saccade.masks.per_batch import at_batch, require_per_batch
from saccade.mod_value import require_at_least

__all__ = ["causal", "local", "noop_mask", "prefix_lm", "sliding_window"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class _Noop(Mask):
    """Show every pair: each query sees every key, later ones included.

    It is a mask itself: pass `noop_mask`, do not call it first. The name is torch's.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(6)
        >>> noop_mask(0, 0, q_idx, kv_idx)
        tensor(True)
    """

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx.new_ones((), dtype=torch.bool)

    def __repr__(self) -> str:
        return "noop_mask"


@final
@dataclass(frozen=True, eq=False, repr=False)
class _Causal(Mask):
    """Show the keys up to the query's own position: query i keeps keys 0 to i, which are i + 1; none ahead.

    It is a mask itself: pass `causal`, do not call it first. With unequal lengths the corner that is aligned
    is the upper left: query 0 sees key 0 alone. When the queries are the last of the keys' positions, as with
    a cache, write `shift(causal, q=kv_len - q_len)`.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(6)
        >>> causal(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0]], dtype=torch.int32)
    """

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx >= kv_idx

    def __repr__(self) -> str:
        return "causal"


noop_mask = _Noop()
causal = _Causal()


@final
@dataclass(frozen=True, eq=False, repr=False)
class local(Mask):
    """Show the keys near the query: `left` before it, itself, and `right` after it.

    Query i keeps keys i - left to i + right: left + 1 + right of them, fewer at the ends. It looks `right`
    keys ahead. This is flash-attn's `window_size=(left, right)`.

    Args:
        left: Keys kept before the query's position; 0 or more.
        right: Keys kept after the query's position; 0 or more.

    Raises:
        ArgumentError: A number is negative.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(6)
        >>> local(left=1, right=2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0],
                [0, 1, 1, 1, 1, 0],
                [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """

    left: int
    right: int
    usage: ClassVar[str] = "local(left=128, right=128)"

    def __post_init__(self) -> None:
        require_at_least(0, self.left, "local(): left")
        require_at_least(0, self.right, "local(): right")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx - kv_idx <= self.left) & (kv_idx - q_idx <= self.right)


@final
@dataclass(frozen=True, eq=False, repr=False)
class sliding_window(Mask):
    """Show the last `window` keys, the query's own position counted; none ahead.

    Query i keeps keys i - window + 1 to i: exactly `window` keys, fewer at the start. It is causal already,
    and counts as transformers' `masking_utils` does; libraries that keep window + 1 keys are written
    `sliding_window(window + 1)`. The pattern is that of Longformer (arXiv 2004.05150), made causal.

    Args:
        window: Keys kept, the query's own among them; 1 or more.

    Raises:
        ArgumentError: `window` is less than 1.
        ArgumentTypeError: `window` is not an integer.

    Example:
        >>> q_idx, kv_idx = torch.arange(5)[:, None], torch.arange(5)
        >>> sliding_window(2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 1, 1, 0, 0],
                [0, 0, 1, 1, 0],
                [0, 0, 0, 1, 1]], dtype=torch.int32)
    """

    window: int
    usage: ClassVar[str] = "sliding_window(window=256)"

    def __post_init__(self) -> None:
        require_at_least(1, self.window, "sliding_window(): window")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < self.window)


@final
@dataclass(frozen=True, eq=False, repr=False)
class prefix_lm(Mask):
    """Show a prefix to every query, and the rest causally.

    Query i keeps the keys below `prefix` and those up to i: max(prefix, i + 1) keys. It looks ahead inside
    the prefix only. Also called causal with prefix (T5, arXiv 1910.10683, figure 4).

    Args:
        prefix: Keys in the prefix: an int, 0 or more, or an integer tensor `[B]` (one prefix per batch
            entry) or `[]`, which is read when the mask is used.

    Raises:
        ArgumentError: An int `prefix` is negative.
        ArgumentTypeError: `prefix` is neither an integer nor a tensor.
        DTypeError: A tensor `prefix` is not of an integer dtype.
        ShapeError: A tensor `prefix` has more than one axis.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> prefix_lm(2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """

    prefix: int | Tensor
    usage: ClassVar[str] = "prefix_lm(prefix=256)"

    def __post_init__(self) -> None:
        require_per_batch(self.prefix, "prefix_lm(): prefix", minimum=0)

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx < at_batch(self.prefix, b)) | (q_idx >= kv_idx)
