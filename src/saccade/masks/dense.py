"""A mask given as a table. The slowest form to analyse, and the one that can say anything.

Owns which entries of a table hide a pair: False, or a penalty that no score survives. It adds no
penalty; that is the work of a score. Invariant: an entry of NaN shows its pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.mod_value import hides, read_table, require_tensor

__all__ = ["dense"]

_ADDITIVE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@final
@dataclass(frozen=True, eq=False, repr=False)
class dense(Mask):
    """Show the pairs that a table does not hide.

    Query i keeps exactly the keys that row i marks. Use it for a mask that exists as a tensor already; a rule
    written in indices is analysed faster and needs no memory.

    A floating table is an additive mask: 0 to keep a pair, `finfo(dtype).min` or -inf to hide it. An entry
    hides its pair when it is at most half of `finfo(dtype).min`, so that a penalty which was added to the
    lowest number, or taken from it, still hides. All others show theirs, and are not added to the scores
    here: pass `score_mod=bias(table)` beside it when there are penalties between. NaN shows its pair, so that
    a fault in the table reaches the output instead of disappearing.

    Args:
        table: `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`. bool, True = attend, as in torch's
            scaled_dot_product_attention; or float16, bfloat16, float32 or float64, an additive mask. Axes of
            size 1 broadcast, and what was expanded is read as it is stored. Kept as given, and read when the
            mask is used; without its gradient, since a pair is visible or not, so that one learned table may
            be a mask and a bias.

    Raises:
        ArgumentTypeError: `table` is no tensor.
        DTypeError: `table` is neither bool nor of one of the four floating dtypes.
        ShapeError: `table` has not 2, 3 or 4 axes.

    Example:
        >>> table = torch.tensor([[True, False, True], [False, True, True]])
        >>> q_idx, kv_idx = torch.arange(2)[:, None], torch.arange(3)
        >>> dense(table)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 1],
                [0, 1, 1]], dtype=torch.int32)
        >>> lowest = torch.finfo(torch.float32).min
        >>> dense(torch.tensor([[0.0, lowest, -1.5], [-torch.inf, 0.0, -1e9]]))(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 1],
                [0, 1, 1]], dtype=torch.int32)
    """

    table: Tensor
    usage: ClassVar[str] = "dense(table)"

    def __post_init__(self) -> None:
        require_tensor(self.table, "dense(): table")
        if self.table.dtype is not torch.bool and self.table.dtype not in _ADDITIVE:
            raise DTypeError(
                "dense(): table must be bool, True = attend, or additive of dtype float16, bfloat16, float32 "
                f"or float64, got dtype={self.table.dtype}; convert 1 = attend with .bool(), an additive "
                "table with .float()"
            )
        if self.table.dim() not in (2, 3, 4):
            raise ShapeError(
                "dense(): table must be [Q, K], [H, Q, K] or [B, H, Q, K], "
                f"got shape={list(self.table.shape)}; unsqueeze or index it to one of these"
            )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        table = self.table
        if table.dtype is torch.bool:
            return read_table(table, b, h, q_idx, kv_idx)
        if table.requires_grad:
            table = table.detach()
        return ~hides(read_table(table, b, h, q_idx, kv_idx), table.dtype)
