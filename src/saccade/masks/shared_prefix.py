"""A prefix shared by several continuations, computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.masks.base import Mask
from saccade.masks.vector import integer_vector, kept, owner_of_each, require_lengths
from saccade.mod_value import require_at_least

__all__ = ["shared_prefix"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class shared_prefix(Mask):
    """Show the prefix and the query's own continuation, both causally; no other continuation.

    The sequence is the prefix and then the continuations, end to end. A query at position i of the prefix
    keeps keys 0 to i. The t-th query of a continuation (from 0) keeps the whole prefix and the first t + 1
    keys of its own continuation: prefix + t + 1 keys. It is causal. Several answers to one prompt are so
    trained or scored with the prompt computed once, which is exact when each continuation's positions count
    from the prefix's end. Sharing a prefix is the subject of Hydragen (arXiv 2402.05099).

    Args:
        prefix: Tokens in the prefix; 0 or more.
        lengths: Tokens in each continuation, in order: ints, or an integer tensor `[continuations]`; 0 is
            allowed. Read once, now; of ints the table is made on the CPU.

    Raises:
        ArgumentError: `prefix` or a length is negative.
        ArgumentTypeError: `prefix` is not an integer.
        DTypeError: `lengths` are not integers.
        ShapeError: `lengths` has not one axis.

    Example:
        >>> q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        >>> shared_prefix(2, lengths=[2, 2])(0, 0, q_idx, kv_idx).int()
        tensor([[1, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0],
                [1, 1, 0, 0, 1, 0],
                [1, 1, 0, 0, 1, 1]], dtype=torch.int32)
    """

    prefix: int
    lengths: Sequence[int] | Tensor
    usage: ClassVar[str] = "shared_prefix(prefix=1024, lengths=[128, 128, 128])"
    _ids: Tensor = field(init=False, repr=False, compare=False)  # [S] int64: 0 in the prefix, then 1, 2, ...

    def __post_init__(self) -> None:
        require_at_least(0, self.prefix, "shared_prefix(): prefix")
        object.__setattr__(self, "lengths", kept(self.lengths, "shared_prefix(): lengths"))
        lengths = integer_vector(self.lengths, "shared_prefix(): lengths")
        require_lengths(lengths, "shared_prefix()", "lengths")
        object.__setattr__(
            self, "_ids", owner_of_each(torch.cat((lengths.new_tensor([self.prefix]), lengths)))
        )

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & ((kv_idx < self.prefix) | (self._ids[q_idx] == self._ids[kv_idx]))
