"""Global tokens: positions that see everything and are seen by everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.mod_value import require_at_least

__all__ = ["global_tokens"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class global_tokens(Mask):
    """Show every pair of which the query or the key is a global token.

    A global query keeps every key; any other query keeps the global keys alone, as many as there are. Both
    look ahead, so the mask is not causal. It is one part of a pattern: Longformer (arXiv 2004.05150) is
    `local(w, w) | global_tokens(...)`, BigBird (arXiv 2007.14062) adds `random_blocks`. Queries and keys are
    the same positions.

    Args:
        tokens: How many positions at the start are global, an int, 0 or more; or a bool tensor `[S]` or
            `[B, S]`, True where a position is global, which is read when the mask is used.

    Raises:
        ArgumentError: An int `tokens` is negative.
        ArgumentTypeError: `tokens` is neither an integer nor a tensor.
        DTypeError: A tensor `tokens` is not bool.
        ShapeError: A tensor `tokens` is neither `[S]` nor `[B, S]`.

    Example:
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> global_tokens(torch.tensor([False, True, False, False]))(0, 0, q_idx, kv_idx).int()
        tensor([[0, 1, 0, 0],
                [1, 1, 1, 1],
                [0, 1, 0, 0],
                [0, 1, 0, 0]], dtype=torch.int32)
    """

    tokens: int | Tensor
    usage: ClassVar[str] = "global_tokens(tokens=16)"

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, Tensor):
            require_at_least(0, self.tokens, "global_tokens(): tokens")
            return
        if self.tokens.dtype is not torch.bool:
            raise DTypeError(
                "global_tokens(): tokens must be an int or a bool tensor, True = global, "
                f"got dtype={self.tokens.dtype}; for positions, set those of a table of False to True"
            )
        if self.tokens.dim() not in (1, 2):
            raise ShapeError(
                f"global_tokens(): tokens must be [S] or [B, S], got shape={list(self.tokens.shape)}; "
                "give one bool per position"
            )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self._is_global(b, q_idx) | self._is_global(b, kv_idx)

    def _is_global(self, b: Tensor, position: Tensor) -> Tensor:
        if not isinstance(self.tokens, Tensor):
            return position < self.tokens
        return self.tokens[position] if self.tokens.dim() == 1 else self.tokens[b, position]
