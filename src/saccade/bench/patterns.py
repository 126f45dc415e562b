"""The patterns of `saccade demo`: ready-made mods on the sizes they are used at, with inputs for attention.

Owns the choice of patterns and sizes and nothing of how they are checked. Inputs are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import torch
from torch import Tensor

from saccade.bench.corpus import embed, pack_library_sources
from saccade.masks import causal, dense, document, local, natten, padding, prefix_lm, shift, sliding_window
from saccade.scores import alibi, bias, relative_bias, softcap
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["Pattern", "Size", "demo_patterns"]

HEAD_DIM = 16

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Size(str, Enum):
    """How large the demo's patterns are."""

    SMALL = "small"  # a sixteenth of the lengths: seconds in all
    FULL = "full"  # the sizes the patterns are used at


@dataclass(frozen=True, eq=False)
class Pattern:
    """One row of the demo.

    Attributes:
        name: What it shows, in a few words.
        mask: The mask_mod.
        q_len: Query rows, Q.
        kv_len: Keys, K.
        extent: The size as people say it: "8,192", "64×64 image".
        score: The score_mod, or None.
        batch: B of the mask and of the inputs; the mask reads `b` where it is not 1.
        heads: H of the inputs; the mask reads no head.
        inputs: Makes query `[B, H, Q, D]`, key and value `[B, H, K, D]`; None for seeded normal numbers.
        note: A sentence about its data, or "".
    """

    name: str
    mask: MaskMod
    q_len: int
    kv_len: int
    extent: str
    score: ScoreMod | None = None
    batch: int = 1
    heads: int = 2
    inputs: Callable[[], Inputs] | None = None
    note: str = ""

    def make_inputs(self) -> Inputs:
        """Return query, key and value, float32."""
        if self.inputs is not None:
            return self.inputs()
        generator = torch.Generator().manual_seed(self.q_len + self.kv_len)
        query = torch.randn(self.batch, self.heads, self.q_len, HEAD_DIM, generator=generator)
        key, value = torch.randn(2, self.batch, self.heads, self.kv_len, HEAD_DIM, generator=generator)
        return query, key, value


def demo_patterns(size: Size) -> tuple[Pattern, ...]:
    """Return the patterns of the demo, from the simplest on.

    Example:
        >>> [pattern.name for pattern in demo_patterns(Size.SMALL)][:2]
        ['causal', 'sliding_window(64)']
    """
    scale = 16 if size is Size.SMALL else 1
    return (*_text_patterns(scale), *_image_patterns(size), *_table_patterns(scale), *_score_patterns(scale))


def _text_patterns(scale: int) -> tuple[Pattern, ...]:
    """Patterns of language models."""
    length, window, chunk = 8192 // scale, 1024 // scale, 1024 // scale
    text = pack_library_sources(length)
    packed = Pattern(
        "causal & document(text)",
        causal & document(lengths=text.lengths),
        length,
        length,
        f"{length:,}",
        inputs=lambda: embed(text.tokens, heads=2, head_dim=HEAD_DIM),
        note=f"The text: {len(text.lengths)} files of Python's standard library, a document each, in bytes.",
    )
    lengths = [2048 // scale, 1500 // scale, 900 // scale, 300 // scale]
    ragged = 5000 // scale
    prefix, near = window // 2, window // 32
    return (
        _square(causal, length),
        _square(sliding_window(window), length),
        _square(prefix_lm(length // 4), length),
        _square(local(left=window // 4, right=window // 4), length // 2),
        packed,
        Pattern(
            "causal & padding(lengths)",
            causal & padding(lengths=torch.tensor(lengths)),
            lengths[0],
            lengths[0],
            f"4 × {lengths[0]:,}",
            batch=4,
        ),
        Pattern(
            f"shift(causal, q={length - chunk})",
            shift(causal, q=length - chunk),
            chunk,
            length,
            f"{chunk:,} × {length:,}",
        ),
        Pattern(
            f"prefix_lm({prefix}) & ~local({near}, 0)",
            prefix_lm(prefix) & ~local(left=near, right=0),
            ragged,
            ragged,
            f"{ragged:,}",
        ),
    )


def _image_patterns(size: Size) -> tuple[Pattern, ...]:
    """Neighbourhood attention on square images, a token a pixel."""
    sides = (64, 128) if size is Size.FULL else (16, 24)
    return tuple(
        Pattern(
            "natten(kernel=7)",
            natten((side, side), 7),
            side * side,
            side * side,
            f"{side}×{side} image",
        )
        for side in sides
    )


def _table_patterns(scale: int) -> tuple[Pattern, ...]:
    """A mask that exists only as a table: a band, a few global keys, random links between far blocks."""
    queries, keys = 1500 // scale, 2100 // scale
    generator = torch.Generator().manual_seed(scale)
    links = torch.rand((queries + 99) // 100, (keys + 99) // 100, generator=generator) < 0.15
    table = links.repeat_interleave(100, 0)[:queries].repeat_interleave(100, 1)[:, :keys].clone()
    table |= (torch.arange(queries)[:, None] - torch.arange(keys)).abs() < 64
    return (Pattern("dense(table)", dense(table), queries, keys, f"{queries:,} × {keys:,}"),)


def _score_patterns(scale: int) -> tuple[Pattern, ...]:
    """Masks together with a change of the scores."""
    length = 2048 // scale
    generator = torch.Generator().manual_seed(length)
    table = torch.randn(2, length, length, generator=generator)
    distances = torch.randn(2, 2 * length - 1, generator=generator)
    scored: tuple[tuple[str, MaskMod, ScoreMod], ...] = (
        ("causal + alibi", causal, alibi(n_heads=2)),
        ("sliding_window + softcap", sliding_window(length // 4), softcap(20.0)),
        ("prefix_lm + bias(table)", prefix_lm(length // 4), bias(table)),
        ("causal + relative_bias", causal, relative_bias(distances)),
    )
    return tuple(
        Pattern(name, mask, length, length, f"{length:,}", score=score) for name, mask, score in scored
    )


def _square(mask: MaskMod, length: int) -> Pattern:
    return Pattern(str(mask), mask, length, length, f"{length:,}")
