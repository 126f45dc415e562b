"""The latest block masks, found again by what their mod means now.

Owns the one list that outlives a call in this package. Invariant: a mask from the list equals the mask that
`create_block_mask` would make at that moment, and watches the tensors of the mod that was given.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from saccade.block_mask.arguments import checked_lengths, exact_device
from saccade.block_mask.create import create_block_mask
from saccade.block_mask.mask import BlockMask
from saccade.block_mask.snapshot import is_same_program, mask_program
from saccade.block_mask.uncompiled import uncompiled
from saccade.block_mask.watching import watch
from saccade.ir.program import Program
from saccade.signatures import MaskMod

__all__ = ["create_block_mask_cached"]

_LATEST = 32


@final
@dataclass(frozen=True, eq=False)
class _Made:
    request: tuple[int | None, int | None, int, int, torch.device]
    mask: BlockMask


_made: deque[_Made] = deque(maxlen=_LATEST)  # the latest used on the right
_lock = threading.Lock()


@uncompiled
def create_block_mask_cached(
    mod: MaskMod,
    B: int | None,
    H: int | None,
    M: int,
    N: int,
    device: torch.device | str | int | None = None,
) -> BlockMask:
    """Work out a block mask, or find it among the 32 latest.

    For code that asks for its mask in every layer or step. The mod is read at each call, about a millisecond;
    it is the analysis that is saved. So the result is never out of date: a mod whose numbers or tensors have
    changed, in place or by rebinding, gets a new mask, and another function that says the same gets the
    blocks of the old one. Masks of inference tensors are not kept, because torch does not count the writes to
    them. The tensors of kept masks stay in memory.

    Args:
        mod: A function of ``(b, h, q_idx, kv_idx)`` that is True where the query may see the key, or a mask
            of `saccade.masks`.
        B: Batch size; None for one mask shared by every batch entry.
        H: Number of query heads; None for one mask shared by every head.
        M: Number of queries.
        N: Number of keys.
        device: Where the index tensors are handed out; by default the machine's accelerator, or else the CPU.

    Returns:
        The mask, in blocks of 128×128. The same object as before for an equal mod that reads the very same
        tensors.

    Raises:
        SaccadeError: Whatever `create_block_mask` raises for these arguments.

    Example:
        >>> from saccade.masks import sliding_window
        >>> first = create_block_mask_cached(sliding_window(256), None, None, 4096, 4096, device="cpu")
        >>> first is create_block_mask_cached(sliding_window(256), None, None, 4096, 4096, device="cpu")
        True
    """
    checked_lengths(B, H, M, N)
    program = mask_program(mod, "create_block_mask_cached()")
    request = (B, H, M, N, exact_device(device))
    for made in reversed(tuple(_made)):
        if made.request == request and _is_current(made.mask) and is_same_program(made.mask.program, program):
            mask = _for_this_mod(made.mask, mod, program)
            break
    else:
        made, mask = None, create_block_mask(mod, *request)
    _remember(_Made(request, mask), instead_of=made)
    return mask


def _is_current(mask: BlockMask) -> bool:
    return not any(one.has_changed for one in mask.watched)


def _for_this_mod(mask: BlockMask, mod: MaskMod, program: Program) -> BlockMask:
    """The mask itself, or its blocks as the mask of another mod that says the same."""
    captures = zip(mask.program.captures, program.captures, strict=True)
    if all(mine is yours for mine, yours in captures) and mask.mask_mod == mod:
        return mask
    return replace(mask, program=program, mask_mod=mod, watched=watch(program, mod))


def _remember(made: _Made, instead_of: _Made | None) -> None:
    countable = all(isinstance(one, Tensor) and not one.is_inference() for one in made.mask.program.captures)
    with _lock:
        kept = [one for one in _made if one is not instead_of and _is_current(one.mask)]
        _made.clear()
        _made.extend([*kept, made] if countable else kept)
