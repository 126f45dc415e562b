"""Sequences packed end to end: of which one each position is, and where in it.

Owns the tables behind `jagged`, which are made once from offsets, and how a pair of packed positions is told
as places in its sequence. What is asked about those places is the user's mask or score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ShapeError
from saccade.masks.vector import integer_vector

__all__ = ["Packing", "Places", "Side", "packing_of", "read_side"]

_NO_SEQUENCE, _NO_SEQUENCE_OF_KEYS = -1, -2  # of positions between sequences; they differ, so never meet


class Places(NamedTuple):
    """A pair of packed positions, as one of its sequence sees it.

    Attributes:
        sequence: The number of the query's sequence; −1 where it is of none.
        same: Whether the key is of that sequence too.
        q_idx: The query's place in it.
        kv_idx: The key's place in it; of a key of another sequence, any integer.
    """

    sequence: Tensor
    same: Tensor
    q_idx: Tensor
    kv_idx: Tensor


@final
@dataclass(frozen=True, eq=False)
class Side:
    """The packed positions of queries, or of keys.

    Attributes:
        starts: int64 ``[sequences]``: where each sequence begins.
        sequence: int64 ``[S]``: the sequence of each position, −1 for none.
        begin: int64 ``[S]``: where that sequence begins; of a position without one, the position itself.
    """

    starts: Tensor
    sequence: Tensor
    begin: Tensor

    @property
    def has_gaps(self) -> bool:
        """Whether a position is of no sequence."""
        return bool((self.sequence < 0).any())


@final
@dataclass(frozen=True, eq=False)
class Packing:
    """The packed positions of queries and keys together.

    Attributes:
        sequences: How many sequences there are.
        q_sequence: int64 ``[Q]``: the sequence of each query, −1 for none.
        q_begin: int64 ``[Q]``: where its sequence begins among the queries.
        kv_sequence: int64 ``[K]``: the sequence of each key, −2 for none.
        kv_begin: int64 ``[K]``: where its sequence begins among the keys.
        keys_begin: int64 ``[Q]``: where the sequence of each query begins among the keys.
    """

    sequences: int
    q_sequence: Tensor
    q_begin: Tensor
    kv_sequence: Tensor
    kv_begin: Tensor
    keys_begin: Tensor

    def places(self, q_idx: Tensor, kv_idx: Tensor) -> Places:
        """Tell packed positions as places in their sequences.

        Args:
            q_idx: Integer tensor, or a traced index: the query's packed position.
            kv_idx: The key's, likewise.
        """
        sequence, begin = self.q_sequence[q_idx], self.q_begin[q_idx]
        evaluated: object = kv_idx
        if isinstance(evaluated, (Tensor, int)):
            # Torch computes hidden pairs too, and reads what a mask reads there: their places must exist.
            keys_begin = self.kv_begin[kv_idx]
        else:
            # Who reads the function gives hidden pairs no say. One start for both lets it fall out of tests
            # such as `q_idx >= kv_idx`, which makes the analysis several times as fast.
            keys_begin = begin if self.keys_begin is self.q_begin else self.keys_begin[q_idx]
        same = sequence == self.kv_sequence[kv_idx]
        return Places(sequence, same, q_idx - begin, kv_idx - keys_begin)


def packing_of(queries: Side, keys: Side) -> Packing:
    """Put two sides together; they may be one object.

    Args:
        queries: Those of the queries.
        keys: Those of the keys: as many sequences.
    """
    kv_sequence = keys.sequence
    if keys.has_gaps:
        kv_sequence = kv_sequence.masked_fill(kv_sequence < 0, _NO_SEQUENCE_OF_KEYS)
    keys_begin = queries.begin
    if keys is not queries:
        # A query of no sequence sees nothing, whatever stands here for it.
        starts = torch.cat((keys.starts, keys.starts.new_zeros(1)))
        keys_begin = starts.index_select(0, queries.sequence.clamp(min=0))
    return Packing(
        queries.starts.numel(), queries.sequence, queries.begin, kv_sequence, keys.begin, keys_begin
    )


def read_side(
    offsets: Sequence[int] | Tensor,
    function: str,
    name: str,
    lengths: Sequence[int] | Tensor | None = None,
) -> Side:
    """Read offsets, and lengths where sequences do not fill the room between them.

    Args:
        offsets: Where each sequence starts, and the end of the last.
        function: Who was given them, as a message names it: "jagged()".
        name: The parameter: "offsets".
        lengths: How long each sequence is. None: it reaches to the next.

    Raises:
        ArgumentError: Offsets fall, or without lengths do not start at 0; a length does not fit.
        DTypeError: Something given does not hold integers.
        ShapeError: It has not one axis, or there are not as many lengths as sequences.
    """
    bounds = integer_vector(offsets, f"{function}: {name}")
    room = bounds.diff()
    least = int(bounds[0]) if bounds.numel() else -1
    if least < 0 or (lengths is None and least) or (room.numel() and int(room.min()) < 0):
        raise ArgumentError(
            f"{function}: {name} must start at 0 and never fall, [0, end of the first, ...], "
            f"got {name}={bounds.tolist()}; for the lengths themselves put 0 before their cumulative sum"
        )
    length = int(bounds[-1])
    # How many sequences have begun at each position. (Torch has shorter ways, which start all its threads.)
    owner = torch.bincount(bounds[:-1], minlength=length + 1)[:length].cumsum(0) + _NO_SEQUENCE
    place = torch.arange(length, device=owner.device)
    begin = bounds.index_select(0, owner.clamp(min=0))
    if lengths is not None:
        held = _read_lengths(lengths, room, function, name.replace("offsets", "lengths"), name)
        beyond = torch.cat((held, held.new_zeros(1))).index_select(0, owner.clamp(min=0))
        missing = (owner < 0) | (place - begin >= beyond)
        owner, begin = owner.masked_fill(missing, _NO_SEQUENCE), torch.where(missing, place, begin)
    return Side(bounds[:-1], owner, begin)


def _read_lengths(
    lengths: Sequence[int] | Tensor, room: Tensor, function: str, name: str, offsets: str
) -> Tensor:
    held = integer_vector(lengths, f"{function}: {name}")
    if held.shape != room.shape:
        raise ShapeError(
            f"{function}: {name} must hold one number a sequence, {room.numel()} as {offsets} tell, "
            f"got {held.numel()}"
        )
    if held.numel() and not bool(((held >= 0) & (held <= room)).all()):
        raise ArgumentError(
            f"{function}: {name} must lie between 0 and the room that {offsets} leave, {room.tolist()}, "
            f"got {name}={held.tolist()}"
        )
    return held
