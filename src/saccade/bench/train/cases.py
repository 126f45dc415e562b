"""Which training cases are measured, and what a user may choose among them.

Owns the short list that `saccade bench train` runs by default and the long one of `--full`. A value that the
user names replaces the list of its axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import final

from saccade.bench.compare import BACKWARD, FORWARD
from saccade.bench.cpu.cases import DTYPES, require_axes
from saccade.bench.cpu.patterns import require_pattern
from saccade.bench.sizes import AttentionSize
from saccade.bench.train.patterns import PATTERNS

__all__ = ["Phase", "Selection", "TrainCase"]

_HEADS = 8
_LENGTH = 2048
_LENGTHS = {"window": 8192}  # where the short list has another one
_FULL_LENGTHS = (512, 2048, 8192)
_HEAD_DIMS = (64, 128)
_AFTER_MATMUL = ("causal", 2048, 64)


class Phase(str, Enum):
    """What is timed."""

    BACKWARD = "backward"  # on a graph made before
    STEP = "step"  # the forward pass that records the graph, and the backward pass

    @property
    def heading(self) -> str:
        """What tables call it.

        Example:
            >>> Phase.STEP.heading
            'forward and backward'
        """
        return "backward" if self is Phase.BACKWARD else "forward and backward"

    @property
    def flops(self) -> int:
        """Operations a visible pair and head dimension.

        Example:
            >>> Phase.BACKWARD.flops, Phase.STEP.flops
            (10, 14)
        """
        return BACKWARD if self is Phase.BACKWARD else FORWARD + BACKWARD


@final
@dataclass(frozen=True)
class TrainCase:
    """Attention whose gradients every contender computes.

    Attributes:
        pattern: A name in `PATTERNS`.
        dtype: A name in `bench.cpu.cases.DTYPES`.
        length: Queries, and keys alike.
        head_dim: D, and Dv alike.
        after_matmul: Whether a product of torch matrices runs before every sample, as it does in a model.

    Example:
        >>> str(TrainCase("causal", "float32", 2048, 64))
        'causal float32 S=2048 D=64'
    """

    pattern: str
    dtype: str
    length: int
    head_dim: int
    after_matmul: bool = False

    def __str__(self) -> str:
        after = ", after a matmul" if self.after_matmul else ""
        return f"{self.pattern} {self.dtype} S={self.length} D={self.head_dim}{after}"

    @property
    def size(self) -> AttentionSize:
        """The sizes of the call."""
        return AttentionSize(1, _HEADS, self.length, self.length, self.head_dim)

    @property
    def labels(self) -> dict[str, str]:
        """What sorts it beside its size, as a report holds it."""
        return {
            "pattern": self.pattern,
            "dtype": self.dtype,
            "after_matmul": "yes" if self.after_matmul else "no",
        }


@final
@dataclass(frozen=True)
class Selection:
    """What a user chose; an empty axis stands for its list.

    Attributes:
        patterns: Names in `PATTERNS`.
        dtypes: Names in `bench.cpu.cases.DTYPES`.
        lengths: Tokens.
        head_dims: D.
        only: The one phase to time; None for both.
        full: Whether the long lists stand for empty axes.

    Raises:
        ArgumentError: A pattern or dtype is unknown, or a size is below 1.

    Example:
        >>> for case in Selection(patterns=("window",), dtypes=("float32",)).cases():
        ...     print(case)
        window float32 S=8192 D=64
        window float32 S=8192 D=128
    """

    patterns: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    head_dims: tuple[int, ...] = ()
    only: Phase | None = None
    full: bool = False

    def __post_init__(self) -> None:
        for name in self.patterns:
            require_pattern(name, PATTERNS)
        require_axes(self.dtypes, self.lengths, self.head_dims)

    @property
    def is_default(self) -> bool:
        """Whether the user named no value of any axis, and no phase."""
        return not (self.patterns or self.dtypes or self.lengths or self.head_dims or self.only)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What is timed of each case."""
        return tuple(Phase) if self.only is None else (self.only,)

    def cases(self) -> tuple[TrainCase, ...]:
        """The cases, those of equal type and width beside each other."""
        return tuple(self._cases())

    def _cases(self) -> Iterator[TrainCase]:
        dtypes, head_dims = self.dtypes or tuple(DTYPES), self.head_dims or _HEAD_DIMS
        patterns = self.patterns or tuple(PATTERNS)
        for dtype, head_dim, pattern in itertools.product(dtypes, head_dims, patterns):
            for length in self._lengths(pattern):
                yield TrainCase(pattern, dtype, length, head_dim)
        pattern, length, head_dim = _AFTER_MATMUL
        if pattern in patterns and length in self._lengths(pattern) and head_dim in head_dims:
            for dtype in dtypes:
                yield TrainCase(pattern, dtype, length, head_dim, after_matmul=True)

    def _lengths(self, pattern: str) -> tuple[int, ...]:
        if self.lengths:
            return self.lengths
        return _FULL_LENGTHS if self.full else (_LENGTHS.get(pattern, _LENGTH),)
