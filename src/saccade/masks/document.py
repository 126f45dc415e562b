"""Packed documents: several sequences laid end to end, none of which sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, final

from torch import Tensor

from saccade.errors import ArgumentError, DTypeError, ShapeError
from saccade.masks.base import Mask
from saccade.masks.vector import integer_vector, kept, lengths_of_starts, owner_of_each, require_lengths
from saccade.mod_value import is_integral, require_tensor

__all__ = ["document"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class document(Mask):
    """Show the keys of the query's own document.

    Query i keeps every key whose document is that of i: as many as the document has tokens, the later ones
    included. For language models write `causal & document(...)`. Give exactly one of `ids`, `lengths` and
    `cu_seqlens`.

    Args:
        ids: Integer tensor `[S]` or `[B, S]`: the document of each position, any numbers, adjacent or not.
            Kept as given, and read when the mask is used.
        lengths: Tokens in each document, in order: ints, or an integer tensor `[documents]`; 0 is allowed.
            Read once, now; of ints the table is made on the CPU.
        cu_seqlens: Integer tensor (or ints) `[documents + 1]`: where each document starts, and the end of the
            last, as in flash-attn's variable-length functions: 0 first, never falling. Read once, now.
        kv_ids: Integer tensor `[K]` or `[B, K]`: the document of each key, for cross attention, where `ids`
            tells those of the queries. Default: the queries' own.

    Raises:
        ArgumentError: Not exactly one of the three is given; `kv_ids` comes without `ids`; a length is
            negative; `cu_seqlens` does not start at 0, or falls.
        ArgumentTypeError: `ids` or `kv_ids` is no tensor.
        DTypeError: A tensor is not of an integer dtype.
        ShapeError: A tensor has a number of axes other than those above.

    Example:
        >>> import torch
        >>> q_idx, kv_idx = torch.arange(4)[:, None], torch.arange(4)
        >>> document(lengths=[1, 3])(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0],
                [0, 1, 1, 1],
                [0, 1, 1, 1],
                [0, 1, 1, 1]], dtype=torch.int32)
    """

    ids: Tensor | None = None
    _: KW_ONLY
    lengths: Sequence[int] | Tensor | None = None
    cu_seqlens: Sequence[int] | Tensor | None = None
    kv_ids: Tensor | None = None
    usage: ClassVar[str] = "document(lengths=[1000, 24])"
    _q_ids: Tensor = field(init=False, repr=False, compare=False)  # [Q] or [B, Q] integer
    _kv_ids: Tensor = field(init=False, repr=False, compare=False)  # [K] or [B, K] integer

    def __post_init__(self) -> None:
        given = [name for name in ("ids", "lengths", "cu_seqlens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ArgumentError(
                "document() expects exactly one of ids, lengths and cu_seqlens, "
                f"got {' and '.join(given) or 'none'}; of several descriptions keep one"
            )
        if self.kv_ids is not None and self.ids is None:
            raise ArgumentError(
                f"document(): kv_ids goes with ids, got {given[0]}; give the queries' documents as ids"
            )
        for name in ("lengths", "cu_seqlens"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, kept(value, f"document(): {name}"))
        q_ids = self._read_ids()
        object.__setattr__(self, "_q_ids", q_ids)
        object.__setattr__(
            self, "_kv_ids", q_ids if self.kv_ids is None else _checked_ids(self.kv_ids, "kv_ids", "K")
        )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        of_query = self._q_ids[q_idx] if self._q_ids.dim() == 1 else self._q_ids[b, q_idx]
        of_key = self._kv_ids[kv_idx] if self._kv_ids.dim() == 1 else self._kv_ids[b, kv_idx]
        return of_query == of_key

    def _read_ids(self) -> Tensor:
        """The document of each query position, from whichever description was given."""
        if self.ids is not None:
            return _checked_ids(self.ids, "ids", "S")
        if self.lengths is not None:
            lengths = integer_vector(self.lengths, "document(): lengths")
            require_lengths(lengths, "document()", "lengths")
        else:
            assert self.cu_seqlens is not None
            starts = integer_vector(self.cu_seqlens, "document(): cu_seqlens")
            lengths = lengths_of_starts(starts, "document()", "cu_seqlens")
        return owner_of_each(lengths)


def _checked_ids(ids: Tensor, name: str, axis: str) -> Tensor:
    require_tensor(ids, f"document(): {name}")
    if not is_integral(ids):
        raise DTypeError(
            f"document(): {name} must be of an integer dtype, got dtype={ids.dtype}; convert it with .long()"
        )
    if ids.dim() not in (1, 2):
        raise ShapeError(
            f"document(): {name} must be [{axis}] or [B, {axis}], got shape={list(ids.shape)}; "
            "give one number per position"
        )
    return ids
