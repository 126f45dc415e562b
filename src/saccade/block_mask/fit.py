"""Whether a mask fits the tensors it is used with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.block_mask.packed import PackedMask
from saccade.errors import MaskAxisError, ShapeError

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask


def require_fit(mask: BlockMask | PackedMask, batch: int, heads: int, q_len: int, kv_len: int) -> None:
    """See `BlockMask.check_usable`."""
    _require_axis(mask, "b", "batch", "B", mask.batch, batch)
    _require_axis(mask, "h", "query heads", "H", mask.heads, heads)
    if (q_len, kv_len) == mask.seq_lengths:
        return
    if q_len > mask.q_len or kv_len > mask.kv_len:
        remedy = f"create a mask with Q_LEN={q_len} and KV_LEN={kv_len}"
    else:
        cut = f"block_mask.crop(q=(i, i + {q_len}), kv=(j, j + {kv_len}))"
        remedy = f"create a mask of those lengths, or cut them out: {cut}"
    raise ShapeError(
        f"the block_mask is for q_len={mask.q_len} and kv_len={mask.kv_len}, but the query has {q_len} "
        f"and the key {kv_len}; {remedy}"
    )


def _require_axis(
    mask: BlockMask | PackedMask, variable: str, noun: str, axis: str, held: int, wanted: int
) -> None:
    if held == wanted:
        return
    if held > 1:
        raise MaskAxisError(
            f"the block_mask is for {axis}={held}, but the call has {noun} {wanted}; "
            f"create it with {axis}={wanted}, or with {axis}=None if it is the same for all"
        )
    if mask.program.reads(variable):
        raise MaskAxisError(
            f"the block_mask reads {variable!r} and is for {axis}=1, but the call has {noun} {wanted}, "
            f"which would all see the mask of {variable}=0; create it with {axis}={wanted}"
        )
