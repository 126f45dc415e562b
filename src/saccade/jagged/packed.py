"""Packed sequences, and the way to them and back from padded ones.

Owns `Packed`. Invariant: `unpack` gives back what `pack` was given, its padding aside.
"""

from __future__ import annotations

from cmath import isfinite
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Number
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.masks.vector import integer_vector, lengths_of_starts
from saccade.mod_value import require_at_least, require_tensor

__all__ = ["Packed", "PaddingSide", "pack", "require_packed", "unpack"]

PaddingSide: TypeAlias = Literal["right", "left"]
"""Where padding lies: behind the tokens, or before them."""

_SHOWN = 8  # offsets that a repr shows


@final
@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """Sequences end to end, and where each begins.

    Args:
        values: `[total, ...]` of any dtype.
        cu_seqlens: Where each sequence starts, and the end of the last: integer tensor `[B + 1]`, 0 first and
            never falling. It is kept as int64 on the device of the values, the same tensor where it is so
            already.

    Raises:
        ArgumentTypeError: One of the two is no tensor.
        ArgumentError: cu_seqlens do not start at 0, fall, or do not end with the values.
        DTypeError: They are not integers.
        ShapeError: They have not one axis, or the values none.

    Example:
        >>> packed = Packed(torch.randn(7, 16), torch.tensor([0, 3, 7]))
        >>> packed.lengths
        tensor([3, 4])
    """

    values: Tensor
    cu_seqlens: Tensor

    def __post_init__(self) -> None:
        require_tensor(self.values, "Packed(): values")
        require_tensor(self.cu_seqlens, "Packed(): cu_seqlens")
        if self.values.dim() == 0:
            raise ShapeError("Packed(): values must be [total, ...], got a tensor without dimensions")
        starts = integer_vector(self.cu_seqlens, "Packed(): cu_seqlens").to(self.values.device)
        lengths_of_starts(starts, "Packed()", "cu_seqlens")
        if int(starts[-1]) != self.values.shape[0]:
            raise ArgumentError(
                f"Packed(): cu_seqlens must end with the values, at {self.values.shape[0]}, "
                f"got {int(starts[-1])}"
            )
        object.__setattr__(self, "cu_seqlens", starts)

    @property
    def lengths(self) -> Tensor:
        """int64 `[B]`: the length of each sequence."""
        return self.cu_seqlens.diff()

    @property
    def max_seqlen(self) -> int:
        """The length of the longest sequence; 0 where there is none. Read from cu_seqlens when asked for."""
        return _longest(self.lengths)

    def with_values(self, values: Tensor) -> Packed:
        """Return the same sequences with other values, one for each position again.

        Args:
            values: `[total, ...]`.

        Raises:
            ArgumentError: There are more or fewer of them.

        Example:
            >>> hidden = Packed(torch.randn(7, 16), torch.tensor([0, 3, 7]))
            >>> hidden.with_values(hidden.values @ torch.randn(16, 48))
            Packed(values=float32[7, 48], cu_seqlens=[0, 3, 7], max_seqlen=4)
        """
        return replace(self, values=values)

    def __repr__(self) -> str:
        starts = self.cu_seqlens[:_SHOWN].tolist()
        more = ", ..." if self.cu_seqlens.numel() > _SHOWN else ""
        dtype = str(self.values.dtype).removeprefix("torch.")
        return (
            f"Packed(values={dtype}{list(self.values.shape)}, "
            f"cu_seqlens=[{', '.join(map(str, starts))}{more}], max_seqlen={self.max_seqlen})"
        )


def pack(
    padded: Tensor,
    lengths: Sequence[int] | Tensor | None = None,
    *,
    keep: Tensor | None = None,
    padding_side: PaddingSide = "right",
) -> Packed:
    """Put the tokens of padded sequences end to end.

    Args:
        padded: `[B, L, ...]` of any dtype.
        lengths: How many tokens of each sequence are real: ints or an integer tensor `[B]`.
        keep: Instead of lengths: bool `[B, L]`, True for each real token (a tokenizer's attention_mask,
            as bool). They may lie anywhere; give the same table to `unpack`.
        padding_side: Where the padding lies, with lengths: "right" or "left".

    Returns:
        The real tokens, in order.

    Raises:
        ArgumentTypeError: `padded` or `keep` is no tensor.
        ArgumentError: Not exactly one of lengths and keep is given; a length is not in 0..L; padding_side is
            another word.
        DTypeError: Lengths are not integers, or `keep` is not bool.
        ShapeError: `padded` has fewer than two dimensions; lengths or `keep` do not fit it.

    Example:
        >>> tokens = torch.tensor([[7, 8, 0], [4, 5, 6]])
        >>> pack(tokens, lengths=[2, 3]).values
        tensor([7, 8, 4, 5, 6])
        >>> pack(tokens, keep=tokens != 0).cu_seqlens
        tensor([0, 2, 5])
    """
    require_tensor(padded, "pack(): padded")
    if padded.dim() < 2:
        raise ShapeError(f"pack(): padded must be [B, L, ...], got shape={list(padded.shape)}")
    if (lengths is None) == (keep is None):
        given = "neither" if lengths is None else "both"
        raise ArgumentError(f"pack() expects lengths or keep, got {given}; they say which tokens are real")
    _require_side(padding_side, "pack()")
    batch, length = padded.shape[:2]
    if keep is None:
        assert lengths is not None
        held = integer_vector(lengths, "pack(): lengths")
        _require_lengths(held, batch, length)
        keep = _kept(held.to(padded.device), length, padding_side)
    else:
        _require_keep(keep, batch, length, "pack()")
    counts = keep.sum(dim=1)
    cu_seqlens = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return Packed(padded.flatten(0, 1).index_select(0, _places(keep, padded.device)), cu_seqlens)


