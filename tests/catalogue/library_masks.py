"""The library's masks."""

from __future__ import annotations

import torch

from catalogue.case import Case, Mods, Sizes
from catalogue.patterns import PATTERNS
from saccade import masks as m


def document_ids(s: Sizes) -> torch.Tensor:
    """[length] int64: 0 0 1 1 1 2 2 2 3 ..."""
    return (s.positions + 1) // 3


def odd_batches_short(s: Sizes, length: int) -> list[int]:
    """The length of each batch entry: whole for even entries, `length` for odd ones."""
    return [length if b % 2 else s.kv_len for b in range(s.batch)]


def padded_and_causal(s: Sizes) -> Mods:
    odd = torch.arange(s.batch, device="cpu")[:, None] % 2 == 1
    return Mods(m.and_masks(m.causal, m.create_padding_mask(odd & (s.positions >= 3))))


def kept_keys(s: Sizes) -> Mods:
    even = torch.arange(s.batch, device="cpu")[:, None] % 2 == 0
    return Mods(m.padding(keep=(even | (s.positions % 2 == 0)).long()))


def table(s: Sizes) -> torch.Tensor:
    q_idx, kv_idx = s.positions[: s.q_len, None], s.positions[: s.kv_len]
    return (3 * q_idx + 2 * kv_idx) % 5 < 2


def table_per_batch(s: Sizes) -> Mods:
    odd = torch.arange(s.batch, device="cpu")[:, None, None, None] % 2 == 1
    return Mods(m.dense(~odd | table(s)))


def keys_per_batch(s: Sizes) -> Mods:
    entry = torch.arange(s.batch, device="cpu")[:, None, None, None]
    return Mods(m.dense((entry + s.positions[: s.kv_len]) % 2 == 0))


def table_per_head(s: Sizes) -> Mods:
    head = torch.arange(s.heads, device="cpu")[:, None, None]
    return Mods(m.dense(table(s) ^ (head % 2 == 1)))


def additive_table(s: Sizes) -> torch.Tensor:
    """[Q, K]: the lowest number, or -inf at odd keys, where `table` hides; a penalty elsewhere."""
    hidden = ~table(s)
    lowest = s.floats(s.q_len, s.kv_len).masked_fill(hidden, torch.finfo(s.dtype).min)
    return lowest.masked_fill(hidden & (s.positions[: s.kv_len] % 2 == 1), -torch.inf)


def key_three(b, h, q_idx, kv_idx):
    return kv_idx == 3


def rows(s: Sizes) -> int:
    """The width of a canvas of two rows that holds every position."""
    return (s.length + 1) // 2


CAUSAL = ("x... xx.. xxx. xxxx", "x..... xx.... xxx... xxxx..", "x... xx.. xxx. xxxx xxxx xxxx")
ALL = ("xxxx " * 4, "xxxxxx " * 4, "xxxx " * 6)
NONE = (".... " * 4, "...... " * 4, ".... " * 6)
DOCUMENT = ("xx.. xx.. ..xx ..xx", "xx.... xx.... ..xxx. ..xxx.", "xx.. xx.. ..xx ..xx ..xx ....")
CAUSAL_DOCUMENT = ("x... xx.. ..x. ..xx", "x..... xx.... ..x... ..xx..", "x... xx.. ..x. ..xx ..xx ....")
TABLE = ("x..x .x.. x.x. .x.x", "x..x.x .x..x. x.x..x .x.x..", "x..x .x.. x.x. .x.x ..x. x..x")
ONE_LATER = ("xx.. xxx. xxxx xxxx", "xx.... xxx... xxxx.. xxxxx.", "xx.. xxx. xxxx xxxx xxxx xxxx")
TWO_BEFORE = (".... x... xx.. .xx.", "...... x..... xx.... .xx...", ".... x... xx.. .xx. ..xx ...x")

