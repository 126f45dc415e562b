"""Torch's form of a mask: block columns listed per block row, padded to the full width, and its BlockMask.

Owns the way there; `given` owns the way back. Torch calls a block FULL only when it is a whole one,
so the lists of an analysed mask hold a ragged FULL block (one that the lengths cut) as PARTIAL; runs never
do. Given blocks pass as they were given. Invariant: the lists equal those that torch makes of the same mask,
entry by entry.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.analysis.runs import BlockKind, Runs
from saccade.block_mask.moves import mod_to
from saccade.block_mask.pairs import stored_repeats
from saccade.errors import ArgumentError
from saccade.ir.program import Program
from saccade.signatures import MaskMod

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

_AT_ONCE = 1 << 22  # blocks put in order together
_LARGE = 1 << 30  # bytes of a torch mask that are worth a warning


@final
@dataclass(frozen=True, eq=False)
class BlockLists:
    """The blocks of one kind, row by row, as torch stores them.

    Attributes:
        num_blocks: int32[B, H, rows], how many columns each row lists.
        indices: int32[B, H, rows, cols]: the columns listed, ascending, then the others, ascending.
    """

    num_blocks: Tensor
    indices: Tensor


@final
@dataclass(frozen=True)
class NoLists:
    """What stands in the place of lists that are not made."""

    num_blocks: None = None
    indices: None = None


def partial_lists(mask: BlockMask, *, by_key: bool = False) -> BlockLists:
    """Return torch's lists of PARTIAL blocks: key blocks per block of queries, or `by_key` the transpose.

    They lie on the mask's device, expanded to its batch and heads without a copy, and are memoised on the
    mask.
    """
    return mask.once(("partial", by_key), lambda: _block_lists(mask, BlockKind.PARTIAL, by_key=by_key))


def full_lists(mask: BlockMask, *, by_key: bool = False) -> BlockLists | NoLists:
    """Return torch's lists of FULL blocks, likewise; no lists where the mask does not list them apart."""
    if not mask.separate_full_blocks:
        return NoLists()
    return mask.once(("full", by_key), lambda: _block_lists(mask, BlockKind.FULL, by_key=by_key))


