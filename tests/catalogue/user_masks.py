"""Masks as users write them: plain functions and closures.

In the styles of torch's documentation, attention-gym and transformers, with the forms that a reader of mods
is most likely to get wrong.
"""

from __future__ import annotations

import torch

from catalogue.case import Case, Mods, Sizes
from catalogue.library_masks import ALL, CAUSAL, CAUSAL_DOCUMENT, NONE, ONE_LATER, TWO_BEFORE, document_ids


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def everything(b, h, q_idx, kv_idx):
    return b.new_ones((), dtype=torch.bool)


def blocks(b, h, q_idx, kv_idx):
    return q_idx // 2 == kv_idx // 2


def blocks_by_shift(b, h, q_idx, kv_idx):
    return (q_idx >> 1) == (kv_idx >> 1)


def chosen_by_bits(b, h, q_idx, kv_idx):
    return ((0b1001 >> (kv_idx & 3)) & 1) == 1


def floor_of_negative(b, h, q_idx, kv_idx):
    return (kv_idx - q_idx) // 2 == -1


def remainder_of_negative(b, h, q_idx, kv_idx):
    return (kv_idx - q_idx) % 3 == 1


def near(b, h, q_idx, kv_idx):
    return abs(q_idx - kv_idx) <= 1


def strided(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & ((q_idx - kv_idx) % 2 == 0)


def chosen_by_where(b, h, q_idx, kv_idx):
    late = torch.where(kv_idx == q_idx, kv_idx > 0, kv_idx == 1)
    return torch.where(q_idx < 2, kv_idx == 0, late)


def causal_in_even_heads(b, h, q_idx, kv_idx):
    return (h % 2 == 1) | (q_idx >= kv_idx)


def logical_functions(b, h, q_idx, kv_idx):
    return torch.logical_and(q_idx >= kv_idx, torch.logical_not(kv_idx == 1))


def clamped(b, h, q_idx, kv_idx):
    return kv_idx <= torch.clamp(q_idx * 2, max=3)


def half(b, h, q_idx, kv_idx):
    return q_idx * 0.5 >= kv_idx


def late_rows_see_nothing(b, h, q_idx, kv_idx):
    return (q_idx < 2) & (q_idx >= kv_idx)


def same_sequence(s: Sizes) -> Mods:
    seq = s.positions % 3

    def mask(b, h, q_idx, kv_idx):
        return seq[q_idx] == seq[kv_idx]

    return Mods(mask)


def tree(s: Sizes) -> Mods:
    prefix = 2
    ancestors = (s.positions[: s.q_len, None] + s.positions[: s.kv_len]) % 2 == 0

    def mask(b, h, q_idx, kv_idx):
        return (kv_idx < prefix) | ancestors[q_idx, kv_idx - prefix]

    return Mods(mask)


def short_table(s: Sizes) -> Mods:
    keep = s.integers(1, 0, 1) == 1

    def mask(b, h, q_idx, kv_idx):
        return (kv_idx < 3) & keep[kv_idx]

    def plain(b, h, q_idx, kv_idx):
        return (kv_idx < 3) & keep[kv_idx.clamp(max=2)]

    return Mods(mask, plain_mask=plain)


def two_steps(s: Sizes) -> Mods:
    seq = document_ids(s)
    starts = s.integers(0, 2, *range(5, 3 * s.length, 3))

    def mask(b, h, q_idx, kv_idx):
        return (kv_idx >= starts[seq[q_idx]]) & (kv_idx <= q_idx)

    return Mods(mask)


def buckets(s: Sizes) -> Mods:
    bucket = (s.positions[: s.q_len, None] + 2 * s.positions[: s.kv_len]) % 3
    allowed = s.integers(1, 0, 0) > 0

    def mask(b, h, q_idx, kv_idx):
        return allowed[bucket[q_idx, kv_idx]]

    return Mods(mask)


def length_per_batch(s: Sizes) -> Mods:
    lengths = 1 + torch.arange(s.batch, device="cpu")

    def mask(b, h, q_idx, kv_idx):
        return kv_idx < lengths[b]

    return Mods(mask)


def captured_offset(s: Sizes) -> Mods:
    offset = s.integers(1)[0]

    def mask(b, h, q_idx, kv_idx):
        return q_idx + offset >= kv_idx

    return Mods(mask)


def permuted(s: Sizes) -> Mods:
    rank = s.positions.flip(0)

    def mask(b, h, q_idx, kv_idx):
        return rank[q_idx] >= rank[kv_idx]

    return Mods(mask)


def images(s: Sizes) -> Mods:
    """Cross attention to images of two keys each, visible to the rows of an interval (Flamingo's)."""
    image = s.positions
    intervals = torch.stack([image, image + 3], dim=1)

    def mask(b, h, q_idx, kv_idx):
        return (intervals[kv_idx // 2, 0] <= q_idx) & (q_idx < intervals[kv_idx // 2, 1])

    return Mods(mask)


def in_each_document(s: Sizes) -> Mods:
    """attention-gym's way: a mask of positions inside a document, made a mask of packed positions."""
    ids = document_ids(s)
    starts = s.integers(0, 2, *range(5, 3 * s.length, 3))

    def prefix_or_causal(b, h, q_idx, kv_idx):
        return (kv_idx < 2) | (q_idx >= kv_idx)

    def generate(inner):
        def mask(b, h, q_idx, kv_idx):
            same = ids[q_idx] == ids[kv_idx]
            return same & inner(b, h, q_idx - starts[ids[q_idx]], kv_idx - starts[ids[kv_idx]])

        return mask

    return Mods(generate(prefix_or_causal))


def combined(*mods):
    """transformers' way to intersect: from a bool that a tensor makes, each part moved to its device."""

    def mask(b, h, q_idx, kv_idx):
        result = q_idx.new_ones((), dtype=torch.bool)
        for mod in mods:
            result = result & mod(b, h, q_idx, kv_idx).to(result.device)
        return result

    return mask


def window_with_padding(s: Sizes) -> Mods:
    odd = torch.arange(s.batch, device="cpu")[:, None] % 2 == 1
    attention_mask = ~(odd & (s.positions == 0))

    def window(b, h, q_idx, kv_idx):
        return kv_idx > q_idx - 2

    def not_padding(b, h, q_idx, kv_idx):
        return attention_mask[b, kv_idx]

    return Mods(combined(window, causal, not_padding))


def chunks_with_padding(s: Sizes) -> Mods:
    left_padding = torch.arange(s.batch, device="cpu")

    def chunk(b, h, q_idx, kv_idx):
        return (kv_idx - left_padding[b]) // 2 == (q_idx - left_padding[b]) // 2

    return Mods(combined(chunk, causal))


BLOCKS = ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xx.. ..xx..", "xx.. xx.. ..xx ..xx .... ....")
EACH_THIRD = ("x..x .x.. ..x. x..x", "x..x.. .x..x. ..x..x x..x..", "x..x .x.. ..x. x..x .x.. ..x.")

USER_MASKS = [
    Case("user_causal", lambda s: Mods(causal), CAUSAL, causal=True),
    Case("user_everything", lambda s: Mods(everything), ALL),
    Case("user_nothing", lambda s: Mods(lambda b, h, q_idx, kv_idx: kv_idx < 0), NONE, causal=True),
    Case("blocks", lambda s: Mods(blocks), BLOCKS),
    Case("blocks_by_shift", lambda s: Mods(blocks_by_shift), BLOCKS),
    Case("chosen_by_bits", lambda s: Mods(chosen_by_bits), ("x..x " * 4, "x..xx. " * 4, "x..x " * 6)),
    Case("floor_of_negative", lambda s: Mods(floor_of_negative), TWO_BEFORE, causal=True),
    Case(
        "remainder_of_negative",
        lambda s: Mods(remainder_of_negative),
        (".x.. ..x. x..x .x..", ".x..x. ..x..x x..x.. .x..x.", ".x.. ..x. x..x .x.. ..x. x..x"),
    ),
    Case(
        "near",
        lambda s: Mods(near),
        ("xx.. xxx. .xxx ..xx", "xx.... xxx... .xxx.. ..xxx.", "xx.. xxx. .xxx ..xx ...x ...."),
    ),
    Case(
        "strided",
        lambda s: Mods(strided),
        ("x... .x.. x.x. .x.x", "x..... .x.... x.x... .x.x..", "x... .x.. x.x. .x.x x.x. .x.x"),
        causal=True,
    ),
    Case(
        "chosen_by_where",
        lambda s: Mods(chosen_by_where),
        ("x... x... .xx. .x.x", "x..... x..... .xx... .x.x..", "x... x... .xx. .x.x .x.. .x.."),
        causal=True,
    ),
    Case("causal_in_even_heads", lambda s: Mods(causal_in_even_heads), CAUSAL, reads_h=True),
    Case(
        "logical_functions",
        lambda s: Mods(logical_functions),
        ("x... x... x.x. x.xx", "x..... x..... x.x... x.xx..", "x... x... x.x. x.xx x.xx x.xx"),
        causal=True,
    ),
    Case(
        "clamped",
        lambda s: Mods(clamped),
        ("x... xxx. xxxx xxxx", "x..... xxx... xxxx.. xxxx..", "x... xxx. xxxx xxxx xxxx xxxx"),
    ),
    Case(
        "half",
        lambda s: Mods(half),
        ("x... x... xx.. xx..", "x..... x..... xx.... xx....", "x... x... xx.. xx.. xxx. xxx."),
        causal=True,
    ),
    Case(
        "late_rows_see_nothing",
        lambda s: Mods(late_rows_see_nothing),
        ("x... xx.. .... ....", "x..... xx.... ...... ......", "x... xx.. .... .... .... ...."),
        causal=True,
    ),
    Case("same_sequence", same_sequence, EACH_THIRD),
    Case(
        "tree",
        tree,
        ("xxx. xx.x xxx. xx.x", "xxx.x. xx.x.x xxx.x. xx.x.x", "xxx. xx.x xxx. xx.x xxx. xx.x"),
    ),
    Case("short_table", short_table, ("x.x. " * 4, "x.x... " * 4, "x.x. " * 6), torch_forward=False),
    Case("two_steps", two_steps, CAUSAL_DOCUMENT, causal=True),
    Case("buckets", buckets, EACH_THIRD),
    Case(
        "length_per_batch",
        length_per_batch,
        ("xx.. " * 4, "xx.... " * 4, "xx.. " * 6),
        at=(1, 0),
        reads_b=True,
    ),
    Case("captured_offset", captured_offset, ONE_LATER),
    Case(
        "permuted",
        permuted,
        ("xxxx .xxx ..xx ...x", "xxxxxx .xxxxx ..xxxx ...xxx", "xxxx .xxx ..xx ...x .... ...."),
    ),
    Case(
        "images",
        images,
        ("xx.. xxxx xxxx ..xx", "xx.... xxxx.. xxxxxx ..xxxx", "xx.. xxxx xxxx ..xx .... ...."),
    ),
    Case(
        "in_each_document",
        in_each_document,
        ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xx.. ..xx..", "xx.. xx.. ..xx ..xx ..xx ...."),
    ),
    Case(
        "window_with_padding",
        window_with_padding,
        (".... .x.. .xx. ..xx", "...... .x.... .xx... ..xx..", ".... .x.. .xx. ..xx ...x ...."),
        at=(1, 0),
        causal=True,
        reads_b=True,
    ),
    Case(
        "chunks_with_padding",
        chunks_with_padding,
        ("x... .x.. .xx. ...x", "x..... .x.... .xx... ...x..", "x... .x.. .xx. ...x ...x ...."),
        at=(1, 0),
        causal=True,
        reads_b=True,
    ),
]