LIBRARY_MASKS = [
    Case("noop_mask", lambda s: Mods(m.noop_mask), ALL),
    Case("causal", lambda s: Mods(m.causal), CAUSAL, causal=True),
    Case(
        "local",
        lambda s: Mods(m.local(left=1, right=2)),
        ("xxx. xxxx .xxx ..xx", "xxx... xxxx.. .xxxx. ..xxxx", "xxx. xxxx .xxx ..xx ...x ...."),
    ),
    Case(
        "sliding_window",
        lambda s: Mods(m.sliding_window(2)),
        ("x... xx.. .xx. ..xx", "x..... xx.... .xx... ..xx..", "x... xx.. .xx. ..xx ...x ...."),
        causal=True,
    ),
    Case("sliding_window_wide", lambda s: Mods(m.sliding_window(s.length)), CAUSAL, causal=True),
    Case(
        "prefix_lm",
        lambda s: Mods(m.prefix_lm(2)),
        ("xx.. xx.. xxx. xxxx", "xx.... xx.... xxx... xxxx..", "xx.. xx.. xxx. xxxx xxxx xxxx"),
    ),
    Case(
        "prefix_lm_per_batch",
        lambda s: Mods(m.prefix_lm(1 + 2 * torch.arange(s.batch, device="cpu"))),
        ("xxx. xxx. xxx. xxxx", "xxx... xxx... xxx... xxxx..", "xxx. xxx. xxx. xxxx xxxx xxxx"),
        at=(1, 0),
        reads_b=True,
    ),
    Case("document_ids", lambda s: Mods(m.document(document_ids(s))), DOCUMENT),
    Case("document_lengths", lambda s: Mods(m.document(lengths=[2] + [3] * s.length)), DOCUMENT),
    Case(
        "document_cu_seqlens",
        lambda s: Mods(m.document(cu_seqlens=[0, 2, *range(5, 3 * s.length, 3)])),
        DOCUMENT,
    ),
    Case(
        "document_causal",
        lambda s: Mods(m.causal & m.document(document_ids(s))),
        CAUSAL_DOCUMENT,
        causal=True,
    ),
    Case(
        "document_per_batch",
        lambda s: Mods(m.document((s.positions + 1 + torch.arange(s.batch, device="cpu")[:, None]) // 3)),
        ("x... .xxx .xxx .xxx", "x..... .xxx.. .xxx.. .xxx..", "x... .xxx .xxx .xxx .... ...."),
        at=(1, 0),
        reads_b=True,
    ),
    Case(
        "document_cross",
        lambda s: Mods(m.document(s.positions[: s.q_len] // 2, kv_ids=s.positions[: s.kv_len] % 3)),
        ("x..x x..x .x.. .x..", "x..x.. x..x.. .x..x. .x..x.", "x..x x..x .x.. .x.. ..x. ..x."),
    ),
    Case(
        "padding_right",
        lambda s: Mods(m.padding(lengths=odd_batches_short(s, 3))),
        ("xxx. " * 4, "xxx... " * 4, "xxx. " * 6),
        at=(1, 0),
        reads_b=True,
    ),
    Case(
        "padding_left_causal",
        lambda s: Mods(
            m.causal & m.padding(lengths=odd_batches_short(s, 3), side="left", kv_len=s.kv_len, queries=True)
        ),
        (".... .x.. .xx. .xxx", "...... ...... ...... ...x..", ".... .x.. .xx. .xxx .xxx .xxx"),
        at=(1, 0),
        causal=True,
        reads_b=True,
    ),
    Case(
        "padding_causal",
        padded_and_causal,
        ("x... xx.. xxx. ....", "x..... xx.... xxx... ......", "x... xx.. xxx. .... .... ...."),
        at=(1, 0),
        causal=True,
        reads_b=True,
    ),
    Case("padding_keep", kept_keys, ("x.x. " * 4, "x.x.x. " * 4, "x.x. " * 6), at=(1, 0), reads_b=True),
    Case(
        "natten",
        lambda s: Mods(m.natten(s.length, 3)),
        ("xxx. xxx. .xxx .xxx", "xxx... xxx... .xxx.. ..xxx.", "xxx. xxx. .xxx ..xx ...x ...x"),
    ),
    Case(
        "natten_2d",
        lambda s: Mods(m.natten((2, rows(s)), (1, 2))),
        ("xx.. xx.. ..xx ..xx", "xx.... xx.... .xx... ...xx.", "xx.. xx.. .xx. ...x ...x ...."),
    ),
    Case(
        "natten_3d",
        lambda s: Mods(m.natten((1, 2, rows(s)), (1, 2, 2))),
        ("xxxx " * 4, "xx.xx. xx.xx. .xx.xx xx.xx.", "xx.x xx.x .xx. xx.x xx.x .xx."),
    ),
    Case(
        "natten_dilated",
        lambda s: Mods(m.natten(s.length, 2, dilation=2)),
        ("x.x. .x.x x.x. .x.x", "x.x... .x.x.. x.x... .x.x..", "x.x. .x.x x.x. .x.x ..x. ...x"),
    ),
    Case("dense", lambda s: Mods(m.dense(table(s))), TABLE),
    Case("dense_additive", lambda s: Mods(m.dense(additive_table(s))), TABLE),
    Case("dense_per_batch", table_per_batch, TABLE, at=(1, 0), reads_b=True),
    Case("dense_per_head", table_per_head, TABLE, reads_h=True),
    Case(
        "dense_keys_per_batch",
        keys_per_batch,
        (".x.x " * 4, ".x.x.x " * 4, ".x.x " * 6),
        at=(1, 0),
        reads_b=True,
    ),
    Case(
        "shift_lower_right",
        lambda s: Mods(m.shift(m.causal, q=s.kv_len - s.q_len)),
        (CAUSAL[0], "xxx... xxxx.. xxxxx. xxxxxx", ".... .... x... xx.. xxx. xxxx"),
    ),
    Case("shift_tensor", lambda s: Mods(m.shift(m.causal, q=s.integers(1)[0])), ONE_LATER),
    Case(
        "shift_per_batch",
        lambda s: Mods(m.shift(m.causal, q=torch.arange(s.batch, device="cpu"))),
        ONE_LATER,
        at=(1, 0),
        reads_b=True,
    ),
    Case("shift_keys", lambda s: Mods(m.shift(m.sliding_window(2), kv=1)), TWO_BEFORE, causal=True),
    Case(
        "not_causal",
        lambda s: Mods(~m.causal),
        (".xxx ..xx ...x ....", ".xxxxx ..xxxx ...xxx ....xx", ".xxx ..xx ...x .... .... ...."),
    ),
    Case(
        "xor",
        lambda s: Mods(m.causal ^ m.local(1, 1)),
        (".x.. ..x. x..x xx..", ".x.... ..x... x..x.. xx..x.", ".x.. ..x. x..x xx.. xxx. xxxx"),
    ),
    Case(
        "or_function",
        lambda s: Mods(m.causal | key_three),
        ("x..x xx.x xxxx xxxx", "x..x.. xx.x.. xxxx.. xxxx..", "x..x xx.x xxxx xxxx xxxx xxxx"),
    ),
    Case(
        "function_and",
        lambda s: Mods(key_three & m.causal),
        (".... .... .... ...x", "...... ...... ...... ...x..", ".... .... .... ...x ...x ...x"),
        causal=True,
    ),
    Case("nothing", lambda s: Mods(m.or_masks()), NONE, causal=True),
    *PATTERNS,
]
