"""Masks of long sequences that choose keys by distance or chunk: chunks, sinks, gaps.

Like those of `order`, they compare the two positions alone. Invariant: `q_idx` and `kv_idx` count from the
upper left corner; `shift` moves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from saccade.masks.base import Mask
from saccade.mod_value import require_at_least

__all__ = ["chunked", "dilated_window", "streaming", "strided"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class chunked(Mask):
    """Show the keys of the query's own chunk of `size` positions.

    Chunks are laid end to end from position 0. Every query keeps the `size` keys of its chunk, fewer in the
    last one, those after it included: the mask is not causal. `causal & chunked(8192)` is the chunked
    attention of Llama 4 and of transformers' `create_chunked_causal_mask`. Chunks that start after `pads`
    tokens of left padding are `shift(chunked(size), q=-pads, kv=-pads)`.

    Args:
        size: Positions in a chunk; 1 or more.

    Raises:
        ArgumentError: `size` is less than 1.
        ArgumentTypeError: `size` is not an integer.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(5)[:, None], torch.arange(5)
        >>> chunked(3)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 1, 0, 0],
                [1, 1, 1, 0, 0],
                [1, 1, 1, 0, 0],
                [0, 0, 0, 1, 1],
                [0, 0, 0, 1, 1]], dtype=torch.int32)
    """

    size: int
    usage: ClassVar[str] = "chunked(size=8192)"

    def __post_init__(self) -> None:
        require_at_least(1, self.size, "chunked(): size")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx // self.size == kv_idx // self.size


@final
@dataclass(frozen=True, eq=False, repr=False)
class streaming(Mask):
    """Show the last `window` keys and the `first` keys of all; none ahead.

    Query i keeps keys i - window + 1 to i, its own among them, and keys 0 to first - 1 as far as they are not
    after it: min(i + 1, window + first) keys. It is causal. The first keys are the attention sinks of
    StreamingLLM (arXiv 2309.17453), which keep a model stable when its window moves away from the start.

    Args:
        window: Keys kept up to the query, its own among them; 1 or more.
        first: Keys kept at the start; 0 or more.

    Raises:
        ArgumentError: `window` is less than 1, or `first` is negative.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        >>> streaming(window=2, first=1)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 0, 1, 1, 0, 0],
                [1, 0, 0, 1, 1, 0],
                [1, 0, 0, 0, 1, 1]], dtype=torch.int32)
    """

    window: int
    first: int
    usage: ClassVar[str] = "streaming(window=1024, first=4)"

    def __post_init__(self) -> None:
        require_at_least(1, self.window, "streaming(): window")
        require_at_least(0, self.first, "streaming(): first")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & ((q_idx - kv_idx < self.window) | (kv_idx < self.first))


@final
@dataclass(frozen=True, eq=False, repr=False)
class dilated_window(Mask):
    """Show every `dilation`-th key near the query: `left` of them before it, itself, and `right` after it.

    Query i keeps keys i - left · dilation, ..., i - dilation, i, i + dilation, ..., i + right · dilation:
    left + 1 + right of them, fewer at the ends. It looks right · dilation positions ahead, so `right=0` is
    causal; a dilation of 1 is `local(left, right)`. The dilated sliding window of Longformer (arXiv
    2004.05150), there with left = right, half the window.

    Args:
        left: Keys kept before the query's position; 0 or more.
        right: Keys kept after the query's position; 0 or more.
        dilation: Step from one key to the next; 1 or more.

    Raises:
        ArgumentError: A side is negative, or `dilation` is less than 1.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        >>> dilated_window(left=2, right=1, dilation=2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 1, 0, 0, 0],
                [0, 1, 0, 1, 0, 0],
                [1, 0, 1, 0, 1, 0],
                [0, 1, 0, 1, 0, 1],
                [1, 0, 1, 0, 1, 0],
                [0, 1, 0, 1, 0, 1]], dtype=torch.int32)
    """

    left: int
    right: int
    dilation: int
    usage: ClassVar[str] = "dilated_window(left=128, right=128, dilation=4)"

    def __post_init__(self) -> None:
        require_at_least(0, self.left, "dilated_window(): left")
        require_at_least(0, self.right, "dilated_window(): right")
        require_at_least(1, self.dilation, "dilated_window(): dilation")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        in_reach = (q_idx - kv_idx <= self.left * self.dilation) & (
            kv_idx - q_idx <= self.right * self.dilation
        )
        return in_reach & ((q_idx - kv_idx) % self.dilation == 0)


@final
@dataclass(frozen=True, eq=False, repr=False)
class strided(Mask):
    """Show the last `stride` keys, and of the earlier ones every `stride`-th; none ahead.

    Query i keeps keys i - stride + 1 to i, its own among them, and keys i - stride, i - 2 · stride, ...:
    min(i + 1, stride) + i // stride keys. It is causal. This is the strided pattern of Sparse Transformers
    (arXiv 1904.10509) with its two sets in one head; the first set alone is `sliding_window(stride + 1)`.

    Args:
        stride: The window's width, and the step beyond it; 1 or more. The paper takes it near the square
            root of the length.

    Raises:
        ArgumentError: `stride` is less than 1.
        ArgumentTypeError: `stride` is not an integer.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        >>> strided(2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [0, 1, 1, 1, 0, 0],
                [1, 0, 1, 1, 1, 0],
                [0, 1, 0, 1, 1, 1]], dtype=torch.int32)
    """

    stride: int
    usage: ClassVar[str] = "strided(stride=128)"

    def __post_init__(self) -> None:
        require_at_least(1, self.stride, "strided(): stride")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        far = q_idx - kv_idx
        return (q_idx >= kv_idx) & ((far < self.stride) | (far % self.stride == 0))
