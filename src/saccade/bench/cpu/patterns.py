"""The patterns of the CPU measurements by name: a mask, a score, and the lengths they are measured at.

Owns the choice of mods. A decoding step is the last row of the pattern: the same mods, seen from there.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks import causal, document, natten, prefix_lm, shift, sliding_window
from saccade.scores import alibi, softcap
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["CANVAS", "PATTERNS", "CpuPattern", "cpu_pattern", "require_pattern"]

CANVAS = "natten"
"""The pattern of an image; its length is rounded down to a square."""

_WINDOW = 512
_KERNEL = 7
_CAP = 20.0


@final
@dataclass(frozen=True, eq=False)
class CpuPattern:
    """The mods of one case.

    Attributes:
        mask_mod: The mask, or None.
        score_mod: The change of the scores, or None.
        length: Keys, and the positions of the queries alike.
    """

    mask_mod: MaskMod | None
    score_mod: ScoreMod | None
    length: int

    def last_row(self) -> CpuPattern:
        """The same pattern for the one query that stands at the last position."""
        offset = self.length - 1
        return CpuPattern(
            None if self.mask_mod is None else shift(self.mask_mod, q=offset),
            None if self.score_mod is None else _seen_from(self.score_mod, offset),
            self.length,
        )


def cpu_pattern(name: str, length: int, heads: int) -> CpuPattern:
    """Make a pattern.

    Args:
        name: One of `PATTERNS`.
        length: Tokens.
        heads: Query heads; ALiBi has a slope for each.

    Raises:
        ArgumentError: No pattern has the name.

    Example:
        >>> cpu_pattern("window", 2048, 8).mask_mod
        sliding_window(512)
        >>> cpu_pattern("natten", 16500, 8).length, 128 * 128
        (16384, 16384)
    """
    require_pattern(name, PATTERNS)
    return PATTERNS[name](length, heads)


def require_pattern(name: str, known: Iterable[str]) -> None:
    """Raise ArgumentError, with the nearest of the known names, where this is none of them."""
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
        raise ArgumentError(f"there is no pattern called {name!r}; {remedy}")


def _documents(length: int, heads: int) -> CpuPattern:
    """Causal documents packed in a row: two of an eighth, three of a quarter."""
    ends = [0, length // 8, length // 4, length // 2, 3 * length // 4, length]
    lengths = [stop - start for start, stop in itertools.pairwise(ends)]
    return CpuPattern(causal & document(lengths=lengths), None, length)


def _natten(length: int, heads: int) -> CpuPattern:
    side = math.isqrt(length)
    return CpuPattern(natten((side, side), min(_KERNEL, side)), None, side * side)


def _seen_from(score_mod: ScoreMod, offset: int) -> ScoreMod:
    """A score_mod for queries that start at a later position."""

    def seen(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score_mod(score, b, h, q_idx + offset, kv_idx)

    return seen


PATTERNS: Mapping[str, Callable[[int, int], CpuPattern]] = {
    "full": lambda length, heads: CpuPattern(None, None, length),
    "causal": lambda length, heads: CpuPattern(causal, None, length),
    "window": lambda length, heads: CpuPattern(sliding_window(_WINDOW), None, length),
    "documents": _documents,
    "alibi": lambda length, heads: CpuPattern(causal, alibi(n_heads=heads), length),
    "softcap": lambda length, heads: CpuPattern(causal, softcap(_CAP), length),
    "prefix_lm": lambda length, heads: CpuPattern(prefix_lm(length // 4), None, length),
    CANVAS: _natten,
}
"""Name to a function of the length and the number of heads. ALiBi and softcap are causal too."""
