"""Which cases are measured: phases, patterns, types and sizes, and what a user may choose among them.

Owns the short list that `saccade bench cpu` runs by default and the long one of `--full`. A value that the
user names replaces the list of its axis, so that any length or width can be measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import final

import torch

from saccade.bench.cpu.patterns import CANVAS, PATTERNS, cpu_pattern, require_pattern
from saccade.bench.sizes import AttentionSize
from saccade.errors import ArgumentError

__all__ = ["DTYPES", "Case", "Phase", "Selection", "require_axes"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What is measured, by name."""

_FORWARD_HEADS = 8
_DECODE_HEADS = 32
_DECODE_KV_HEADS = 8


def require_axes(dtypes: Iterable[str], lengths: Iterable[int], head_dims: Iterable[int]) -> None:
    """Raise ArgumentError where a type is none of `DTYPES`, or a size below 1."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    for axis, sizes in (("length", lengths), ("head_dim", head_dims)):
        for size in sizes:
            if size < 1:
                raise ArgumentError(f"{axis} must be at least 1, got {axis}={size}")


class Phase(str, Enum):
    """What a call does."""

    FORWARD = "forward"  # all queries of a sequence
    DECODE = "decode"  # one query against a cache


@final
@dataclass(frozen=True)
class _Axes:
    """The values of every axis of a phase."""

    patterns: tuple[str, ...]
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]


_ON_TEXT = tuple(name for name in PATTERNS if name != CANVAS)
_SHORT = {
    Phase.FORWARD: _Axes(_ON_TEXT, (2048,), (64, 128)),
    Phase.DECODE: _Axes(("full", "causal"), (4096, 16384), (128,)),
}
_FULL = {
    Phase.FORWARD: _Axes(_ON_TEXT, (512, 2048, 8192, 16384), (64, 128)),
    Phase.DECODE: _Axes(_ON_TEXT, (4096, 16384), (128,)),
}
_CANVAS_AXES = {False: _Axes((CANVAS,), (128 * 128,), (64,)), True: _Axes((CANVAS,), (128 * 128,), (64, 128))}
_AFTER_MATMUL = {Phase.FORWARD: ("causal", 2048, 64), Phase.DECODE: ("full", 4096, 128)}


@final
@dataclass(frozen=True)
class Case:
    """One thing that every contender does.

    Attributes:
        phase: Forward or decode.
        pattern: A name in `PATTERNS`.
        dtype: A name in `DTYPES`.
        length: Keys; a forward pass has as many queries, a decoding step one.
        head_dim: D, and Dv alike.
        after_matmul: Whether a product of torch matrices runs before every sample, as it does in a model.

    Example:
        >>> str(Case(Phase.FORWARD, "causal", "float32", 2048, 64))
        'forward causal float32 S=2048 D=64'
    """

    phase: Phase
    pattern: str
    dtype: str
    length: int
    head_dim: int
    after_matmul: bool = False

    def __str__(self) -> str:
        lengths = f"{'S' if self.phase is Phase.FORWARD else 'K'}={self.length}"
        after = ", after a matmul" if self.after_matmul else ""
        return f"{self.phase.value} {self.pattern} {self.dtype} {lengths} D={self.head_dim}{after}"

    @property
    def size(self) -> AttentionSize:
        """The sizes of the call, by its query heads."""
        if self.phase is Phase.FORWARD:
            return AttentionSize(1, _FORWARD_HEADS, self.length, self.length, self.head_dim)
        return AttentionSize(1, _DECODE_HEADS, 1, self.length, self.head_dim)

    @property
    def kv_heads(self) -> int:
        """Hkv."""
        return _FORWARD_HEADS if self.phase is Phase.FORWARD else _DECODE_KV_HEADS

    @property
    def shape(self) -> dict[str, int]:
        """The sizes by name, as a report holds them."""
        return {**self.size.as_dict(), "kv_heads": self.kv_heads}

    @property
    def labels(self) -> dict[str, str]:
        """The rest of what sorts it, as a report holds it."""
        return {
            "phase": self.phase.value,
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
        dtypes: Names in `DTYPES`.
        lengths: Tokens.
        head_dims: D.
        only: The one phase to measure; None for both.
        full: Whether the long lists stand for empty axes.

    Raises:
        ArgumentError: A pattern or dtype is unknown, a size is below 1, or no case is left.

    Example:
        >>> for case in Selection(patterns=("causal",), dtypes=("float32",), only=Phase.DECODE).cases():
        ...     print(case)
        decode causal float32 K=4096 D=128
        decode causal float32 K=16384 D=128
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
        if not self.cases():
            raise ArgumentError(
                f"no case is left: {CANVAS} is measured forward, and only={self.only} leaves it out; "
                "choose another pattern, or both phases"
            )

    @property
    def is_default(self) -> bool:
        """Whether the user named no value of any axis, and no phase."""
        return not (self.patterns or self.dtypes or self.lengths or self.head_dims or self.only)

    def cases(self) -> tuple[Case, ...]:
        """The cases, forward first, those of equal type and size beside each other."""
        return tuple(itertools.chain.from_iterable(map(self._of, self._phases())))

    def _phases(self) -> tuple[Phase, ...]:
        return tuple(Phase) if self.only is None else (self.only,)

    def _of(self, phase: Phase) -> Iterator[Case]:
        axes = (_FULL if self.full else _SHORT)[phase]
        # Every pattern of a phase may be named; without names, the list says which are measured.
        named = self._restricted(axes, _ON_TEXT)
        for dtype, head_dim, length, pattern in itertools.product(
            self.dtypes or DTYPES, named.head_dims, named.lengths, named.patterns
        ):
            yield Case(phase, pattern, dtype, length, head_dim)
        if phase is Phase.FORWARD:
            canvas = self._restricted(_CANVAS_AXES[self.full], (CANVAS,))
            for dtype, head_dim, length, pattern in itertools.product(
                self.dtypes or DTYPES, canvas.head_dims, canvas.lengths, canvas.patterns
            ):
                yield Case(phase, pattern, dtype, cpu_pattern(pattern, length, 1).length, head_dim)
        pattern, length, head_dim = _AFTER_MATMUL[phase]
        if pattern in named.patterns and length in named.lengths and head_dim in named.head_dims:
            for dtype in self.dtypes or DTYPES:
                yield Case(phase, pattern, dtype, length, head_dim, after_matmul=True)

    def _restricted(self, axes: _Axes, known: tuple[str, ...]) -> _Axes:
        """The axes with what the user named in their place."""
        chosen = tuple(name for name in self.patterns if name in known)
        return _Axes(
            chosen if self.patterns else axes.patterns,
            self.lengths or axes.lengths,
            self.head_dims or axes.head_dims,
        )
