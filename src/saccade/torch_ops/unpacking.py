"""A BlockMask put together again from the pieces that reached the operator.

A compiled function hands over the same tensors at every call. So that the mask it gets is the same one too,
with all that was worked out for it, masks are remembered for as long as their tensors live.
"""

from __future__ import annotations

from torch.utils.weak import WeakTensorKeyDictionary

from saccade.analysis.runs import Runs
from saccade.block_mask import BlockMask
from saccade.block_mask.packed import PackedMask
from saccade.block_mask.watching import watched_since

__all__ = ["unpacked"]

# By the offsets of the runs.
_masks = WeakTensorKeyDictionary()
_FACTS = PackedMask._fields.index("watched")  # what comes before is compared by value


def unpacked(pieces: PackedMask) -> BlockMask:
    """Return the mask of some pieces; its function is its program.

    Raises:
        StaleMaskError: A tensor that the mask was made from has changed since.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> mask = create_block_mask(causal, None, None, 512, 512, device="cpu")
        >>> unpacked(mask.packed) == mask
        True
    """
    # Tensors by where they are: the mask holds their memory, but not the tensors that it is found by.
    tensors = (*pieces.captures, *pieces.watched)
    key = (*pieces[:_FACTS], *map(id, tensors), *(part.data_ptr() for part in pieces.runs))
    known: tuple[tuple[object, ...], BlockMask] | None = _masks.get(pieces.runs[0])  # type: ignore[no-untyped-call]
    if known is None or known[0] != key:
        known = key, _put_together(pieces)
        _masks[pieces.runs[0]] = known
    mask = known[1]
    mask.check_fresh()
    return mask


def _put_together(pieces: PackedMask) -> BlockMask:
    program = pieces.program
    offsets, start, stop, kind = (part.detach().numpy() for part in pieces.runs)
    rows, cols = -(-pieces.q_len // pieces.q_block), -(-pieces.kv_len // pieces.kv_block)
    runs = Runs((pieces.stored_batch, pieces.stored_heads, rows, cols), offsets, start, stop, kind)
    return BlockMask(
        runs,
        program,
        program,
        pieces.batch,
        pieces.heads,
        pieces.q_len,
        pieces.kv_len,
        pieces.q_block,
        pieces.kv_block,
        device=pieces.device,
        analysed=pieces.analysed,
        watched=tuple(
            watched_since(tensor, name, mark)
            for tensor, name, mark in zip(
                pieces.watched, pieces.watched_names, pieces.marks.tolist(), strict=True
            )
        ),
    )
