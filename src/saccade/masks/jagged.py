"""A jagged batch: sequences of unequal lengths packed end to end, each under the same mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.vector import integer_vector, kept, lengths_of_starts, owner_of_each
from saccade.mod_value import require_mod
from saccade.signatures import MaskMod

__all__ = ["build_seq_idx", "create_njt_wrapper", "jagged"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class jagged(Mask):
    """Apply a mask within each packed sequence, with positions and batch entry of that sequence.

    A pair is visible when query and key are of the same sequence and `mask_mod` shows the pair at their
    places in it, so a query keeps as many keys, and looks as far ahead, as `mask_mod` lets it on that
    sequence alone. `mask_mod` gets the number of the sequence as `b`: what it reads by batch entry, lengths
    or prefixes, holds one entry a sequence, as in a padded batch. The packed values are those of a nested
    tensor of torch with jagged layout, `nested.values()` and `nested.offsets()`.

    Args:
        mask_mod: The mask of one sequence: a library mask or a function of `(b, h, q_idx, kv_idx)`.
        offsets: Where each sequence starts, and the end of the last: ints, or an integer tensor
            `[sequences + 1]`, 0 first and never falling. Read once, now; of ints the tables are made on the
            CPU.
        kv_offsets: The same of the keys, for cross attention. Default: the queries' own.

    Raises:
        ModError: `mask_mod` is not callable, or a factory passed uncalled.
        ArgumentError: Offsets do not start at 0, or fall; there are not as many of keys as of queries.
        DTypeError: Offsets are not integers.
        ShapeError: Offsets have not one axis.

    Example:
        >>> from saccade.masks import causal
        >>> q_idx, kv_idx = torch.arange(5)[:, None], torch.arange(5)
        >>> jagged(causal, offsets=[0, 2, 5])(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 0, 1, 0, 0],
                [0, 0, 1, 1, 0],
                [0, 0, 1, 1, 1]], dtype=torch.int32)
    """

    mask_mod: MaskMod
    offsets: Sequence[int] | Tensor
    kv_offsets: Sequence[int] | Tensor | None = None
    usage: ClassVar[str] = "jagged(causal, offsets=[0, 700, 1024])"
    _q: _Packing = field(init=False, repr=False, compare=False)
    _kv: _Packing = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_mod(self.mask_mod, "jagged()")
        for name in ("offsets", "kv_offsets"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, kept(given, f"jagged(): {name}"))
        of_queries = _packing(self.offsets, "jagged()", "offsets")
        of_keys = of_queries
        if self.kv_offsets is not None:
            of_keys = _packing(self.kv_offsets, "jagged()", "kv_offsets")
            if of_keys.sequences != of_queries.sequences:
                raise ArgumentError(
                    "jagged(): kv_offsets must tell as many sequences as offsets, "
                    f"got {of_keys.sequences} and {of_queries.sequences}; repeat an offset for an empty one"
                )
        object.__setattr__(self, "_q", of_queries)
        object.__setattr__(self, "_kv", of_keys)

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        sequence = self._q.sequence[q_idx]
        inside = self.mask_mod(sequence, h, self._q.position[q_idx], self._kv.position[kv_idx])
        return (sequence == self._kv.sequence[kv_idx]) & inside


@dataclass(frozen=True)
class _Packing:
    """Packed positions: of which sequence each is, and its place in that sequence."""

    sequences: int
    sequence: Tensor  # [S] int64
    position: Tensor  # [S] int64


def _packing(offsets: Sequence[int] | Tensor, function: str, name: str) -> _Packing:
    starts = integer_vector(offsets, f"{function}: {name}")
    lengths = lengths_of_starts(starts, function, name)
    sequence = owner_of_each(lengths)
    position = torch.arange(sequence.numel(), device=sequence.device) - starts[sequence]
    return _Packing(lengths.numel(), sequence, position)


def build_seq_idx(offsets: Sequence[int] | Tensor) -> Tensor:
    """Return the number of the sequence that each packed position belongs to.

    Args:
        offsets: Where each sequence starts, and the end of the last: ints, or an integer tensor
            `[sequences + 1]`, 0 first and never falling; or a nested tensor of torch with jagged layout,
            whose offsets are taken.

    Returns:
        int64 tensor `[offsets[-1]]`: 0 for the first sequence's tokens, then 1, and so on.

    Raises:
        ArgumentError: `offsets` do not start at 0, or fall.
        DTypeError: `offsets` are not integers.
        ShapeError: `offsets` have not one axis.

    Example:
        >>> build_seq_idx([0, 2, 2, 5])
        tensor([0, 0, 2, 2, 2])
    """
    if isinstance(offsets, Tensor) and offsets.is_nested:
        offsets = offsets.offsets()  # type: ignore[attr-defined]  # a method of nested tensors alone
    return _packing(offsets, "build_seq_idx()", "offsets").sequence


def create_njt_wrapper(mask_mod: MaskMod, offsets: Sequence[int] | Tensor, seq_idx: Tensor) -> jagged:
    """Apply a mask within each sequence of a jagged batch: `jagged` under the name of torch's notebooks.

    Args:
        mask_mod: The mask of one sequence: a library mask or a function of `(b, h, q_idx, kv_idx)`.
        offsets: Where each sequence starts, and the end of the last, as for `jagged`.
        seq_idx: Integer tensor `[offsets[-1]]`, as `build_seq_idx(offsets)` makes it. It is checked, and
            nothing else: `jagged` makes its own.

    Returns:
        A mask. It keeps the keys of `jagged(mask_mod, offsets)`.

    Raises:
        ModError: `mask_mod` is not callable, or a factory passed uncalled.
        ArgumentError: `seq_idx` is not that of `offsets`; `offsets` do not start at 0, or fall.
        DTypeError: `offsets` are not integers.
        ShapeError: `offsets` have not one axis.

    Example:
        >>> from saccade.masks import causal
        >>> offsets = torch.tensor([0, 2, 5])
        >>> create_njt_wrapper(causal, offsets, build_seq_idx(offsets))
        jagged(causal, offsets=int64[3])
    """
    mask = jagged(mask_mod, offsets)
    expected = mask._q.sequence
    if seq_idx.shape != expected.shape or not torch.equal(seq_idx.to(expected), expected):
        raise ArgumentError(
            f"create_njt_wrapper(): seq_idx must be that of offsets, {expected.numel()} numbers, "
            f"got shape={list(seq_idx.shape)}; make it with build_seq_idx(offsets)"
        )
    return mask
