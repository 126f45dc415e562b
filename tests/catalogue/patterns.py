"""The library's masks from papers: sparse, two- and three-dimensional, packed, trees."""

from __future__ import annotations

import torch

from catalogue.case import Case, Mods, Sizes
from saccade import masks as m


def starts(s: Sizes, first: int) -> list[int]:
    """Offsets of sequences of `first` tokens and then three each, enough of them for every position."""
    return [0, *range(first, 3 * s.length, 3)]


def per_sequence(s: Sizes) -> Mods:
    """Prefixes of 1, 2, 0, 1, 2, 0, ... in the sequences."""
    offsets = starts(s, 2)
    return Mods(m.jagged(m.prefix_lm((torch.arange(len(offsets), device="cpu") + 1) % 3), offsets))


def globals_per_batch(s: Sizes) -> Mods:
    """Position 2 is global in odd batch entries, position 0 in even ones."""
    odd = torch.arange(s.batch, device="cpu")[:, None] % 2 == 1
    return Mods(m.global_tokens(torch.where(odd, s.positions == 2, s.positions == 0)))


def binary(s: Sizes) -> list[int]:
    """The parents of a full binary tree, level by level."""
    return [(node - 1) // 2 for node in range(s.length)]


def half(s: Sizes) -> int:
    """The width of a canvas of two rows that holds every position."""
    return (s.length + 1) // 2


def half_of_power(s: Sizes) -> int:
    """The same, a power of two."""
    return 1 << (half(s) - 1).bit_length()


PATTERNS = [
    Case(
        "jagged_causal",
        lambda s: Mods(m.jagged(m.causal, starts(s, 2))),
        ("x... xx.. ..x. ..xx", "x..... xx.... ..x... ..xx..", "x... xx.. ..x. ..xx ..xx ...."),
        causal=True,
    ),
    Case(
        "jagged_per_sequence",
        per_sequence,
        ("x... xx.. ..xx ..xx", "x..... xx.... ..xx.. ..xx..", "x... xx.. ..xx ..xx ..xx ...."),
    ),
    Case(
        "jagged_cross",
        lambda s: Mods(m.jagged(m.noop_mask, starts(s, 2), kv_offsets=starts(s, 1)[: len(starts(s, 2))])),
        ("x... x... .xxx .xxx", "x..... x..... .xxx.. .xxx..", "x... x... .xxx .xxx .xxx ...."),
    ),
    Case(
        "local_2d",
        lambda s: Mods(m.local_2d((s.length, 3), 1)),
        ("xx.x xxxx .xx. xx.x", "xx.xx. xxxxxx .xx.xx xx.xx.", "xx.x xxxx .xx. xx.x xxxx .xx."),
    ),
    Case(
        "image_cross_attention",
        lambda s: Mods(m.image_cross_attention([[0, 3], [1, 3], [3, 5]], [1, 2, s.length])),
        ("x... xxx. xxx. ...x", "x..... xxx... xxx... ...xxx", "x... xxx. xxx. ...x ...x ...."),
    ),
    Case(
        "dilated_window",
        lambda s: Mods(m.dilated_window(1, 1, 2)),
        ("x.x. .x.x x.x. .x.x", "x.x... .x.x.. x.x.x. .x.x.x", "x.x. .x.x x.x. .x.x ..x. ...x"),
    ),
    Case(
        "dilated_window_causal",
        lambda s: Mods(m.dilated_window(1, 0, 2)),
        ("x... .x.. x.x. .x.x", "x..... .x.... x.x... .x.x..", "x... .x.. x.x. .x.x ..x. ...x"),
        causal=True,
    ),
    Case(
        "chunked",
        lambda s: Mods(m.chunked(3)),
        ("xxx. xxx. xxx. ...x", "xxx... xxx... xxx... ...xxx", "xxx. xxx. xxx. ...x ...x ...x"),
    ),
    Case(
        "chunked_causal",
        lambda s: Mods(m.causal & m.chunked(3)),
        ("x... xx.. xxx. ...x", "x..... xx.... xxx... ...x..", "x... xx.. xxx. ...x ...x ...x"),
        causal=True,
    ),
    Case(
        "global_tokens",
        lambda s: Mods(m.global_tokens(1)),
        ("xxxx x... x... x...", "xxxxxx x..... x..... x.....", "xxxx x... x... x... x... x..."),
    ),
    Case(
        "global_tokens_per_batch",
        globals_per_batch,
        ("..x. ..x. xxxx ..x.", "..x... ..x... xxxxxx ..x...", "..x. ..x. xxxx ..x. ..x. ..x."),
        at=(1, 0),
        reads_b=True,
    ),
    Case(
        "streaming",
        lambda s: Mods(m.streaming(2, 1)),
        ("x... xx.. xxx. x.xx", "x..... xx.... xxx... x.xx..", "x... xx.. xxx. x.xx x..x x..."),
        causal=True,
    ),
    # Drawn by the seed: of 2 blocks 1, 1; of 3 blocks 2, 2, 1.
    Case(
        "random_blocks",
        lambda s: Mods(m.random_blocks(s.length, 2, 1, seed=0)),
        ("..xx ..xx ..xx ..xx", "....xx ....xx ....xx ....xx", ".... .... .... .... ..xx ..xx"),
    ),
    Case(
        "shared_prefix",
        lambda s: Mods(m.shared_prefix(1, [2] * s.length)),
        ("x... xx.. xxx. x..x", "x..... xx.... xxx... x..x..", "x... xx.. xxx. x..x x..x x..."),
        causal=True,
    ),
    Case(
        "block_diffusion",
        lambda s: Mods(m.block_diffusion(half(s), 1)),
        ("x... .xx. ..x. ..xx", "x..... .x.x.. ..xxx. ...x..", "x... .x.x ..xx ...x ...x ...x"),
    ),
    Case(
        "block_diffusion_ragged",
        lambda s: Mods(m.block_diffusion(half(s), 2)),
        ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xxx. ...xx.", "xx.. xx.. ..xx ...x ...x ...x"),
    ),
    Case(
        "tree_of_nodes",
        lambda s: Mods(m.tree([-1, *binary(s)[1:]])),
        ("x... xx.. x.x. xx.x", "x..... xx.... x.x... xx.x..", "x... xx.. x.x. xx.x xx.. x.x."),
        causal=True,
    ),
    Case(
        "tree_after_context",
        lambda s: Mods(m.tree([-1, *binary(s)[1:]], context=torch.arange(s.batch, device="cpu"))),
        ("xx.. xxx. xx.x xxx.", "xx.... xxx... xx.x.. xxx.x.", "xx.. xxx. xx.x xxx. xxx. xx.x"),
        at=(1, 0),
        reads_b=True,
    ),
    Case(
        "strided_causal",
        lambda s: Mods(m.strided(2)),
        ("x... xx.. xxx. .xxx", "x..... xx.... xxx... .xxx..", "x... xx.. xxx. .xxx x.xx .x.x"),
        causal=True,
    ),
    Case(
        "sliding_tile_2d",
        lambda s: Mods(m.sliding_tile((2, half(s)), (2, 1), (1, 2))),
        ("xxxx " * 4, "xxxx.. " * 4, "xxxx xxxx xxxx xxxx ..xx ..xx"),
    ),
    Case(
        "sliding_tile_3d",
        lambda s: Mods(m.sliding_tile((1, 2, half(s)), (1, 2, 1), 1)),
        ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xx.. ..xx..", "xx.. xx.. ..xx ..xx .... ...."),
    ),
    Case(
        "natten_tiled",
        lambda s: Mods(m.natten((2, half(s)), (1, 2), order="tiled", tile=(2, 1))),
        ("x.x. .x.x x.x. .x.x", "x.x... .x.x.. x.x... .x.x..", "x.x. .x.x x.x. .x.x ..x. ...x"),
    ),
    Case(
        "natten_morton",
        lambda s: Mods(m.natten((2, half_of_power(s)), (1, 2), order="morton")),
        ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xx.. ..xx..", "xx.. xx.. ..xx ..xx .x.. ...."),
    ),
]
