"""A mask seen from other positions. Owns the one place where a query or key offset enters a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from saccade.masks.base import Mask
from saccade.masks.per_batch import at_batch, require_per_batch
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod

__all__ = ["shift"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class shift(Mask):
    """Evaluate a mask at `q_idx + q` and `kv_idx + kv`.

    A pair is visible when `mask_mod` shows the moved pair, so the number of keys kept and the look-ahead are
    those of `mask_mod` seen from there. Use it when row 0 is not position 0: the queries of a decoding step,
    a chunk of a longer sequence, a cache that dropped its first keys. `shift(causal, q=kv_len - q_len)` is
    causality aligned at the lower right corner.

    Args:
        mask_mod: The mask: a library mask or a function of `(b, h, q_idx, kv_idx)`.
        q: Added to every query position: an int, or an integer tensor `[]` or `[B]` (one offset per batch
            entry), which is read when the mask is used. A cache's length is a typical one.
        kv: Added to every key position, likewise.

    Raises:
        ModError: `mask_mod` is not callable, or a factory passed uncalled.
        ArgumentTypeError: An offset is neither an integer nor a tensor.
        DTypeError: An offset tensor is not of an integer dtype.
        ShapeError: An offset tensor has more than one axis.

    Example:
        >>> import torch
        >>> from saccade.masks import causal
        >>> q_idx, kv_idx = torch.arange(2)[:, None], torch.arange(6)
        >>> shift(causal, q=4)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 1, 1, 1, 0],
                [1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    """

    mask_mod: MaskMod
    q: int | Tensor = 0
    kv: int | Tensor = 0
    usage: ClassVar[str] = "shift(causal, q=kv_len - q_len)"

    def __post_init__(self) -> None:
        require_mod(self.mask_mod, "shift()")
        require_per_batch(self.q, "shift(): q")
        require_per_batch(self.kv, "shift(): kv")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.mask_mod(b, h, q_idx + at_batch(self.q, b), kv_idx + at_batch(self.kv, b))
