"""A temperature for each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.scores.base import Score

__all__ = ["head_scale"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class head_scale(Score):
    """Multiply each head's scores by a number of its own: `score * scale[h]`.

    A scale above 1 sharpens a head's attention, one below 1 flattens it. Nothing is hidden. With queries and
    keys of length 1 this is the cosine attention of Swin V2 (arXiv 2111.09883), whose scale is 1 / τ, learned
    for each head; call attention with `scale=1.0` there.

    Args:
        scale: Floating tensor `[Hq]`, which may require a gradient. Kept as given, and read when the score is
            used.

    Raises:
        DTypeError: `scale` is not of a floating dtype.
        ShapeError: `scale` is not `[Hq]`.

    Example:
        >>> import torch
        >>> index, h = torch.tensor(0), torch.arange(2)[:, None]
        >>> head_scale(torch.tensor([0.5, 3.0]))(torch.tensor([1.0, 2.0]), index, h, index, torch.arange(2))
        tensor([[0.5000, 1.0000],
                [3.0000, 6.0000]])
    """

    scale: Tensor
    usage: ClassVar[str] = "head_scale(scale)"

    def __post_init__(self) -> None:
        if not self.scale.dtype.is_floating_point:
            raise DTypeError(
                f"head_scale(): scale must be floating, got dtype={self.scale.dtype}; "
                "convert it with .float()"
            )
        if self.scale.dim() != 1:
            raise ShapeError(
                "head_scale(): scale must be [Hq], one for each query head, "
                f"got shape={list(self.scale.shape)}; one number for all heads is flex_attention(scale=...)"
            )

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * self.scale[h]
