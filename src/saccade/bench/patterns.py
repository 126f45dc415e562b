"""The gallery of `saccade demo`: every ready-made mod on a size it is used at, with inputs for attention.

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
from saccade.masks import (
    block_diffusion,
    causal,
    chunked,
    dense,
    dilated_window,
    document,
    global_tokens,
    image_cross_attention,
    image_intervals,
    jagged,
    local,
    local_2d,
    natten,
    noop_mask,
    padding,
    prefix_lm,
    random_blocks,
    shared_prefix,
    shift,
    sliding_tile,
    sliding_window,
    streaming,
    strided,
    tree,
)
from saccade.scores import (
    alibi,
    bias,
    checkerboard,
    distance_decay,
    graphormer_bias,
    head_scale,
    relative_bias,
    softcap,
    t5_bias,
)
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["Family", "Pattern", "Size", "demo_patterns"]

HEAD_DIM = 16

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Size(str, Enum):
    """How large the demo's patterns are."""

    SMALL = "small"  # a sixteenth of the lengths: seconds in all
    FULL = "full"  # the sizes the patterns are used at


class Family(str, Enum):
    """What a pattern is for; the heading it stands under on the contact sheet."""

    TEXT = "Text"
    SPARSE = "Sparse and streaming"
    IMAGES = "Images and video"
    SCORES = "With a score"


