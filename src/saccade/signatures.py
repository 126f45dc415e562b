"""The two kinds of function a user writes, and the letters that every shape in Saccade is written with.

    B    batch                       Hq   query heads
    Q    queries (rows)              Hkv  key and value heads; Hq is a multiple of Hkv
    K    keys (columns)              D    width of a query and of a key
                                     Dv   width of a value, and of the output

    query [B, Hq, Q, D]    key [B, Hkv, K, D]    value [B, Hkv, K, Dv]    output [B, Hq, Q, Dv]

Indices are always called `b`, `h`, `q_idx` and `kv_idx`; `h` counts *query* heads. This module owns the types
alone: how a function is read is `tracing`'s, what it means is `ir`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MaskMod", "Mod", "ScoreMod"]


class MaskMod(Protocol):
    """A function that says whether a query may see a key.

    It is called once, with index values that stand for every pair, and returns a bool: True means attend.
    It may read tensors of the enclosing scope by index.

    Example:
        >>> def causal(b, h, q_idx, kv_idx):
        ...     return q_idx >= kv_idx
    """

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, /) -> Tensor:
        """Return True where the query at `q_idx` may see the key at `kv_idx`; all four are integers."""
        ...


class ScoreMod(Protocol):
    """A function that changes a score before the softmax.

    `score` is `q·k * scale`; what the function returns takes its place. It may read tensors of the enclosing
    scope by index, parameters that want a gradient included.

    Example:
        >>> def distance(score, b, h, q_idx, kv_idx):
        ...     return score - 0.5 * (q_idx - kv_idx)
    """

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, /) -> Tensor:
        """Return the new score of the pair; `score` is a float, the others are integers."""
        ...


Mod: TypeAlias = MaskMod | ScoreMod
"""Either kind of function."""
