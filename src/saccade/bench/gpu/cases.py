"""Which cases are measured on a GPU, and in what order: what matters most comes first.

Owns the lists that stand for what a user does not name, and the ranks: a run that has spent its time has
measured the first of them. The longer the sequences, the fewer of them, so that a case has equal tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar, final

from saccade.bench.cpu.cases import require_axes
from saccade.bench.cpu.patterns import require_pattern
from saccade.bench.sizes import AttentionSize
from saccade.bench.text_patterns import PATTERNS
from saccade.errors import ArgumentError

__all__ = ["DECODE_PATTERNS", "GpuCase", "Phase", "Selection"]

T = TypeVar("T")


class Phase(str, Enum):
    """What is timed."""

    FORWARD = "forward"  # all queries, without gradients
    BACKWARD = "backward"  # on a graph made before
    DECODE = "decode"  # one query a sequence, against a cache


# The earlier the row, the earlier the case. All patterns at the first length come before the first at all
# lengths, so that a run that ends early has seen every pattern.
_PATTERN_RANKS: tuple[tuple[str, ...], ...] = (
    ("causal", "document", "sliding_window"),
    ("noop", "natten", "prefix_lm", "alibi", "softcap"),
    ("sasa", "alibi_table", "checkerboard", "jagged", "causal_score", "softcap_approximate", "flamingo"),
)
_LENGTH_RANKS: tuple[tuple[int, ...], ...] = ((16384,), (4096, 32768), (8192, 2048))
_HEAD_DIMS = (128, 64)
_LENGTH_WEIGHT = 2
_QUICK = ((_PATTERN_RANKS[0],), ((4096,),), (64,))
_ONE_LENGTH = frozenset({"jagged"})  # 16 sequences of up to 1024 tokens, however many are asked for

DECODE_PATTERNS = ("noop", "causal", "sliding_window", "alibi", "alibi_table", "softcap", "checkerboard")
"""The patterns that have a last row: the step that follows a whole sequence."""

_DECODE_RANKS: tuple[tuple[str, ...], ...] = (("noop",), ("sliding_window", "alibi", "softcap"))
_CACHE_RANKS: tuple[tuple[int, ...], ...] = ((16384,), (65536, 4096))
_DECODE_HEAD_DIM = 128
_DECODE_HEADS, _DECODE_KV_HEADS = 32, 8
_CACHE_TOKENS = 4  # times the tokens of a case, over all sequences of a decoding step


@final
@dataclass(frozen=True)
class GpuCase:
    """Attention that every contender computes.

    Attributes:
        pattern: A name in `text_patterns.PATTERNS`.
        length: Keys; as many queries, or one in decoding.
        head_dim: D, and Dv alike.
        batch: B.
        heads: Hq.
        kv_heads: Hkv.
        is_decode: Whether it is a decoding step.

    Example:
        >>> str(GpuCase("causal", 16384, 64, 1, 32, 32)), str(GpuCase("noop", 4096, 128, 16, 32, 8, True))
        ('causal S=16384 D=64 B=1 H=32', 'decode noop K=4096 D=128 B=16 H=32/8')
    """

    pattern: str
    length: int
    head_dim: int
    batch: int
    heads: int
    kv_heads: int
    is_decode: bool = False

    def __str__(self) -> str:
        sizes = f"D={self.head_dim} B={self.batch} H={self.heads}"
        if self.is_decode:
            return f"decode {self.pattern} K={self.length} {sizes}/{self.kv_heads}"
        return f"{self.pattern} S={self.length} {sizes}"

    @property
    def size(self) -> AttentionSize:
        """The sizes asked for, all queries of a sequence; a pattern may take fewer."""
        return AttentionSize(self.batch, self.heads, self.length, self.length, self.head_dim)


@final
@dataclass(frozen=True)
class Selection:
    """What a user chose; an empty axis stands for its list.

    Attributes:
        patterns: Names in `text_patterns.PATTERNS`.
        lengths: Tokens of a sequence, or of a cache.
        head_dims: D.
        only: The one phase to time; None for all.
        quick: Whether the shortest lists stand for empty axes.
        tokens: Tokens of a case, over its sequences; a longer sequence is alone.
        width: Heads times D.

    Raises:
        ArgumentError: A pattern is unknown, a size is below 1, a head is wider than `width`, or no case is
            left.

    Example:
        >>> for case in Selection(patterns=("natten",), lengths=(4096,)).cases():
        ...     print(case)
        natten S=4096 D=128 B=4 H=16
        natten S=4096 D=64 B=4 H=32
    """

    patterns: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    head_dims: tuple[int, ...] = ()
    only: Phase | None = None
    quick: bool = False
    tokens: int = 16384
    width: int = 2048

    def __post_init__(self) -> None:
        for name in self.patterns:
            require_pattern(name, PATTERNS)
        require_axes((), self.lengths, self.head_dims)
        for name, number in (("tokens", self.tokens), ("width", self.width)):
            if number < 1:
                raise ArgumentError(f"{name} must be at least 1, got {name}={number}")
        if self.head_dims and max(self.head_dims) > self.width:
            raise ArgumentError(
                f"width must hold a head at least, got width={self.width} and head_dim="
                f"{max(self.head_dims)}; raise --width, or lower --head-dim"
            )
        if not self.cases():
            raise ArgumentError(
                f"no case is left: {', '.join(self.patterns)} has no decoding step; "
                f"choose one of {', '.join(DECODE_PATTERNS)}, or all phases"
            )

    def cases(self) -> tuple[GpuCase, ...]:
        """The cases, the most important first."""
        found = [*self._sequences(), *self._decodes()]
        return tuple(case for _, case in sorted(found, key=lambda ranked: ranked[0]))

    def phases(self, case: GpuCase) -> tuple[Phase, ...]:
        """What is timed of a case."""
        if case.is_decode:
            return (Phase.DECODE,)
        return tuple(one for one in (Phase.FORWARD, Phase.BACKWARD) if self.only in (None, one))

    def _sequences(self) -> Iterator[tuple[tuple[int, ...], GpuCase]]:
        """Cases of whole sequences, with their ranks."""
        if self.only is Phase.DECODE:
            return
        patterns, lengths, head_dims = _QUICK if self.quick else (_PATTERN_RANKS, _LENGTH_RANKS, _HEAD_DIMS)
        for pattern, pattern_rank in _ranked(self.patterns, patterns):
            for length, length_rank in _ranked(self.lengths, lengths):
                if pattern in _ONE_LENGTH and not self.lengths and length_rank:
                    continue
                for number, head_dim in enumerate(self.head_dims or head_dims):
                    heads = max(1, self.width // head_dim)
                    case = GpuCase(pattern, length, head_dim, max(1, self.tokens // length), heads, heads)
                    yield (pattern_rank + _LENGTH_WEIGHT * length_rank, pattern_rank, 0, number), case

    def _decodes(self) -> Iterator[tuple[tuple[int, ...], GpuCase]]:
        """Decoding steps, with their ranks: of one sequence, and of as many as fill the card."""
        if self.only not in (None, Phase.DECODE):
            return
        named = tuple(name for name in self.patterns if name in DECODE_PATTERNS)
        if self.patterns and not named:
            return
        for pattern, pattern_rank in _ranked(named, _DECODE_RANKS):
            for length, length_rank in _ranked(self.lengths, _CACHE_RANKS):
                if self.quick and pattern_rank + length_rank:
                    continue
                filled = max(1, _CACHE_TOKENS * self.tokens // length)
                for head_dim, batch in itertools.product(
                    self.head_dims or (_DECODE_HEAD_DIM,), sorted({1, filled}, reverse=True)
                ):
                    heads = (_DECODE_HEADS, _DECODE_KV_HEADS)
                    case = GpuCase(pattern, length, head_dim, batch, *heads, is_decode=True)
                    rank = pattern_rank + _LENGTH_WEIGHT * length_rank + int(batch != filled)
                    yield (rank, pattern_rank, 1, 0), case


def _ranked(named: tuple[T, ...], ranks: tuple[tuple[T, ...], ...]) -> list[tuple[T, int]]:
    """What was named, all of the first rank; or the lists, each value with its rank."""
    if named:
        return [(value, 0) for value in named]
    return [(value, rank) for rank, values in enumerate(ranks) for value in values]