def _block_lists(mask: BlockMask, kind: BlockKind, *, by_key: bool) -> BlockLists:
    runs = mask.once("torch_runs", lambda: _torch_runs(mask))
    if by_key:
        runs = runs.transposed()
    stored_batch, stored_heads, rows, cols = runs.shape
    num_blocks = runs.row_counts(kind).astype(np.int32)
    indices = np.empty(runs.shape, dtype=np.int32)
    height = max(1, _AT_ONCE // max(cols, 1))
    for b, h in np.ndindex(stored_batch, stored_heads):
        for top in range(0, rows, height):
            strip = slice(top, top + height)
            other = runs.take(batch=b, heads=h, rows=strip).to_dense()[0, 0] != kind
            indices[b, h, strip] = np.argsort(other, axis=-1, kind="stable")
    expanded = (mask.batch, mask.heads)
    return BlockLists(
        torch.from_numpy(num_blocks).to(mask.device).expand(*expanded, rows),
        torch.from_numpy(indices).to(mask.device).expand(*expanded, rows, cols),
    )


def _torch_runs(mask: BlockMask) -> Runs:
    """The runs with the kinds that torch would store."""
    runs = mask.runs
    if not mask.separate_full_blocks:
        return _rebuilt(runs, runs.row_numbers(), runs.start, runs.stop, np.ones_like(runs.kind))
    _, _, rows, cols = runs.shape
    ragged_row, ragged_col = bool(mask.q_len % mask.q_block), bool(mask.kv_len % mask.kv_block)
    if not mask.analysed or not (ragged_row or ragged_col):
        return runs
    row, start, stop, kind = runs.row_numbers(), runs.start, runs.stop, runs.kind
    if ragged_row:
        kind = np.where(row % rows == rows - 1, BlockKind.PARTIAL, kind).astype(np.uint8)
    if ragged_col:
        cut = (stop == cols) & (kind == BlockKind.FULL)
        stop = np.where(cut, cols - 1, stop)
        row, start = np.concatenate([row, row[cut]]), np.concatenate([start, stop[cut]])
        stop = np.concatenate([stop, np.full(int(cut.sum()), cols)])
        kind = np.concatenate([kind, np.full(int(cut.sum()), BlockKind.PARTIAL, dtype=np.uint8)])
    held = start < stop
    return _rebuilt(runs, row[held], start[held], stop[held], kind[held])


def _rebuilt(runs: Runs, row: Int64s, start: Int32s, stop: Int32s, kind: npt.NDArray[np.uint8]) -> Runs:
    head, top = row // max(runs.shape[2], 1), row % max(runs.shape[2], 1)
    return Runs.from_rectangles(
        runs.shape,
        head=head,
        top=top,
        bottom=top + 1,
        left=start.astype(np.int64),
        right=stop.astype(np.int64),
        kind=kind,
    )


def visible_blocks(mask: BlockMask) -> Tensor:
    """int32 ``[B, H, rows, cols]``: 1 for every block with a visible pair."""
    held = torch.from_numpy(mask.runs.to_dense() != BlockKind.EMPTY)
    return held.to(mask.device, torch.int32).expand(mask.batch, mask.heads, -1, -1)


def sparsity(mask: BlockMask) -> float:
    """The share of pairs outside the listed blocks, in percent; a block that a length cuts counts whole."""
    blocks = int(mask.runs.row_counts().sum()) * stored_repeats(mask)
    return 100 * (1 - blocks * mask.q_block * mask.kv_block / max(mask.numel(), 1))


def torch_nbytes(mask: BlockMask) -> int:
    """How many bytes the tensors of `to_torch` take; axes stored once count once."""
    batch, heads, rows, cols = mask.runs.shape
    lists = 2 if mask.separate_full_blocks else 1
    return lists * batch * heads * (2 * rows * cols + rows + cols) * 4


def to_torch(mask: BlockMask, device: torch.device | str | None) -> TorchBlockMask:
    """See `BlockMask.to_torch`."""
    if isinstance(mask.mask_mod, Program):
        raise ArgumentError(
            "to_torch() needs the function that the mask was made from, and this mask has none "
            "(it was unpickled, and its function could not be pickled); create the mask here, or define its "
            "mask_mod at the top level of a module"
        )
    size = torch_nbytes(mask)
    if size > _LARGE:
        warnings.warn(
            f"to_torch() takes {size / 2**30:.1f} GiB for the block lists of a mask of shape {mask.shape}; "
            f"larger blocks than {mask.BLOCK_SIZE} take less",
            stacklevel=3,
        )
    where = mask.device if device is None else torch.device(device)
    tensors = [None if tensor is None else tensor.to(where) for tensor in _tensors(mask)]
    mod = _function(mod_to(mask.mask_mod, where))
    make: Callable[..., TorchBlockMask] = TorchBlockMask  # its annotations cannot be met by a list of tensors
    return make(mask.seq_lengths, *tensors, BLOCK_SIZE=mask.BLOCK_SIZE, mask_mod=mod)


def as_tuple(mask: BlockMask, *, flatten: bool) -> tuple[object, ...]:
    """See `BlockMask.as_tuple`."""
    lengths = mask.seq_lengths if flatten else (mask.seq_lengths,)
    sizes = mask.BLOCK_SIZE if flatten else (mask.BLOCK_SIZE,)
    # Torch has four entries on the order of writes of one kernel's backward pass; none is made here.
    return (*lengths, *_tensors(mask), None, None, None, None, *sizes, mask.mask_mod)


def _tensors(mask: BlockMask) -> list[Tensor | None]:
    """The eight tensors of torch's BlockMask, in the order of its constructor."""
    lists = [
        one
        for by_key in (False, True)
        for one in (partial_lists(mask, by_key=by_key), full_lists(mask, by_key=by_key))
    ]
    return [part for one in lists for part in (one.num_blocks, one.indices)]


def _function(mod: MaskMod) -> MaskMod:
    """A mod as a plain function, the one kind of callable that every torch takes."""
    if isinstance(mod, FunctionType):
        return mod

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mod(b, h, q_idx, kv_idx)

    return mask_mod
