"""The forms in which a mask exists, read into two: block masks, and tables of pairs.

A mod becomes a BlockMask; bool tensors and additive tensors become a table. This module owns what each form
means, and the sizes that two masks agree on; it compares nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.arguments import whole_number
from saccade.block_mask.moves import mod_name
from saccade.block_mask.snapshot import mask_program
from saccade.errors import ArgumentError, DTypeError, MaskAxisError, ShapeError
from saccade.ir.interpret import interpret
from saccade.ir.program import Program
from saccade.signatures import MaskMod

__all__ = ["BlockSide", "MaskLike", "Side", "TableSide", "read_sides"]

MaskLike: TypeAlias = MaskMod | Program | BlockMask | TorchBlockMask | Tensor
"""Every form of a mask that can be compared."""

Bools: TypeAlias = npt.NDArray[np.bool_]
Shape: TypeAlias = tuple[int, int, int, int]

_AXES = ("batch", "heads", "q_len", "kv_len")
_READS = ("b", "h")
_DEFAULT_BLOCK = (128, 128)


@final
@dataclass(frozen=True, eq=False)
class TableSide:
    """A mask given by a tensor.

    Attributes:
        label: How messages name it.
        table: bool or floating `[B or 1, H or 1, Q or 1, K or 1]`.
        shape: B, H, Q and K of the comparison.
    """

    label: str
    table: Tensor
    shape: Shape

    @property
    def stored(self) -> tuple[int, int]:
        """Batches and heads that differ: 1 where one serves all."""
        return self.table.shape[0], self.table.shape[1]

    def window(self, b: int, h: int, q: range, kv: range) -> Bools:
        """Return which pairs of a rectangle are visible: bool `[len(q), len(kv)]`."""
        one = self.table[b % self.stored[0], h % self.stored[1]].detach()
        part = one.expand(*self.shape[2:])[q.start : q.stop, kv.start : kv.stop]
        if part.dtype is not torch.bool:
            part = ~(part <= torch.finfo(part.dtype).min / 2)
        visible: Bools = part.cpu().numpy()
        return visible


@final
@dataclass(frozen=True, eq=False)
class BlockSide:
    """A mask given by a BlockMask or by a mod.

    Attributes:
        label: How messages name it.
        mask: The mask; its batch and heads are those of the comparison, or 1 where one serves all.
    """

    label: str
    mask: BlockMask

    @property
    def stored(self) -> tuple[int, int]:
        """Batches and heads that differ: 1 where one serves all."""
        batch, heads, _, _ = self.mask.runs.shape
        return batch, heads

    def window(self, b: int, h: int, q: range, kv: range) -> Bools:
        """Return which pairs of a rectangle are visible: bool `[len(q), len(kv)]`."""
        if not (len(q) and len(kv)):
            return np.zeros((len(q), len(kv)), dtype=np.bool_)
        one = self.mask[b % self.mask.batch, h % self.mask.heads]
        visible: Bools = one.crop(q=(q.start, q.stop), kv=(kv.start, kv.stop)).to_bool()[0, 0].cpu().numpy()
        return visible

    def within(self, kind: BlockKind, b: int, h: int, q: range, kv: range) -> Bools:
        """Return the same where all blocks of the rectangle are known to be of one kind."""
        if kind is not BlockKind.PARTIAL:
            return np.broadcast_to(np.bool_(kind is BlockKind.FULL), (len(q), len(kv)))
        program = self.mask.program
        indices = (
            np.int64(b),
            np.int64(h),
            np.arange(q.start, q.stop)[:, None],
            np.arange(kv.start, kv.stop),
        )
        value = interpret(program.structure, indices, self.mask.host_captures, program.numbers, program.names)
        return np.broadcast_to(value, (len(q), len(kv)))


Side: TypeAlias = "TableSide | BlockSide"


@dataclass(frozen=True, eq=False)
class _Given:
    """One mask as it was given, made plain as far as that needs no sizes."""

    name: str  # "a" or "b"
    label: str
    form: Program | BlockMask | Tensor  # a tensor has four axes
    sizes: tuple[int | None, ...]  # of _AXES; None where it has none of its own

    def serves(self, axis: int, size: int) -> bool:
        """Whether the mask can be used where that axis has that size."""
        own = self.sizes[axis]
        if own is None or own == size:
            return True
        if isinstance(self.form, BlockMask):
            return own == 1 and axis < 2 and not self.form.program.reads(_READS[axis])
        return own == 1


def read_sides(
    first: MaskLike, second: MaskLike, asked: tuple[int | None, int | None, int | None, int | None]
) -> tuple[Side, Side, Shape]:
    """Read two masks and agree on the sizes they are compared at.

    Args:
        first: The mask called a.
        second: The mask called b.
        asked: Batch, heads, queries and keys; None where the masks themselves say.

    Returns:
        Both masks, and B, H, Q, K.

    Raises:
        ModError: A mask is a score_mod, a factory passed uncalled, or no mask at all.
        TraceError: A mod cannot be read as a program.
        ShapeError: A tensor has other than 2 or 4 axes, or sizes do not fit each other.
        DTypeError: A tensor is neither bool nor floating.
        MaskAxisError: A mod reads `b` or `h`, and nothing says how many there are.
        ArgumentError: Nothing says how many queries or keys there are, or a size is negative.
        ArgumentTypeError: A size is not an integer.
        StaleMaskError: A tensor that a BlockMask was made from has changed.
    """
    given = (_given("a", first), _given("b", second))
    sizes = [_agreed(axis, wanted, given) for axis, wanted in enumerate(asked)]
    shape = (sizes[0], sizes[1], sizes[2], sizes[3])
    blocks = next((one.form.BLOCK_SIZE for one in given if isinstance(one.form, BlockMask)), _DEFAULT_BLOCK)
    mine, yours = (_side(one, shape, blocks) for one in given)
    return mine, yours, shape


def _given(name: str, mask: MaskLike) -> _Given:
    if isinstance(mask, Tensor):
        return _given_tensor(name, mask)
    if isinstance(mask, TorchBlockMask):
        mask = BlockMask.from_torch(mask)
        return _Given(name, f"torch's {mask!r}", mask, mask.shape)
    if isinstance(mask, BlockMask):
        mask.check_fresh()
        return _Given(name, repr(mask), mask, mask.shape)
    return _Given(name, mod_name(mask), mask_program(mask, f"the comparison of masks ({name})"), (None,) * 4)


def _given_tensor(name: str, table: Tensor) -> _Given:
    label = f"{str(table.dtype).removeprefix('torch.')} tensor {list(table.shape)}"
    if table.dim() not in (2, 4):
        raise ShapeError(
            f"{name} must be a tensor [Q, K] or [B, H, Q, K], got shape={list(table.shape)}; "
            "add the missing axes with unsqueeze"
        )
    if table.dtype is not torch.bool and not table.dtype.is_floating_point:
        raise DTypeError(
            f"{name} must be a bool tensor (True = attend) or an additive floating one, got "
            f"dtype={table.dtype}; write `{name} != 0`, or padding(keep={name}) for the padding of a batch"
        )
    own = (None, None, *table.shape) if table.dim() == 2 else tuple(table.shape)
    return _Given(name, label, table.view(1, 1, *table.shape) if table.dim() == 2 else table, own)


def _agreed(axis: int, asked: int | None, given: tuple[_Given, _Given]) -> int:
    """The size of an axis: as asked, or else as the masks have it."""
    noun = _AXES[axis]
    own = [one.sizes[axis] for one in given]
    known = [size for size in own if size is not None]
    if asked is not None:
        size = whole_number(noun, asked, 1 if axis < 2 else 0)
    elif known:
        # One that serves all gives way to the other's number.
        size = max(known, key=lambda size: (size != 1, size))
    elif axis < 2:
        size = _unsaid(axis, given)
    else:
        raise ArgumentError(
            f"expected {noun}, for neither {given[0].label} nor {given[1].label} has a length of its own; "
            f"pass {noun}="
        )
    for one in given:
        if not one.serves(axis, size):
            raise ShapeError(
                f"{one.name} has {noun}={one.sizes[axis]} and is compared at {noun}={size} "
                f"({one.name}: {one.label}); give masks of the same sizes, or cut one with crop()"
            )
    return size


def _unsaid(axis: int, given: tuple[_Given, _Given]) -> int:
    """One batch entry or head, for masks that are the same in all."""
    for one in given:
        if isinstance(one.form, Program) and one.form.reads(_READS[axis]):
            raise MaskAxisError(
                f"{one.name} reads {_READS[axis]!r}, so its mask differs along {_AXES[axis]}, and nothing "
                f"says how many there are ({one.name}: {one.label}); pass {_AXES[axis]}="
            )
    return 1


def _side(given: _Given, shape: Shape, blocks: tuple[int, int]) -> Side:
    if isinstance(given.form, Tensor):
        return TableSide(given.label, given.form, shape)
    if isinstance(given.form, BlockMask):
        return BlockSide(given.label, given.form)
    mask = create_block_mask(given.form, *shape, device="cpu", BLOCK_SIZE=blocks)
    return BlockSide(given.label, mask)
