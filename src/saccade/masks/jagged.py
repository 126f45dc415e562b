"""A jagged batch: sequences of unequal lengths packed end to end, each under the same mask."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.masks.packing import Packing, Places, packing_of, read_side
from saccade.masks.vector import kept
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
        lengths: How long each sequence is, where it leaves room before the next (`nested.lengths()`, holes of
            a nested tensor): a list or an integer tensor `[sequences]`. What lies between sees nothing and is
            not seen. Default: each sequence reaches to the next. With lengths, offsets may start above 0.
        kv_lengths: The same of the keys, where kv_offsets are given.

    Raises:
        ModError: `mask_mod` is not callable, or a factory passed uncalled.
        ArgumentError: Offsets do not start at 0, or fall; there are not as many of keys as of queries; a
            length does not fit; kv_lengths are given without kv_offsets.
        DTypeError: Offsets or lengths are not integers.
        ShapeError: They have not one axis, or there are not as many lengths as sequences.

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
    lengths: Sequence[int] | Tensor | None = None
    kv_lengths: Sequence[int] | Tensor | None = None
    usage: ClassVar[str] = "jagged(causal, offsets=[0, 700, 1024])"
    _packing: Packing = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_mod(self.mask_mod, "jagged()")
        for name in ("offsets", "kv_offsets", "lengths", "kv_lengths"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, kept(given, f"jagged(): {name}"))
        queries = keys = read_side(self.offsets, "jagged()", "offsets", self.lengths)
        if self.kv_offsets is not None:
            keys = read_side(self.kv_offsets, "jagged()", "kv_offsets", self.kv_lengths)
            if keys.starts.numel() != queries.starts.numel():
                raise ArgumentError(
                    "jagged(): kv_offsets must tell as many sequences as offsets, "
                    f"got {keys.starts.numel()} and {queries.starts.numel()}; "
                    "repeat an offset for an empty one"
                )
        elif self.kv_lengths is not None:
            raise ArgumentError(
                "jagged(): kv_lengths go with kv_offsets, got kv_offsets=None; "
                "where keys lie as queries do, lengths serve both"
            )
        object.__setattr__(self, "_packing", packing_of(queries, keys))

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        at = self._packing.places(q_idx, kv_idx)
        # Not `same & inside`: a key that the offsets do not tell of must not pass for a hidden one.
        return torch.where(at.same, self.mask_mod(at.sequence, h, at.q_idx, at.kv_idx), False)

    def around(self, mask_mod: MaskMod) -> jagged:
        """Return another mask within the same sequences, without reading the offsets anew.

        Args:
            mask_mod: The mask of one sequence.

        Raises:
            ModError: It is not callable, or a factory passed uncalled.

        Example:
            >>> from saccade.masks import causal, noop_mask
            >>> jagged(noop_mask, offsets=[0, 2, 5]).around(causal)
            jagged(causal, offsets=[0, 2, 5])
        """
        require_mod(mask_mod, "jagged()")
        other = copy.copy(self)
        object.__setattr__(other, "mask_mod", mask_mod)
        return other

    def places(self, q_idx: Tensor, kv_idx: Tensor) -> Places:
        """Tell packed positions as places in their sequences, for a score_mod say.

        Args:
            q_idx: Integer tensor, or the index a mod is given: the query's packed position.
            kv_idx: The key's, likewise.

        Returns:
            The number of the query's sequence, whether the key is of the same, and both places in it.

        Example:
            >>> from saccade.masks import noop_mask
            >>> at = jagged(noop_mask, offsets=[0, 2, 5]).places(torch.tensor(4), torch.tensor(2))
            >>> int(at.sequence), bool(at.same), int(at.q_idx), int(at.kv_idx)
            (1, True, 2, 0)
        """
        return self._packing.places(q_idx, kv_idx)


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
    return read_side(offsets, "build_seq_idx()", "offsets").sequence


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
    expected = mask._packing.q_sequence
    if seq_idx.shape != expected.shape or not torch.equal(seq_idx.to(expected), expected):
        raise ArgumentError(
            f"create_njt_wrapper(): seq_idx must be that of offsets, {expected.numel()} numbers, "
            f"got shape={list(seq_idx.shape)}; make it with build_seq_idx(offsets)"
        )
    return mask
