"""A mask given as a table. The slowest form to analyse, and the one that can say anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.mod_value import read_table, require_tensor

__all__ = ["dense"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class dense(Mask):
    """Show the pairs whose entry in a table is True.

    Query i keeps exactly the keys that row i marks. Use it for a mask that exists as a tensor already; a rule
    written in indices is analysed faster and needs no memory.

    Args:
        table: bool tensor `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`, True = attend, as in torch's
            scaled_dot_product_attention. Axes of size 1 broadcast. Kept as given, and read when the mask is
            used.

    Raises:
        ArgumentTypeError: `table` is no tensor.
        DTypeError: `table` is not bool.
        ShapeError: `table` has not 2, 3 or 4 axes.

    Example:
        >>> table = torch.tensor([[True, False, True], [False, True, True]])
        >>> q_idx, kv_idx = torch.arange(2)[:, None], torch.arange(3)
        >>> dense(table)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 1],
                [0, 1, 1]], dtype=torch.int32)
    """

    table: Tensor
    usage: ClassVar[str] = "dense(table)"

    def __post_init__(self) -> None:
        require_tensor(self.table, "dense(): table")
        if self.table.dtype is not torch.bool:
            raise DTypeError(
                f"dense(): table must be bool, True = attend, got dtype={self.table.dtype}; "
                "an additive table is a score: bias(table)"
            )
        if self.table.dim() not in (2, 3, 4):
            raise ShapeError(
                "dense(): table must be [Q, K], [H, Q, K] or [B, H, Q, K], "
                f"got shape={list(self.table.shape)}; unsqueeze or index it to one of these"
            )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return read_table(self.table, b, h, q_idx, kv_idx)