@dataclass(frozen=True, eq=False)
class Pattern:
    """One row of the demo.

    Attributes:
        name: What it shows, in a few words.
        mask: The mask_mod.
        q_len: Query rows, Q.
        kv_len: Keys, K.
        extent: The size as people say it: "8,192", "64×64 image".
        family: What it is for.
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
    family: Family = Family.TEXT
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
    return (
        *_text_patterns(scale),
        *_packed_patterns(scale),
        *_sparse_patterns(scale),
        *_table_patterns(scale),
        *_image_patterns(size),
        *_score_patterns(scale),
    )


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
    lengths = [1500 // scale, 2048 // scale, 900 // scale, 300 // scale]
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
            max(lengths),
            max(lengths),
            f"4 × {max(lengths):,}",
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


def _packed_patterns(scale: int) -> tuple[Pattern, ...]:
    """Several sequences in one: batches without padding, continuations, trees and copies."""
    length = max(2048 // scale, 256)
    parts = [length // 8, length // 4, length // 16, length // 2, length // 16]
    offsets = [sum(parts[:count]) for count in range(len(parts) + 1)]
    prefix, branch = length // 4, length // 8
    # Four drafts of a token, each with four of the next, and so on: nodes in order of their depth.
    nodes = 1024 // scale
    parents = [-1, *((node - 1) // 4 for node in range(1, nodes))]
    return (
        Pattern("jagged(causal, offsets)", jagged(causal, offsets), length, length, f"{length:,}"),
        _square(shared_prefix(prefix, [branch] * 6), length, f"shared_prefix({prefix}, 6 × {branch})"),
        Pattern(
            f"tree(parents, context={nodes})",
            tree(parents, context=nodes),
            nodes,
            2 * nodes,
            f"{nodes:,} × {2 * nodes:,}",
        ),
        _square(block_diffusion(length // 2, length // 16), length, f"block_diffusion(block={length // 16})"),
    )


def _sparse_patterns(scale: int) -> tuple[Pattern, ...]:
    """Patterns that keep few keys of a long sequence."""
    length = max(2048 // scale, 256)
    step = length // 16
    masks: tuple[MaskMod, ...] = (
        chunked(length // 4),
        causal & chunked(length // 8),
        streaming(window=length // 8, first=length // 32),
        dilated_window(left=8, right=8, dilation=step // 4),
        strided(step),
        global_tokens(length // 32) | local(left=step, right=step),
    )
    half = length // 2
    chosen = random_blocks(half, block=half // 16, number=3)
    return (
        *(_square(mask, length, family=Family.SPARSE) for mask in masks),
        _square(chosen, half, "random_blocks(number=3)", Family.SPARSE),
    )


def _image_patterns(size: Size) -> tuple[Pattern, ...]:
    """Images and video, a token a pixel or patch."""
    near, far = (64, 128) if size is Size.FULL else (16, 32)
    window, tile = (8, 8) if size is Size.FULL else (3, 4)
    video, brick = ((8, 32, 32), (2, 8, 8)) if size is Size.FULL else ((4, 8, 8), (1, 2, 2))
    tiled = natten((near, near), 7, order="tiled", tile=tile)
    patterns = (
        (f"local_2d(window={window})", local_2d((near, near), window), near),
        ("natten(kernel=7)", natten((near, near), 7), near),
        ("natten(kernel=7)", natten((far, far), 7), far),
        ("natten(kernel=7, dilation=2)", natten((near, near), 7, dilation=2), near),
        (f"natten(kernel=7, tile={tile})", tiled, near),
        ("natten(kernel=7, order='morton')", natten((near, near), 7, order="morton"), near),
    )
    tokens = video[0] * video[1] * video[2]
    return (
        *(
            Pattern(name, mask, side * side, side * side, f"{side}×{side} image", Family.IMAGES)
            for name, mask, side in patterns
        ),
        Pattern(
            "sliding_tile(window=3)",
            sliding_tile(video, brick, 3),
            tokens,
            tokens,
            f"{'×'.join(map(str, video))} video",
            Family.IMAGES,
        ),
        _interleaved(4096 // (1 if size is Size.FULL else 16)),
    )


def _interleaved(length: int) -> Pattern:
    """Text that looks at the images that stand before it, some of them side by side."""
    tokens = torch.zeros(length, dtype=torch.long)
    tokens[[0, length // 5, length // 5 + 1, length // 2, length * 3 // 4]] = 1
    patches = [length // 8, length // 8, length // 16, length // 8, length // 16]
    return Pattern(
        "image_cross_attention",
        image_cross_attention(image_intervals(tokens, image_token=1), patches),
        length,
        sum(patches),
        f"{length:,} text × 5 images",
        Family.IMAGES,
    )


def _table_patterns(scale: int) -> tuple[Pattern, ...]:
    """A mask that exists only as a table: a band, and random links between far blocks."""
    queries, keys = 1500 // scale, 2100 // scale
    generator = torch.Generator().manual_seed(scale)
    side = 100 // scale
    links = torch.rand(-(-queries // side), -(-keys // side), generator=generator) < 0.15
    table = links.repeat_interleave(side, 0)[:queries].repeat_interleave(side, 1)[:, :keys].clone()
    table |= (torch.arange(queries)[:, None] - torch.arange(keys)).abs() < 64 // scale
    extent = f"{queries:,} × {keys:,}"
    return (Pattern("dense(table)", dense(table), queries, keys, extent, Family.SPARSE),)


def _score_patterns(scale: int) -> tuple[Pattern, ...]:
    """Masks together with a change of the scores."""
    length = 2048 // scale
    generator = torch.Generator().manual_seed(length)
    # A slow wave for each head, so that the table has a shape to see.
    position = torch.arange(length) * (12 / length)
    table = torch.stack([torch.outer(position.sin(), position.cos()), torch.outer(position, position).sin()])
    distances = torch.randn(2, 2 * length - 1, generator=generator)
    buckets = torch.randn(32, 2, generator=generator)
    # A ring of nodes: the farthest is half way around.
    around = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    hops = torch.minimum(around, length - around) // (length // 16)
    scored: tuple[tuple[str, MaskMod, ScoreMod], ...] = (
        ("causal + alibi", causal, alibi(n_heads=2)),
        ("sliding_window + softcap", sliding_window(length // 4), softcap(20.0)),
        ("prefix_lm + bias(table)", prefix_lm(length // 4), bias(table)),
        ("causal + relative_bias", causal, relative_bias(distances)),
        ("local + checkerboard", local(left=length // 8, right=length // 8), checkerboard),
        ("causal + distance_decay", causal, distance_decay(0.97)),
        ("noop_mask + t5_bias", noop_mask, t5_bias(buckets, max_distance=length // 4)),
        (
            "noop_mask + graphormer_bias",
            noop_mask,
            graphormer_bias(torch.randn(9, generator=generator), hops),
        ),
        ("chunked + head_scale", chunked(length // 4), head_scale(torch.tensor([0.5, 2.0]))),
        ("document + alibi", document(lengths=[length // 4, length // 2, length // 4]), alibi(n_heads=2)),
        ("causal as a score_mod", noop_mask, _causal_score),
    )
    return tuple(
        Pattern(name, mask, length, length, f"{length:,}", Family.SCORES, score)
        for name, mask, score in scored
    )


def _causal_score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """The causal mask as a function of the score: right, and no block is saved by it."""
    return torch.where(q_idx >= kv_idx, score, -torch.inf)


def _square(mask: MaskMod, length: int, name: str = "", family: Family = Family.TEXT) -> Pattern:
    return Pattern(name or str(mask), mask, length, length, f"{length:,}", family)
