"""The patterns of the comparison table by name: those of the field's walk-through of programmable attention.

Owns the choice of mods and how they follow the lengths asked for: a pattern made for 8192 tokens keeps its
proportions on fewer, so that its density does not change much.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.bench.sizes import AttentionSize
from saccade.errors import ArgumentError
from saccade.masks import (
    causal,
    document,
    image_cross_attention,
    jagged,
    local_2d,
    natten,
    prefix_lm,
    sliding_window,
)
from saccade.scores import alibi, checkerboard, softcap
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["PATTERNS", "TextPattern", "pattern_names", "text_pattern"]

_FULL = 8192  # tokens that the patterns are described for
_RADIUS = 8  # pixels, of the patch that stand-alone self-attention sees
_SEQUENCES = 16


@final
@dataclass(frozen=True, eq=False)
class TextPattern:
    """Mods, and the lengths they are meant for.

    Attributes:
        score_mod: The change of the scores, or None.
        mask_mod: The mask, or None.
        q_len: Queries, at most as many as asked for.
        kv_len: Keys, likewise.
        batch: B where the pattern fixes it, else None.
    """

    score_mod: ScoreMod | None
    mask_mod: MaskMod | None
    q_len: int
    kv_len: int
    batch: int | None = None

    def size_within(self, fitted: AttentionSize) -> AttentionSize:
        """The sizes to run, of those that fit."""
        batch = fitted.batch if self.batch is None else self.batch
        return AttentionSize(batch, fitted.heads, self.q_len, self.kv_len, fitted.head_dim)


def noop(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Leave the score as it is."""
    return score


def causal_score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Hide later keys by their score: right, at twice the work of the mask, which skips blocks."""
    return torch.where(q_idx >= kv_idx, score, -math.inf)


def pattern_names() -> tuple[str, ...]:
    """Return the names of all patterns, in the order of the table.

    Example:
        >>> pattern_names()[:3]
        ('noop', 'checkerboard', 'causal_score')
    """
    return tuple(PATTERNS)


def text_pattern(name: str, size: AttentionSize, device: torch.device) -> TextPattern:
    """Make a pattern for at most so many tokens.

    Args:
        name: One of `pattern_names()`.
        size: The sizes asked for; a pattern on an image takes the largest square that they hold.
        device: Where its tensors shall live.

    Raises:
        ArgumentError: No pattern has the name.

    Example:
        >>> pattern = text_pattern("natten", AttentionSize(1, 1, 8192, 8192, 64), torch.device("cpu"))
        >>> pattern.q_len, 90 * 90
        (8100, 8100)
    """
    make = PATTERNS.get(name)
    if make is None:
        near = difflib.get_close_matches(name, PATTERNS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(PATTERNS)}, or all"
        raise ArgumentError(f"there is no pattern called {name!r}; {remedy}")
    return make(size, device)


def _scaled(tokens: int, size: AttentionSize) -> int:
    """A number of tokens that is meant for 8192, for the length asked for; never more than meant."""
    return max(1, min(tokens, tokens * size.q_len // _FULL))


def _score(mod: ScoreMod) -> Callable[[AttentionSize, torch.device], TextPattern]:
    return lambda size, device: TextPattern(mod, None, size.q_len, size.q_len)


def _mask(make: Callable[[AttentionSize], MaskMod]) -> Callable[[AttentionSize, torch.device], TextPattern]:
    return lambda size, device: TextPattern(None, make(size), size.q_len, size.q_len)


def _document(size: AttentionSize, device: torch.device) -> TextPattern:
    """Causal documents: two of an eighth of the sequence, the others of a quarter."""
    length = size.q_len
    ends = torch.tensor([0, length // 8, length // 4, length // 2, 3 * length // 4, length], device=device)
    return TextPattern(None, causal & document(lengths=ends.diff()), length, length)


def _alibi_table(size: AttentionSize, device: torch.device) -> TextPattern:
    """ALiBi with its slopes in a tensor."""
    heads = torch.arange(1, size.heads + 1, device=device)
    return TextPattern(alibi(slopes=torch.exp2(-8.0 * heads / size.heads)), None, size.q_len, size.q_len)


def _natten(size: AttentionSize, device: torch.device) -> TextPattern:
    side = _side(size)
    return TextPattern(None, natten((side, side), min(7, side)), side * side, side * side)


def _sasa(size: AttentionSize, device: torch.device) -> TextPattern:
    side = _side(size)
    return TextPattern(None, local_2d((side, side), _RADIUS), side * side, side * side)


def _jagged(size: AttentionSize, device: torch.device) -> TextPattern:
    """Causal sequences of random lengths, packed; on 16 × 1024 tokens they are 1 to 1024 tokens long."""
    generator = random.Random(size.q_len)
    longest = max(1, min(1024, size.q_len // _SEQUENCES))
    lengths = [generator.randint(1, longest) for _ in range(min(_SEQUENCES, size.q_len))]
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    return TextPattern(None, jagged(causal, offsets), sum(lengths), sum(lengths), batch=1)


def _flamingo(size: AttentionSize, device: torch.device) -> TextPattern:
    """Text of twelve parts and three images, each as long as three of them, seen as in the walk-through."""
    parts = torch.tensor([[0, 7], [1, 7], [7, 12]], device=device)
    length = max(1, size.q_len // 4)
    mask = image_cross_attention(parts * size.q_len // 12, length)
    return TextPattern(None, mask, size.q_len, 3 * length)


def _side(size: AttentionSize) -> int:
    """The side of the largest square image whose pixels are no more than the tokens asked for."""
    return math.isqrt(size.q_len)


PATTERNS: Mapping[str, Callable[[AttentionSize, torch.device], TextPattern]] = {
    "noop": _score(noop),
    "checkerboard": _score(checkerboard),
    "causal_score": _score(causal_score),
    "causal": _mask(lambda size: causal),
    "sliding_window": _mask(lambda size: sliding_window(_scaled(1024, size))),
    "prefix_lm": _mask(lambda size: prefix_lm(_scaled(2048, size))),
    "document": _document,
    "sasa": _sasa,
    "natten": _natten,
    "alibi": lambda size, device: TextPattern(alibi(n_heads=size.heads), None, size.q_len, size.q_len),
    "alibi_table": _alibi_table,
    "softcap": _score(softcap(2.0)),
    "softcap_approximate": _score(softcap(2.0, approximate=True)),
    "jagged": _jagged,
    "flamingo": _flamingo,
}
"""Name to a function of the sizes asked for and the device."""
