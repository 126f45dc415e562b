"""The sequences that nested tensors hold: their tables and block masks, made once while their offsets live.

A model calls attention in every layer with the same offsets, so what follows from them is kept with them: it
goes when they do. Invariant: what is found again equals what would be made at that moment. Offsets, and the
tensors that a mask reads, are known by identity and torch's count of writes; where torch keeps no count (in
inference mode), offsets by content, and masks of such tensors are not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.snapshot import is_same_program
from saccade.block_mask.watching import watch
from saccade.errors import ArgumentError, UnsupportedError
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.masks import and_masks, jagged, noop_mask
from saccade.signatures import MaskMod
from saccade.torch_ops.routing import has_data, is_observed
from saccade.tracing import trace

__all__ = ["Ragged", "Sequences", "sequences_of"]

_MASKS = 8  # kept for one pair of offsets
_PARTNERS = 4  # offsets of keys kept for one of queries


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


@final
@dataclass(frozen=True, eq=False)
class _Made:
    """A block mask, with the mask of one sequence that it was made from and what that said then."""

    mod: MaskMod | Program
    program: Program
    heads: int | None
    mask: BlockMask

    def serves(self, mod: MaskMod | Program, program: Program) -> bool:
        """Whether the block mask is also that of a mod whose program is equal: tensors, and function."""
        if not _same_captures(self.program, program):
            return False
        if isinstance(mod, Program) or isinstance(self.mod, Program):
            return isinstance(mod, Program) and isinstance(self.mod, Program)
        # Another function, as a lambda is at each call, is as good while the first still says the same.
        return self.mod == mod or _says(self.mod, program)


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
    _separate: WeakValueDictionary[int, BlockMask] = field(default_factory=WeakValueDictionary, init=False)

    def block_mask(self, mod: MaskMod | Program, program: Program, heads: int) -> BlockMask:
        """Make the block mask of a mask of one sequence, or find it again.

        Args:
            mod: The mask of one sequence.
            program: It, traced now.
            heads: Query heads of the call.
        """
        asked = heads if program.reads("h") else None
        for made in reversed(tuple(self._made)):
            if made.heads == asked and _is_current(made.mask) and is_same_program(made.program, program):
                if made.serves(mod, program):
                    return made.mask
                return self._kept(mod, program, asked, self._for_this_mod(made.mask, mod))
        return self._kept(mod, program, asked, self._analysed(self._packed(mod), asked))

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
            return
        mask.check_usable(1, mask.heads, self.q_len, self.kv_len)
        crossing = self._analysed(and_masks(mask.program, ~self.within), mask.heads)
        if crossing.runs.start.size:
            raise self._not_separate(crossing)
        self._separate[id(mask)] = mask

    def _kept(
        self, mod: MaskMod | Program, program: Program, heads: int | None, mask: BlockMask
    ) -> BlockMask:
        """The mask, from now on to be found."""
        if not any(isinstance(one, Tensor) and one.is_inference() for one in program.captures):
            self._made.append(_Made(mod, program, heads, mask))
        return mask

    def _packed(self, mod: MaskMod | Program) -> MaskMod | Program:
        """The mask of packed positions; of a program a program, for no function shall seem to be there."""
        within = self.within.around(mod)
        return trace(within) if isinstance(mod, Program) else within

    def _analysed(
        self, mod: MaskMod | Program, heads: int | None, block_size: int | tuple[int, int] = 128
    ) -> BlockMask:
        # What is made in inference mode could not be kept for a call that is not.
        with torch.inference_mode(False):
            return create_block_mask(mod, 1, heads, self.q_len, self.kv_len, self.device, block_size)

    def _for_this_mod(self, mask: BlockMask, mod: MaskMod | Program) -> BlockMask:
        """The blocks of a mask as the mask of another mod that says the same."""
        packed = self._packed(mod)
        with torch.inference_mode(False):
            program = trace(packed, ModKind.MASK)
            return replace(mask, program=program, mask_mod=packed, watched=watch(program, packed))

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
    sequences = _read(queries, keys)
    kept.append((_Known.of(queries, keys), sequences))
    return sequences


def _read(queries: Ragged, keys: Ragged) -> Sequences:
    with torch.inference_mode(False):
        offsets, lengths = _bounds(queries, "query")
        if all(mine is yours for mine, yours in zip(queries[:2], keys[:2], strict=True)):
            within = jagged(noop_mask, offsets, lengths=lengths)
        else:
            kv_offsets, kv_lengths = _bounds(keys, "key")
            within = jagged(noop_mask, offsets, kv_offsets, lengths, kv_lengths)
    return Sequences(within, queries.total, keys.total, queries.offsets.device)


def _bounds(side: Ragged, name: str) -> tuple[Tensor, Tensor | None]:
    """Offsets and lengths as `jagged` takes them, for all positions there are."""
    offsets = side.offsets.detach().clone()
    first, last = int(offsets[0]), int(offsets[-1])
    if last > side.total:
        raise ArgumentError(
            f"the offsets of {name} must end within its {side.total} values, got {last}; "
            "give torch.nested.nested_tensor_from_jagged offsets that end there"
        )
    if side.lengths is None and first == 0 and last == side.total:
        return offsets, None
    lengths = offsets.diff() if side.lengths is None else side.lengths.detach().clone()
    # One sequence more, an empty one, stands for what lies behind the last.
    return torch.cat((offsets, offsets.new_tensor([side.total]))), torch.cat((lengths, lengths.new_zeros(1)))


class _Mark(NamedTuple):
    """A tensor as it was: itself, held weakly, and its state."""

    tensor: TensorWeakRef
    version: int  # −1 where torch counts no writes
    address: int
    content: Tensor | None  # a copy, where the count is missing

    @classmethod
    def of(cls, tensor: Tensor) -> _Mark:
        counted = not tensor.is_inference()
        version = tensor._version if counted else -1
        return cls(TensorWeakRef(tensor), version, tensor.data_ptr(), None if counted else tensor.clone())

    def is_as(self, tensor: Tensor) -> bool:
        """Whether this is the tensor, and it is unchanged."""
        if self.tensor() is not tensor or self.address != tensor.data_ptr():
            return False
        return bool(tensor._version == self.version if self.content is None else tensor.equal(self.content))


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


def _same_captures(first: Program, second: Program) -> bool:
    return all(mine is yours for mine, yours in zip(first.captures, second.captures, strict=True))


def _says(mod: MaskMod, program: Program) -> bool:
    """Whether a function says now what a program says, about the very same tensors."""
    try:
        now = trace(mod, ModKind.MASK)
    except Exception:  # it is an earlier call's, and what it read may be gone
        return False
    same = now.structure == program.structure and now.numbers == program.numbers
    return same and _same_captures(now, program)


def _is_current(mask: BlockMask) -> bool:
    return not any(one.has_changed for one in mask.watched)
