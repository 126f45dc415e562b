"""Parts of a mask: by batch, head and block of queries, or by element. Nothing is traced or compiled.

Both give a mask whose program and mask_mod read the original's indices through moves, so a part works
wherever a mask does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.block_mask.arguments import whole_number
from saccade.block_mask.moves import BlocksMod, Move, MovedMod, folded_program, moved_program
from saccade.block_mask.pairs import span_sizes
from saccade.block_mask.snapshot import analyse, host_array, host_arrays, mask_program
from saccade.block_mask.watching import watch
from saccade.errors import ArgumentError, ArgumentTypeError, IndexOutOfRangeError, UnsupportedError
from saccade.ir.program import Program
from saccade.signatures import MaskMod

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

AxisIndex: TypeAlias = int | slice | Sequence[int] | Tensor
Index: TypeAlias = AxisIndex | tuple[AxisIndex, ...]
Int64s = npt.NDArray[np.int64]

_NO_INDEX = (bool, str, float, type(None), type(Ellipsis))
_AXES = ("batch", "head", "query block")


def sliced(mask: BlockMask, index: Index) -> BlockMask:
    """See `BlockMask.__getitem__`."""
    given = index if isinstance(index, tuple) else (index,)
    if len(given) > 3:
        raise ArgumentError(
            f"a BlockMask is indexed by batch, head and query block, got {len(given)} indices; "
            "use mask.crop(kv=(start, stop)) for a range of keys"
        )
    sizes = (mask.batch, mask.heads, mask.runs.shape[2])
    tables = [one for one in given if not isinstance(one, (int, slice))]
    if len(tables) > 1:
        raise UnsupportedError(
            f"a BlockMask takes a tensor or list for one axis at a time, got {len(tables)}; "
            "chain the selections: mask[batches][:, heads]"
        )
    padded = (*given, slice(None), slice(None), slice(None))[:3]
    batch, heads, rows = map(_positions, padded, sizes, _AXES)
    stored_batch, stored_heads, _, _ = mask.runs.shape
    runs = mask.runs.take(
        batch=batch if stored_batch > 1 else slice(None),
        heads=heads if stored_heads > 1 else slice(None),
        rows=rows,
    )
    moves = {
        "b": _move(batch, mask.batch, 1, mask.device),
        "h": _move(heads, mask.heads, 1, mask.device),
        "q_idx": _move(rows, sizes[2], mask.q_block, mask.device),
    }
    return replace(
        mask,
        runs=runs,
        program=moved_program(mask.program, moves),
        mask_mod=_moved_mod(mask, moves),
        batch=len(batch),
        heads=len(heads),
        q_len=_selected_length(mask, rows),
    )


def cropped(mask: BlockMask, q: tuple[int, int] | None, kv: tuple[int, int] | None) -> BlockMask:
    """See `BlockMask.crop`."""
    mask.check_fresh()
    q_from, q_to = _bounds("q", q, mask.q_len)
    kv_from, kv_to = _bounds("kv", kv, mask.kv_len)
    if (q_from, q_to, kv_from, kv_to) == (0, mask.q_len, 0, mask.kv_len):
        return mask
    moves = {"q_idx": Move(q_from), "kv_idx": Move(kv_from)}
    q_len, kv_len = q_to - q_from, kv_to - kv_from
    q_aligned = _is_aligned(q_from, q_to, mask.q_len, mask.q_block)
    if q_aligned and _is_aligned(kv_from, kv_to, mask.kv_len, mask.kv_block):
        runs = mask.runs.take(rows=slice(q_from // mask.q_block, -(-q_to // mask.q_block)))
        runs = runs.take_columns(kv_from // mask.kv_block, -(-kv_to // mask.kv_block))
        program, mod = moved_program(mask.program, moves), _moved_mod(mask, moves)
        return replace(mask, runs=runs, program=program, mask_mod=mod, q_len=q_len, kv_len=kv_len)
    base = folded(mask)
    program, mod = moved_program(base.program, moves), _moved_mod(base, moves)
    shape = (mask.batch, mask.heads, q_len, kv_len)
    runs = analyse(program, host_arrays(program), shape, mask.BLOCK_SIZE)
    return replace(base, runs=runs, program=program, mask_mod=mod, q_len=q_len, kv_len=kv_len)


def refreshed(mask: BlockMask) -> BlockMask:
    """See `BlockMask.refreshed`."""
    program = mask_program(mask.mask_mod, "refreshed()")
    runs = mask.runs
    if mask.analysed:
        runs = analyse(program, host_arrays(program), mask.shape, mask.BLOCK_SIZE)
    fresh = replace(mask, runs=runs, program=program, watched=watch(program, mask.mask_mod))
    return moved_to(fresh, mask.device) if _lies_on(mask.program, mask.device) else fresh


def moved_to(mask: BlockMask, device: torch.device) -> BlockMask:
    """See `BlockMask.to`."""
    program = mask.program
    captures = tuple(one.to(device) if isinstance(one, Tensor) else one for one in program.captures)
    return replace(mask, program=replace(program, captures=captures), device=device)


def folded(mask: BlockMask) -> BlockMask:
    """Return a mask whose program says everything: given blocks become a table that it reads."""
    if mask.analysed:
        return mask
    kinds = torch.from_numpy(mask.runs.to_dense()).to(mask.device)
    return replace(
        mask,
        program=folded_program(mask.program, kinds, mask.q_block, mask.kv_block),
        mask_mod=BlocksMod(mask.mask_mod, kinds, mask.q_block, mask.kv_block),
        analysed=True,
    )


def _lies_on(program: Program, device: torch.device) -> bool:
    return all(one.device.type == device.type for one in program.captures if isinstance(one, Tensor))


def _positions(index: AxisIndex, size: int, axis: str) -> Int64s:
    """What an index selects along one axis, as positions from 0."""
    if isinstance(index, _NO_INDEX):
        raise ArgumentTypeError(
            f"a BlockMask is indexed by integers, slices, lists or tensors, got {index!r} for the {axis}"
        )
    if isinstance(index, slice):
        positions = np.arange(size)[index]
    else:
        picked = host_array(index) if isinstance(index, Tensor) else np.asarray(index)
        if picked.dtype == np.bool_ and picked.shape == (size,):
            picked = np.flatnonzero(picked)
        if picked.ndim > 1 or not np.issubdtype(picked.dtype, np.integer):
            raise ArgumentTypeError(
                f"a BlockMask is indexed by integers in one dimension, got {picked.dtype} "
                f"of shape {list(picked.shape)} for the {axis}"
            )
        positions = np.atleast_1d(picked).astype(np.int64)
        outside = (positions < -size) | (positions >= size)
        if outside.any():
            raise IndexOutOfRangeError(
                f"{axis} index {positions[outside][0]} is out of range for a BlockMask with {size}"
            )
        positions = positions % size
    if not len(positions):
        raise ArgumentError(f"an index must select something, got {index!r} for the {axis} of {size}")
    return positions


def _move(positions: Int64s, size: int, block: int, device: torch.device) -> Move:
    """The move of an axis to the selected positions, each of which stands for `block` indices."""
    first = int(positions[0])
    if not (np.diff(positions) == 1).all():
        return Move(table=torch.from_numpy(positions * block).to(device), block=block)
    if len(positions) == 1 and block == 1 and size > 1:
        return Move(first, pinned=True)
    return Move(first * block)


def _selected_length(mask: BlockMask, rows: Int64s) -> int:
    """Queries in the selected block rows."""
    sizes = span_sizes(mask.q_len, mask.q_block)[rows]
    if (sizes[:-1] != mask.q_block).any():
        raise ArgumentError(
            f"the last query block holds {mask.q_len % mask.q_block} of {mask.q_block} queries, so it "
            f"can only be selected last, got query blocks {rows.tolist()}"
        )
    return int(sizes.sum())


def _moved_mod(mask: BlockMask, moves: dict[str, Move]) -> MaskMod:
    needed = {name: move for name, move in moves.items() if mask.program.reads(name) and not move.stays}
    return MovedMod(mask.mask_mod, **needed) if needed else mask.mask_mod


def _bounds(axis: str, bounds: object, length: int) -> tuple[int, int]:
    if bounds is None:
        return 0, length
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ArgumentTypeError(f"crop() expects {axis}=(start, stop), got {axis}={bounds!r}")
    start, stop = (whole_number(f"crop(): {axis}", bound, 0) for bound in bounds)
    if not 0 <= start <= stop <= length:
        raise ArgumentError(
            f"crop() expects {axis}=(start, stop) with 0 <= start <= stop <= {length}, got "
            f"{axis}={bounds!r}; create a new mask for a longer one"
        )
    return start, stop


def _is_aligned(start: int, stop: int, length: int, block: int) -> bool:
    return start % block == 0 and (stop % block == 0 or stop == length)
