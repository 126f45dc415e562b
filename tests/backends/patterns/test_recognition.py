"""Patterns are recognised however a mask is written, and what is recognised hides exactly what it hides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

import oracle
from backends.patterns.recognised import band_written_out, in_documents, pattern_of, problem, written_out
from saccade.backends.patterns import Aligned, Pattern, aligned, contents_of, exact_pattern
from saccade.backends.patterns.contents import can_look
from saccade.masks import causal, document, jagged, local, noop_mask, shift, sliding_window
from saccade.problem import BlockFacts, Contents
from saccade.signatures import MaskMod
from saccade.tracing import trace

IDS = torch.tensor([4, 4, 4, -1, -1, 9, 2, 2])
ROWS = torch.stack([IDS, IDS.flip(0)]).to(torch.int32)
GRID = torch.stack([ROWS, torch.zeros_like(ROWS)])
LENGTH = len(IDS)
WINDOW = 3

MASKS: dict[str, tuple[MaskMod, Pattern]] = {
    "nothing": (noop_mask, Pattern()),
    "causal": (causal, Pattern(right=0)),
    "causal, keys first": (lambda b, h, q, kv: kv <= q, Pattern(right=0)),
    "causal, as a difference": (lambda b, h, q, kv: q - kv >= 0, Pattern(right=0)),
    "causal, strict": (lambda b, h, q, kv: kv < q + 1, Pattern(right=0)),
    "causal, negated": (lambda b, h, q, kv: ~(kv > q), Pattern(right=0)),
    "causal, doubled": (lambda b, h, q, kv: 2 * kv <= 2 * q + 1, Pattern(right=0)),
    "causal, chosen": (lambda b, h, q, kv: torch.where(kv > q, False, True), Pattern(right=0)),
    "causal, shifted": (shift(causal, q=2), Pattern(right=2)),
    "causal, beside what always holds": (lambda b, h, q, kv: (kv <= q) & (kv < 100), Pattern(right=0)),
    "anticausal": (lambda b, h, q, kv: q <= kv, Pattern(left=0)),
    "diagonal": (lambda b, h, q, kv: q == kv, Pattern(0, 0)),
    "window": (sliding_window(WINDOW), Pattern(2, 0)),
    "window, &": (lambda b, h, q, kv: (q - kv < WINDOW) & (q >= kv), Pattern(2, 0)),
    "window, & the other way": (lambda b, h, q, kv: (kv <= q) & (kv > q - WINDOW), Pattern(2, 0)),
    "window, negated": (lambda b, h, q, kv: ~((kv > q) | (kv + WINDOW <= q)), Pattern(2, 0)),
    "window, absolute": (lambda b, h, q, kv: (q - kv).abs() <= WINDOW, Pattern(3, 3)),
    "window, twice": (sliding_window(WINDOW) & sliding_window(5), Pattern(2, 0)),
    "window, as wide as all": (sliding_window(LENGTH), Pattern(right=0)),
    "local": (local(2, 1), Pattern(2, 1)),
    "documents": (document(IDS), Pattern(documents=in_documents())),
    "documents, keys first": (lambda b, h, q, kv: IDS[kv] == IDS[q], Pattern(documents=in_documents())),
    "documents by batch": (document(ROWS), Pattern(documents=in_documents())),
    "documents and causal": (document(IDS) & causal, Pattern(None, 0, in_documents())),
    "causal and documents": (causal & document(IDS), Pattern(None, 0, in_documents())),
    "documents and a window": (sliding_window(WINDOW) & document(IDS), Pattern(2, 0, in_documents())),
    "documents, chosen": (
        lambda b, h, q, kv: torch.where(q >= kv, IDS[q] == IDS[kv], False),
        Pattern(None, 0, in_documents()),
    ),
    "jagged": (jagged(noop_mask, offsets=[0, 3, 3, 8]), Pattern(documents=in_documents())),
    "jagged causal": (jagged(causal, offsets=[0, 3, 8]), Pattern(None, 0, in_documents())),
    "jagged window": (jagged(local(1, 1), offsets=[0, 3, 8]), Pattern(1, 1, in_documents())),
}

OTHERS: dict[str, MaskMod] = {
    "a prefix": lambda b, h, q, kv: (kv <= q) | (kv < 3),
    "keys cut off": lambda b, h, q, kv: (kv <= q) & (kv < 5),
    "strided": lambda b, h, q, kv: (q - kv) % 2 == 0,
    "another slope": lambda b, h, q, kv: 2 * kv <= q,
    "by head": lambda b, h, q, kv: kv <= q + h,
    "by batch": lambda b, h, q, kv: kv <= q + b,
    "not the diagonal": lambda b, h, q, kv: q != kv,
    "outside of a window": lambda b, h, q, kv: (q - kv).abs() >= WINDOW,
    "in floats": lambda b, h, q, kv: (q - kv).float() < 2.5,
    "a captured limit": shift(causal, q=torch.tensor(1)),
    "documents in pieces": document(torch.tensor([0, 0, 1, 1, 0, 0, 2, 2])),
    "documents in pieces of one row": document(torch.stack([IDS, torch.tensor([0, 0, 1, 1, 0, 0, 2, 2])])),
    "documents of other keys": document(IDS, kv_ids=IDS + 1),
    "documents by head": lambda b, h, q, kv: ROWS[h, q] == ROWS[h, kv],
    "documents by batch and head": lambda b, h, q, kv: GRID[b, h, q] == GRID[b, h, kv],
    "documents by head and batch": lambda b, h, q, kv: GRID[h, b, q] == GRID[h, b, kv],
    "documents of two batches": lambda b, h, q, kv: ROWS[b, q] == ROWS[h, kv],
    "other documents": lambda b, h, q, kv: IDS[q] != IDS[kv],
    "documents of neighbours": lambda b, h, q, kv: IDS[q] == IDS[kv - 1],
    "nothing to see": lambda b, h, q, kv: (kv < q) & (q < kv),
}


@pytest.mark.parametrize(("mask_mod", "pattern"), MASKS.values(), ids=MASKS.keys())
def test_recognised(mask_mod: MaskMod, pattern: Pattern) -> None:
    assert pattern_of(mask_mod, LENGTH, LENGTH) == pattern
    dense = oracle.visible_pairs(mask_mod, 2, 1, LENGTH, LENGTH)[:, 0]
    assert torch.equal(written_out(pattern, mask_mod, 2, LENGTH, LENGTH), dense)


@pytest.mark.parametrize("mask_mod", OTHERS.values(), ids=OTHERS.keys())
def test_anything_else_is_not(mask_mod: MaskMod) -> None:
    assert pattern_of(mask_mod, LENGTH, LENGTH) is None


def test_ids_too_few_are_not_documents() -> None:
    assert pattern_of(document(IDS), LENGTH + 1, LENGTH + 1) is None
    assert pattern_of(document(IDS), LENGTH, LENGTH - 1) is None
    assert pattern_of(document(IDS), LENGTH - 2, LENGTH - 2) is not None


def test_ids_beyond_32_bits_may_wrap_and_are_not_cancelled() -> None:
    far = torch.full((LENGTH,), 2**62)

    def moved(b, h, q_idx, kv_idx):
        return kv_idx + far[q_idx] <= q_idx + far[q_idx]

    assert pattern_of(moved, LENGTH, LENGTH) is None


def test_what_nobody_looked_at_is_not_documents() -> None:
    looked = problem(document(IDS), LENGTH, LENGTH)
    unknown = replace(looked.mask_mod, contents=())
    assert exact_pattern(replace(looked, mask_mod=unknown)) is None


def test_nothing_is_read_while_kernels_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_look()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    assert not can_look()


def test_stand_ins_of_tensors_are_not_read() -> None:
    program = trace(document(IDS))
    (unknown,) = contents_of(replace(program, captures=(IDS.to("meta"),)))
    assert unknown == Contents(in_runs=False, fits_int32=False)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_limits_are_compared_in_a_type_that_holds_them(dtype: torch.dtype) -> None:
    (narrow,) = contents_of(trace(document(torch.tensor([0, 0, 127, 127], dtype=dtype))))
    assert narrow == Contents(in_runs=True, fits_int32=True)


def test_both_masks_count() -> None:
    window = problem(sliding_window(WINDOW), LENGTH, LENGTH).mask_mod
    packed = problem(document(IDS), LENGTH, LENGTH)
    blocks = BlockFacts(window, 1, 1, 128, 128, analysed=True)
    found = exact_pattern(replace(packed, block_mask=blocks))
    assert (found.left, found.right, len(found.documents)) == (2, 0, 1)
    given_blocks = replace(blocks, analysed=False)
    assert exact_pattern(replace(packed, block_mask=given_blocks)) is None


@st.composite
def comparisons(draw: st.DrawFn) -> MaskMod:
    """A comparison of two sums of positions, mostly along the diagonal, perhaps of an absolute value."""
    q, kv = draw(st.sampled_from([(1, -1), (-1, 1), (2, -2)] * 4 + [(1, 0), (0, -1), (1, 1)]))
    moved = draw(st.integers(-1, 1))
    constant = draw(st.integers(-4, 4))
    absolute = draw(st.integers(0, 4)) == 0
    compare = draw(st.sampled_from(["le", "lt", "ge", "gt"] * 3 + ["eq", "ne"]))

    def mask_mod(b, h, q_idx, kv_idx):
        first = (q + moved) * q_idx + kv * kv_idx
        second = moved * q_idx + constant
        if absolute:
            first = (first - moved * q_idx).abs() + moved * q_idx
        return getattr(torch, compare)(first, second)

    return mask_mod


@st.composite
def same_documents(draw: st.DrawFn) -> MaskMod:
    """Ids in runs, or any; for all, or by batch, by head, or by both."""
    leading = draw(st.sampled_from(["", "b", "h", "bh", "hb"]))
    size = 7 * 2 ** len(leading)
    ids = torch.tensor(draw(st.lists(st.integers(-1, 2), min_size=size, max_size=size)))
    ids = ids.view(*[2] * len(leading), 7)
    if draw(st.booleans()):
        ids = ids.sort(descending=draw(st.booleans())).values
    if leading in ("", "b") and draw(st.booleans()):
        return document(ids)

    def mask_mod(b, h, q_idx, kv_idx):
        row = tuple({"b": b, "h": h}[one] for one in leading)
        return ids[(*row, q_idx)] == ids[(*row, kv_idx)]

    return mask_mod


def masks() -> st.SearchStrategy[MaskMod]:
    """Comparisons and documents, joined."""

    def joined(inner: st.SearchStrategy[MaskMod]) -> st.SearchStrategy[MaskMod]:
        both = st.tuples(inner, inner)
        return st.one_of(
            both.map(lambda two: lambda b, h, q, kv: two[0](b, h, q, kv) & two[1](b, h, q, kv)),
            both.map(lambda two: lambda b, h, q, kv: ~(two[0](b, h, q, kv) | ~two[1](b, h, q, kv))),
            both.map(
                lambda two: lambda b, h, q, kv: torch.where(two[0](b, h, q, kv), two[1](b, h, q, kv), False)
            ),
            both.map(lambda two: lambda b, h, q, kv: two[0](b, h, q, kv) | two[1](b, h, q, kv)),
        )

    return st.recursive(st.one_of(comparisons(), comparisons(), same_documents()), joined, max_leaves=3)


@settings(max_examples=250, deadline=None)
@given(masks(), st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_a_recognised_pattern_is_the_mask(mask_mod: MaskMod, q_len: int, kv_len: int, square: bool) -> None:
    kv_len = q_len if square else kv_len
    pattern = pattern_of(mask_mod, q_len, kv_len)
    event("another" if pattern is None else "recognised")
    if pattern is None:
        return
    dense = oracle.visible_pairs(mask_mod, 2, 2, q_len, kv_len)
    shown = written_out(pattern, mask_mod, 2, q_len, kv_len)[:, None]
    assert torch.equal(shown.expand_as(dense), dense)
    assert pattern.hides_nothing == bool(dense.all()) or pattern.documents
    if not pattern.documents:
        assert pattern.leaves_rows_empty(q_len, kv_len) == bool((~dense.any(dim=-1)).any())
    band = aligned(pattern, q_len, kv_len)
    event("not aligned" if band is None else "aligned")
    if band is not None and not pattern.documents:
        assert torch.equal(band_written_out(band, q_len, kv_len), dense[0, 0])


def test_where_a_band_cannot_be_counted() -> None:
    assert aligned(Pattern(left=-1), 4, 4) is None
    assert aligned(Pattern(right=-4), 4, 4) is None
    assert aligned(Pattern(right=-1), 4, 4) == Aligned(0, 3, None, 0)
    assert aligned(Pattern(left=-2), 6, 8) == Aligned(2, 8, 0, None)
    assert aligned(Pattern(left=None, right=-1, documents=in_documents()), 4, 4) is None
    assert aligned(Pattern(left=-1, right=None, documents=in_documents()), 4, 4) is None
