"""The sequences that nested tensors hold: their tables and block masks, made once while their offsets live.

A model calls attention in every layer with the same offsets, so what follows from them is kept with them: it
goes when they do. Invariant: what is kept holds nothing of the user's, and what is found again equals what
would be made at that moment. Both come of copies: what is kept was made of copies of the numbers that were
read, and serves while the numbers read now equal them, whatever torch or others wrote in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError, UnsupportedError
from saccade.ir.program import Array, Program
from saccade.masks import and_masks, jagged, noop_mask
from saccade.signatures import MaskMod
from saccade.torch_ops.routing import has_data, is_observed
from saccade.tracing import trace

__all__ = ["Ragged", "Sequences", "sequences_of"]

_MASKS = 8  # kept for one pair of offsets
_PARTNERS = 4  # offsets of keys kept for one of queries
_MOST_BYTES = 16 << 20  # of the tensors that the kept masks read, all together


class Ragged(NamedTuple):
    """How a nested tensor cuts its values: where each sequence begins, how long it is, and all there is.

    Attributes:
        offsets: int64 ``[sequences + 1]``.
        lengths: int64 ``[sequences]``; None where each sequence reaches to the next.
        total: How many positions the values have.
    """

    offsets: Tensor
    lengths: Tensor | None
    total: int


class _Made(NamedTuple):
    """A block mask, and what it was made of: a program that reads copies, as the mask does."""

    program: Program
    heads: int | None
    is_function: bool  # whether a function stands behind it, which engines ask
    mask: BlockMask

    def serves(self, program: Program, heads: int | None, is_function: bool) -> bool:
        """Whether what it was made of is what a program says now."""
        mine = self.program
        return (
            (self.heads, self.is_function) == (heads, is_function)
            and mine.structure == program.structure
            # As text: 0.0 and -0.0 differ, and a NaN is itself.
            and repr(mine.numbers) == repr(program.numbers)
            and all(map(_is_copy, mine.captures, program.captures))
        )


@final
@dataclass(frozen=True, eq=False)
class Sequences:
    """The sequences of queries and keys, and the masks made for them lately.

    Attributes:
        within: The mask that shows a query all keys of its own sequence.
        q_len: Packed queries.
        kv_len: Packed keys.
        device: Where they are.
    """

    within: jagged
    q_len: int
    kv_len: int
    device: torch.device
    _made: deque[_Made] = field(default_factory=lambda: deque(maxlen=_MASKS), init=False)
    _crossing: deque[_Made] = field(default_factory=lambda: deque(maxlen=_MASKS), init=False)  # all empty
    _separate: WeakValueDictionary[int, BlockMask] = field(default_factory=WeakValueDictionary, init=False)

    def block_mask(self, mod: MaskMod | Program, program: Program, heads: int) -> BlockMask:
        """Make the block mask of a mask of one sequence, or find it again.

        One that can be kept reads copies of the mask's tensors, so that it goes on saying what it said to the
        call it was made for, in its backward pass too.

        Args:
            mod: The mask of one sequence.
            program: It, traced now.
            heads: Query heads of the call.
        """
        asked = heads if program.reads("h") else None
        is_function = not isinstance(mod, Program)
        for made in reversed(tuple(self._made)):
            if made.serves(program, asked, is_function):
                return self._of(mod, made.mask)
        copy = _copied(program)
        if copy is None:
            return self._analysed(self._packed(mod), asked)
        mask = self._analysed(self._packed(copy), asked)
        _keep(_Made(copy, asked, is_function, mask), self._made)
        return self._of(mod, mask)

    def new_block_mask(self, mod: MaskMod, heads: int | None, block_size: int | tuple[int, int]) -> BlockMask:
        """Make a block mask of a mask of one sequence, known to keep them separate from the start."""
        mask = self._analysed(self._packed(mod), heads, block_size)
        self._separate[id(mask)] = mask
        return mask

    def require_separate(self, mask: BlockMask) -> None:
        """Check that an analysed mask of packed positions lets no two sequences see each other.

        Raises:
            ArgumentError: It does; the message names a pair.
        """
        if self._separate.get(id(mask)) is mask:
            return  # the tables of these sequences keep them so, whatever else it reads
        mask.check_usable(1, mask.heads, self.q_len, self.kv_len)
        if any(made.serves(mask.program, mask.heads, True) for made in tuple(self._crossing)):
            return
        copy = _copied(mask.program)
        program = mask.program if copy is None else copy
        crossing = self._analysed(and_masks(program, ~self.within), mask.heads)
        if crossing.runs.start.size:
            raise self._not_separate(crossing)
        if copy is not None:
            _keep(_Made(copy, mask.heads, True, crossing), self._crossing)

    def _packed(self, mod: MaskMod | Program) -> MaskMod | Program:
        """The mask of packed positions; of a program a program, for no function shall seem to be there."""
        within = self.within.around(mod)
        return trace(within) if isinstance(mod, Program) else within

    def _of(self, mod: MaskMod | Program, mask: BlockMask) -> BlockMask:
        """A kept mask as the mask of a function that says the same; what engines keep on it they share."""
        if isinstance(mod, Program):
            return mask
        other = object.__new__(BlockMask)
        vars(other).update(vars(mask), mask_mod=self._packed(mod))
        return other

    def _analysed(
        self, mod: MaskMod | Program, heads: int | None, block_size: int | tuple[int, int] = 128
    ) -> BlockMask:
        # What is made in inference mode could not be kept for a call that is not.
        with torch.inference_mode(False):
            return create_block_mask(mod, 1, heads, self.q_len, self.kv_len, self.device, block_size)

    def _not_separate(self, crossing: BlockMask) -> ArgumentError:
        """The error for a mask, from what of it crosses sequences."""
        runs = crossing.runs
        row = int(np.searchsorted(runs.offsets, 0, side="right")) - 1
        first_query = row % runs.shape[2] * crossing.q_block
        first_key = int(runs.start[0]) * crossing.kv_block
        block = crossing.crop(
            q=(first_query, min(first_query + crossing.q_block, self.q_len)),
            kv=(first_key, min(first_key + crossing.kv_block, self.kv_len)),
        )
        query, key = block.to_bool()[0, row // runs.shape[2]].nonzero()[0].tolist()
        return ArgumentError(
            "block_mask must hide every pair of different sequences where query and key are nested, and it "
            f"shows packed query {first_query + query} packed key {first_key + key}; make it with "
            "saccade.jagged.create_nested_block_mask(mask_mod, query, key), or pass mask_mod= instead"
        )


def sequences_of(queries: Ragged, keys: Ragged) -> Sequences:
    """Read the sequences of queries and keys, or find them again.

    Args:
        queries: How the query is cut.
        keys: How key and value are.

    Raises:
        UnsupportedError: The offsets hold no numbers, as under a compiler or an exporter.
        ArgumentError: They fall, or tell of more than there is; queries and keys have not as many sequences.
    """
    if not has_data(queries.offsets) or not has_data(keys.offsets):
        raise UnsupportedError(
            "attention over nested tensors is planned from the numbers in their offsets, which are not there "
            "while a function is compiled, exported or traced without data; make the call outside of that "
            "part, with torch.compiler.disable around it"
        )
    if is_observed(queries.offsets) or is_observed(keys.offsets):
        return _read(queries, keys)  # what is kept between calls is neither theirs to read nor to make
    kept = _kept.setdefault(queries.offsets, deque(maxlen=_PARTNERS))
    for known, sequences in tuple(kept):
        if known.is_of(queries, keys):
            return sequences
    known = _Known.of(queries, keys)  # before they are read, so that no later write passes for read
    sequences = _read(queries, keys)
    kept.append((known, sequences))
    return sequences


def _read(queries: Ragged, keys: Ragged) -> Sequences:
    with torch.inference_mode(False):
        sides = [_checked(queries, "query")]
        if not _are_one(queries, keys):
            sides.append(_checked(keys, "key"))
        if not all(map(_is_filled, sides)):
            sides = [_with_the_rest(side) for side in sides]
        offsets, lengths, _ = sides[0]
        kv_offsets, kv_lengths, _ = sides[1] if len(sides) > 1 else (None, None, 0)
        within = jagged(noop_mask, offsets, kv_offsets, lengths, kv_lengths)
    return Sequences(within, queries.total, keys.total, queries.offsets.device)


def _checked(side: Ragged, name: str) -> Ragged:
    """A copy of a cut that ends within the values."""
    offsets = side.offsets.detach().clone()
    if int(offsets[-1]) > side.total:
        raise ArgumentError(
            f"the offsets of {name} must end within its {side.total} values, got {int(offsets[-1])}; "
            "give torch.nested.nested_tensor_from_jagged offsets that end there"
        )
    return Ragged(offsets, None if side.lengths is None else side.lengths.detach().clone(), side.total)


def _are_one(queries: Ragged, keys: Ragged) -> bool:
    """Whether queries and keys lie alike."""
    if queries.total != keys.total or (queries.lengths is None) != (keys.lengths is None):
        return False
    return _is_copy(queries.offsets, keys.offsets) and (
        queries.lengths is None or keys.lengths is None or _is_copy(queries.lengths, keys.lengths)
    )


def _is_filled(side: Ragged) -> bool:
    """Whether its sequences lie end to end over all there is."""
    return side.lengths is None and int(side.offsets[0]) == 0 and int(side.offsets[-1]) == side.total


def _with_the_rest(side: Ragged) -> Ragged:
    """The same with one sequence more, an empty one, which stands for what lies behind the last."""
    offsets = torch.cat((side.offsets, side.offsets.new_tensor([side.total])))
    lengths = side.offsets.diff() if side.lengths is None else side.lengths
    return Ragged(offsets, torch.cat((lengths, lengths.new_zeros(1))), side.total)


@final
@dataclass(frozen=True, eq=False)
class _Mark:
    """A tensor of offsets or lengths as it was: a copy of it, or it, held weakly, and its state."""

    copy: Tensor | None
    tensor: TensorWeakRef | None = None
    state: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, tensor: Tensor) -> _Mark:
        if _is_compared(tensor):
            return cls(tensor.clone())
        return cls(None, TensorWeakRef(tensor), (tensor._version, tensor.data_ptr()))

    def is_as(self, tensor: Tensor) -> bool:
        """Whether a tensor is as this one was."""
        if self.copy is not None:
            return _is_copy(self.copy, tensor)
        assert self.tensor is not None, "a mark has one of the two"
        return self.tensor() is tensor and self.state == (tensor._version, tensor.data_ptr())


def _is_compared(tensor: Tensor) -> bool:
    """Whether offsets are known by content; else by identity, and torch's count of writes."""
    # A device would be waited for at each call. Of what is made in inference mode torch counts no writes.
    return tensor.is_cpu or tensor.is_inference()


