"""How attention reads an additive mask, a table that both hides and penalises.

Owns the one rule for it, which torch's function and the modules share: what is added, and when the blocks
that the table hides are looked for. A split that a user makes once, for many calls, is
`dense_masks.mods_of_additive`. Invariant: the result does not depend on whether blocks are looked for.
"""

from __future__ import annotations

from torch import Tensor

from saccade.masks import Mask, dense
from saccade.mod_value import as_stored
from saccade.scores import Score, bias

__all__ = ["additive_mods"]

_QUERIES_WORTH_ANALYSING = 128


def additive_mods(table: Tensor, q_len: int, *, rescored: bool = False) -> tuple[Mask | None, Score]:
    """Read an additive mask for a call.

    The score alone is right: it makes a hidden pair -inf. It skips no block, though, and for a mask that does
    every entry of the table is looked at first, at every call. That pays where all heads share the table and
    there are queries enough.

    Args:
        table: Floating tensor `[Q, K]`, `[H, Q, K]` or `[B, H, Q, K]`; axes of size 1 broadcast, and what was
            expanded is read as it is stored.
        q_len: Number of queries of the call.
        rescored: Whether a score_mod of the user's comes before. What that makes of hidden pairs, NaN
            included, must reach no gradient, which takes a mask always.

    Returns:
        The mask, None where no blocks are looked for, and the score.

    Raises:
        DTypeError: The table is of a floating dtype that `dense` does not read.

    Example:
        >>> import torch
        >>> causal = torch.full((256, 256), -torch.inf).triu(1)
        >>> additive_mods(causal, q_len=256)
        (dense(float32[256, 256]), bias(float32[256, 256], hide_lowest=True))
        >>> additive_mods(causal.repeat(8, 1, 1), q_len=256)
        (None, bias(float32[8, 256, 256], hide_lowest=True))
    """
    table = as_stored(table)
    shared = table.dim() == 2 or table.shape[-3] == 1
    analysed = shared and q_len >= _QUERIES_WORTH_ANALYSING
    return dense(table) if analysed or rescored else None, bias(table, hide_lowest=True)