def unpack(
    packed: Packed,
    length: int | None = None,
    *,
    keep: Tensor | None = None,
    padding_side: PaddingSide = "right",
    fill: float = 0.0,
) -> Tensor:
    """Fill packed sequences up to one length: the way back from `pack`.

    Args:
        packed: The sequences.
        length: The length L. Default: that of the longest.
        keep: Where tokens go: bool `[B, L]`, in each row as many True as the sequence has tokens; then
            neither `length` nor `padding_side` has a say.
        padding_side: Where padding goes: "right" or "left".
        fill: The value of padding, a number that the dtype of the values holds.

    Returns:
        `[B, L, ...]` of the dtype of the values.

    Raises:
        ArgumentTypeError: `packed` is no `Packed`, `keep` no tensor, `length` no integer or `fill` no
            number.
        ArgumentError: A sequence is longer than `length`; rows of `keep` have not as many tokens;
            padding_side is another word; values of that dtype cannot be `fill`.
        DTypeError: `keep` is not bool.
        ShapeError: `keep` has not one row a sequence.

    Example:
        >>> packed = Packed(torch.tensor([7, 8, 4, 5, 6]), torch.tensor([0, 2, 5]))
        >>> unpack(packed, padding_side="left", fill=-1)
        tensor([[-1,  7,  8],
                [ 4,  5,  6]])
    """
    require_packed(packed, "unpack()")
    _require_side(padding_side, "unpack()")
    if length is not None:
        require_at_least(None, length, "unpack(): length")
    lengths, values = packed.lengths, packed.values
    batch = lengths.numel()
    padding = _padding(fill, values)
    if keep is None:
        longest = _longest(lengths)
        length = longest if length is None else length
        if length < longest:
            raise ArgumentError(
                f"unpack(): length must hold the longest sequence, of {longest} tokens, got "
                f"length={length}; cut the sequences before"
            )
        keep = _kept(lengths, length, padding_side)
    else:
        _require_keep(keep, batch, None, "unpack()")
        length = keep.shape[1]
        if not torch.equal(keep.sum(dim=1).to(lengths), lengths):
            raise ArgumentError(
                "unpack(): keep must have as many True in a row as the sequence has tokens, "
                f"{lengths.tolist()}, got {keep.sum(dim=1).tolist()}"
            )
    room = padding.repeat(batch * length, *values.shape[1:])
    filled = room.index_copy(0, _places(keep, values.device), values)
    return filled.view(batch, length, *values.shape[1:])


def require_packed(packed: object, function: str) -> None:
    """Check that something is a `Packed`; `function` says who was given it: "unpack()".

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not isinstance(packed, Packed):
        raise ArgumentTypeError(
            f"{function} expects a Packed, got {type(packed).__name__}; make one with "
            "pack(padded, lengths) or Packed(values, cu_seqlens)"
        )


def _longest(lengths: Tensor) -> int:
    return int(lengths.max()) if lengths.numel() else 0


def _kept(lengths: Tensor, length: int, padding_side: PaddingSide) -> Tensor:
    """Where the tokens of padded sequences are, bool `[B, L]`."""
    place = torch.arange(length, device=lengths.device)
    return place < lengths[:, None] if padding_side == "right" else place >= length - lengths[:, None]


def _padding(fill: float, values: Tensor) -> Tensor:
    """The value of padding, a 0-d tensor like the values."""
    if not isinstance(fill, Number):
        raise ArgumentTypeError(f"unpack(): fill must be a number, got {type(fill).__name__} {fill!r}")
    try:
        padding = values.new_full((), fill)
        # Fractions may be rounded, but only to fractions.
        is_exact = not (values.is_floating_point() or values.is_complex())
        is_held = padding.item() == fill if is_exact else isfinite(padding.item()) or not isfinite(fill)
    except (RuntimeError, TypeError):  # out of the dtype's range; complex for a real dtype
        is_held = False
    if not is_held:
        raise ArgumentError(
            f"unpack(): fill must be a number that values of {values.dtype} can be, got fill={fill!r}; "
            "choose another, or convert the values before"
        )
    return padding


def _places(keep: Tensor, device: torch.device) -> Tensor:
    """Where the kept tokens are, among all in order."""
    return keep.flatten().nonzero().squeeze(1).to(device)


def _require_side(padding_side: object, function: str) -> None:
    if padding_side not in ("right", "left"):
        raise ArgumentError(f"{function}: padding_side must be 'right' or 'left', got {padding_side!r}")


def _require_lengths(lengths: Tensor, batch: int, length: int) -> None:
    if lengths.shape != (batch,):
        raise ShapeError(f"pack(): lengths must hold one number a sequence, {batch}, got {lengths.numel()}")
    if batch and not bool(((lengths >= 0) & (lengths <= length)).all()):
        raise ArgumentError(
            f"pack(): lengths must lie between 0 and the padded length {length}, "
            f"got lengths={lengths.tolist()}"
        )


def _require_keep(keep: object, batch: int, length: int | None, function: str) -> None:
    require_tensor(keep, f"{function}: keep")
    assert isinstance(keep, Tensor)
    if keep.dtype is not torch.bool:
        raise DTypeError(
            f"{function}: keep must be bool, True for each real token, got {keep.dtype}; "
            "convert it with .bool()"
        )
    if keep.dim() != 2 or keep.shape[0] != batch or length not in (None, keep.shape[1]):
        raise ShapeError(
            f"{function}: keep must be [B, L] with B={batch}{'' if length is None else f' and L={length}'}, "
            f"got shape={list(keep.shape)}"
        )