class _Known(NamedTuple):
    """What sequences were read from."""

    marks: tuple[_Mark | None, ...]  # offsets and lengths of queries, then of keys
    totals: tuple[int, int]

    @classmethod
    def of(cls, queries: Ragged, keys: Ragged) -> _Known:
        marks = [None if one is None else _Mark.of(one) for one in (*queries[:2], *keys[:2])]
        return cls(tuple(marks), (queries.total, keys.total))

    def is_of(self, queries: Ragged, keys: Ragged) -> bool:
        """Whether these are the same, unchanged."""
        if self.totals != (queries.total, keys.total):
            return False
        return all(
            one is None if mark is None else one is not None and mark.is_as(one)
            for mark, one in zip(self.marks, (*queries[:2], *keys[:2]), strict=True)
        )


_kept: MutableMapping[Tensor, deque[tuple[_Known, Sequences]]] = WeakTensorKeyDictionary()


def _copied(program: Program) -> Program | None:
    """The program over copies of the tensors it reads; None where it is not to be kept."""
    captures = [one for one in program.captures if isinstance(one, Tensor) and not is_observed(one)]
    if len(captures) < len(program.captures) or _size(captures) > _MOST_BYTES:
        return None
    with torch.inference_mode(False):  # where they are saved for a backward pass, they must be plain tensors
        return replace(program, captures=tuple(one.detach().clone() for one in captures))


def _keep(made: _Made, latest: deque[_Made]) -> None:
    """Add a mask to the latest, and drop the oldest while they read too much."""
    latest.append(made)
    while sum(_size(one.program.captures) for one in latest) > _MOST_BYTES:
        latest.popleft()


def _size(captures: Iterable[Array]) -> int:
    return sum(one.numel() * one.element_size() for one in captures if isinstance(one, Tensor))


def _is_copy(copy: Array, now: Array) -> bool:
    """Whether a tensor is of the same form as a copy, and holds the same to the bit."""
    assert isinstance(copy, Tensor)
    if not isinstance(now, Tensor):
        return False
    if (copy.dtype, copy.device, copy.shape) != (now.dtype, now.device, now.shape):
        return False
    mine, yours = _bytes(copy), _bytes(now)
    # Torch compares number by number, which takes ten times as long.
    return np.array_equal(mine.numpy(), yours.numpy()) if mine.is_cpu else torch.equal(mine, yours)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_neg().reshape(-1).view(torch.uint8)
