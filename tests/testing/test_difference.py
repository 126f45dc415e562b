"""Two masks compared: every form against every other, wrong ones found at the exact pair."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from catalogue import MASK_CASES, Case, Sizes
from saccade import errors
from saccade.block_mask import BlockMask, create_block_mask
from saccade.masks import causal, dense, document, padding, shift, sliding_window
from saccade.scores import softcap
from saccade.testing import MaskDifference, assert_same_mask, compare_masks, difference
from saccade.testing.sides import BlockSide
from saccade.tracing import trace

Q, K = 37, 53
TRIANGLE = torch.ones(Q, K, dtype=torch.bool).tril()


def strict(b, h, q_idx, kv_idx):
    return q_idx > kv_idx


def by_head(b, h, q_idx, kv_idx):
    return (q_idx + h) % 2 == kv_idx % 2


def by_batch(b, h, q_idx, kv_idx):
    return kv_idx < 10 * (b + 1)


def block_mask(mod, batch=None, heads=None, q_len=Q, kv_len=K, size=8) -> BlockMask:
    return create_block_mask(mod, batch, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=size)


def additive(visible: torch.Tensor, dtype: torch.dtype, hidden: float) -> torch.Tensor:
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, hidden)


FORMS = {
    "mod": causal,
    "function": lambda b, h, q_idx, kv_idx: kv_idx <= q_idx,
    "program": trace(causal),
    "blocks of 8": block_mask(causal),
    "blocks of 5×16": block_mask(causal, size=(5, 16)),
    "torch": torch_flex.create_block_mask(causal, None, None, Q, K, device="cpu"),
    "bool": TRIANGLE,
    "bool, 4 axes": TRIANGLE[None, None],
    "float32 -inf": additive(TRIANGLE, torch.float32, -torch.inf),
    "bfloat16 min": additive(TRIANGLE, torch.bfloat16, torch.finfo(torch.bfloat16).min)[None, None],
    "float16 half of min": additive(TRIANGLE, torch.float16, torch.finfo(torch.float16).min / 2),
}


@pytest.mark.parametrize("b", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("a", FORMS.values(), ids=FORMS)
def test_every_form_of_a_mask_is_the_same_mask(a, b) -> None:
    assert_same_mask(a, b, Q, K)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("turned", [False, True])
def test_one_wrong_pair_is_found_in_every_form(form, turned: bool) -> None:
    wrong = TRIANGLE.clone()
    wrong[29, 17] = False
    found = compare_masks(wrong, form, Q, K) if turned else compare_masks(form, wrong, Q, K)
    assert (found.first, found.count, found.is_equal) == ((0, 0, 29, 17), 1, False)
    assert found.first_seen_by == ("b" if turned else "a")
    assert (found.only_a, found.only_b) == ((0, 1) if turned else (1, 0))


@pytest.mark.parametrize("size", [8, (5, 16)], ids=str)
@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_counts_and_first_pair_are_those_of_dense_masks(case: Case, size) -> None:
    """Against a mask that is wrong everywhere in places; by runs, and by strips where block sizes differ."""
    sizes = Sizes(q_len=19, kv_len=23, batch=2, heads=2)
    mask = case.build(sizes).mask
    other = sliding_window(5)
    a = create_block_mask(mask, 2, 2, 19, 23, device="cpu", BLOCK_SIZE=size)
    b = create_block_mask(other, 2, 2, 19, 23, device="cpu", BLOCK_SIZE=8)
    one, two = a.to_bool(), b.to_bool()
    differs = (one != two).nonzero().tolist()
    found = compare_masks(a, b)
    assert found.shape == (2, 2, 19, 23)
    assert found.first == (tuple(differs[0]) if differs else None)
    assert found.count == len(differs)
    assert found.only_a == int((one & ~two).sum())
    assert found.only_b == int((two & ~one).sum())
    assert_same_mask(a, mask)


class TestBatchesAndHeads:
    def test_the_batch_and_head_of_the_first_pair(self) -> None:
        table = block_mask(by_head, heads=3).to_bool().expand(2, -1, -1, -1).clone()
        table[1, 2, 5, 0] = ~table[1, 2, 5, 0]
        found = compare_masks(by_head, table)
        assert found.first == (1, 2, 5, 0)
        assert found.shape == (2, 3, Q, K)

    def test_what_serves_all_is_counted_for_all(self) -> None:
        found = compare_masks(causal, strict, 4, 4, batch=3, heads=2)
        assert (found.count, found.pairs) == (4 * 6, 16 * 6)

    def test_masks_that_differ_by_batch_on_one_side(self) -> None:
        found = compare_masks(block_mask(by_batch, batch=2), block_mask(lambda b, h, q, kv: kv < 10))
        assert (found.first, found.only_a) == ((1, 0, 0, 10), 10 * Q)

    def test_padding_of_keys_as_sdpa_takes_it(self) -> None:
        lengths = torch.tensor([K, 20])
        keys = (torch.arange(K) < lengths[:, None])[:, None, None, :]
        assert_same_mask(padding(lengths=lengths), keys, Q, K, batch=2)
        assert compare_masks(padding(lengths=lengths), keys[:1], Q, K, batch=2).first == (1, 0, 0, 20)

    def test_no_pairs_are_all_equal(self) -> None:
        assert compare_masks(causal, strict, 0, 5).is_equal
        assert compare_masks(causal, torch.ones(5, 0, dtype=torch.bool)).pairs == 0


def test_given_blocks_count_not_their_mod() -> None:
    counts, columns = torch.tensor([[[0, 1]]]), torch.tensor([[[[0, 1], [1, 0]]]])
    given = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=4, mask_mod=causal)
    found = compare_masks(given, causal)
    assert (found.first, found.only_b) == ((0, 0, 0, 0), 10 + 16)
    shown = torch.zeros(8, 8, dtype=torch.bool)
    shown[4:, 4:] = torch.ones(4, 4).tril().bool()
    assert_same_mask(given, shown)


def test_an_ordinary_penalty_shows_its_pair() -> None:
    table = torch.full((4, 4), -1e30)
    assert compare_masks(table, torch.ones(4, 4, dtype=torch.bool)).is_equal
    assert compare_masks(table.half(), torch.zeros(4, 4, dtype=torch.bool)).is_equal  # -inf there


def test_settled_blocks_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    within = BlockSide.within

    def counting(side, kind, b, h, q, kv):
        looked_at.append(len(q) * len(kv))
        return within(side, kind, b, h, q, kv)

    monkeypatch.setattr(BlockSide, "within", counting)
    n = 1 << 16
    assert_same_mask(causal, lambda b, h, q_idx, kv_idx: kv_idx <= q_idx, n, n)
    assert not looked_at, "the same blocks and the same rule"
    assert_same_mask(shift(causal, q=3), lambda b, h, q_idx, kv_idx: q_idx - kv_idx > -4, n, n)
    assert sum(looked_at) <= 2 * 2 * (n // 128) * 128 * 128, "the blocks on the diagonal"


def test_a_full_block_over_an_empty_one_is_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    within = BlockSide.within

    def counting(side, kind, b, h, q, kv):
        looked_at.append(len(q) * len(kv))
        return within(side, kind, b, h, q, kv)

    monkeypatch.setattr(BlockSide, "within", counting)
    n = 1 << 15
    found = compare_masks(causal, ~causal, n, n)
    assert (found.count, found.only_a, found.first) == (n * n, n * (n + 1) // 2, (0, 0, 0, 0))
    assert sum(looked_at) == 2 * n * 128, "the blocks on the diagonal, of either mask"


def test_memory_does_not_grow_with_the_pairs() -> None:
    n = 1 << 13
    tracemalloc.start()
    found = compare_masks(causal, block_mask(~causal, q_len=n, kv_len=n, size=96))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count == n * n
    assert peak < n * n / 2


def test_a_tensor_is_compared_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "_STRIP_PAIRS", 100)
    wrong = TRIANGLE.clone()
    wrong[36, 52] = True
    wrong[30, 0] = False
    found = compare_masks(causal, wrong)
    assert (found.first, found.only_a, found.only_b) == ((0, 0, 30, 0), 1, 1)


class TestText:
    def test_the_message_tells_where_and_draws_it(self) -> None:
        message = "the masks differ in 33 of 1,961 pairs, first at b=0, h=0, q_idx=4, kv_idx=0, which a shows"
        with pytest.raises(AssertionError, match=message) as caught:
            assert_same_mask(sliding_window(5), sliding_window(4), Q, K)
        assert isinstance(caught.value, errors.MaskMismatchError)
        assert "  q 4 > a████" in str(caught.value)

    def test_the_picture_is_exact(self) -> None:
        found = compare_masks(causal, sliding_window(3), 6, 6)
        summary, *lines = str(found).splitlines()
        assert summary == (
            "the masks differ in 6 of 36 pairs, first at b=0, h=0, q_idx=3, kv_idx=0, "
            "which a shows and b hides"
        )
        assert lines == [
            "  a: causal, alone in showing 6",
            "  b: sliding_window(3), alone in showing 0",
            "        v",
            "  q 0   █·····",
            "  q 1   ██····",
            "  q 2   ███···",
            "  q 3 > a███··",
            "  q 4   aa███·",
            "  q 5   aaa███",
            "  keys 0 to 5; █ both show, a or b alone shows, · both hide",
        ]

    def test_the_picture_is_a_part_of_a_large_mask(self) -> None:
        found = compare_masks(document(lengths=[9000, 1000]), document(lengths=[9001, 999]), 10_000, 10_000)
        assert found.first == (0, 0, 0, 9000)
        assert found.first_seen_by == "b"
        lines = found.picture.splitlines()
        assert len(lines) == 1 + 5 + 1
        assert lines[0].index("v") == lines[1].index("b")
        assert lines[-1].startswith("  keys 8984 to 9016;")

    def test_equal_masks_say_so(self) -> None:
        assert str(compare_masks(causal, TRIANGLE)) == "the masks are equal in all 1,961 pairs"

    def test_sides_are_named_by_what_they_are(self) -> None:
        theirs = torch_flex.create_block_mask(causal, None, None, Q, K, device="cpu")
        found = compare_masks(theirs, additive(~TRIANGLE, torch.float16, -torch.inf))
        assert found.labels[0].startswith("torch's BlockMask(")
        assert found.labels[1] == "float16 tensor [37, 53]"
        assert compare_masks(strict, trace(causal), 3, 3).labels == ("strict", "a program")

    def test_a_difference_is_a_value(self) -> None:
        assert compare_masks(causal, strict, 3, 3) == compare_masks(causal, strict, 3, 3)
        assert compare_masks(causal, strict, 3, 3) != MaskDifference(("causal", "strict"), (1, 1, 3, 3))


class TestRefusals:
    @pytest.mark.parametrize(
        ("a", "b", "options", "error", "message"),
        [
            (causal, strict, {}, errors.ArgumentError, "expected q_len, for neither causal nor strict"),
            (causal, strict, {"q_len": 3}, errors.ArgumentError, "pass kv_len="),
            (causal, strict, {"q_len": -1, "kv_len": 3}, errors.ArgumentError, "q_len must be at least 0"),
            (causal, strict, {"q_len": 2.0}, errors.ArgumentTypeError, "q_len must be an integer, got float"),
            (TRIANGLE, TRIANGLE[:30], {}, errors.ShapeError, "b has q_len=30 and is compared at q_len=37"),
            (block_mask(causal), TRIANGLE, {"kv_len": 50}, errors.ShapeError, "a has kv_len=53"),
            (block_mask(causal), block_mask(causal, kv_len=9), {}, errors.ShapeError, "b has kv_len=9"),
            (torch.ones(2, 3, 4), causal, {}, errors.ShapeError, r"a must be a tensor \[Q, K\] or"),
            (causal, torch.ones(3, 3).long(), {}, errors.DTypeError, "b must be a bool tensor .*keep=b"),
            (by_head, causal, {"q_len": 3, "kv_len": 3}, errors.MaskAxisError, "a reads 'h'.*pass heads="),
            (causal, by_batch, {"q_len": 3, "kv_len": 3}, errors.MaskAxisError, "b reads 'b'.*pass batch="),
            (block_mask(by_head, heads=1), causal, {"heads": 2}, errors.ShapeError, "a has heads=1"),
            (
                softcap(2.0),
                causal,
                {"q_len": 3, "kv_len": 3},
                errors.ModError,
                r"the comparison of masks \(a\)",
            ),
            (causal, sliding_window, {"q_len": 3, "kv_len": 3}, errors.ModError, "call it first"),
            (causal, np.ones((3, 3)), {}, errors.ModError, "got the ndarray"),
        ],
    )
    def test_what_cannot_be_compared(self, a, b, options, error, message) -> None:
        with pytest.raises(error, match=message):
            compare_masks(a, b, **options)

    def test_a_stale_mask(self) -> None:
        table = TRIANGLE.clone()
        mask = block_mask(dense(table))
        table[0, 0] = False
        with pytest.raises(errors.StaleMaskError, match="has changed since"):
            assert_same_mask(mask, causal)

    def test_a_read_out_of_range_names_tensor_and_index(self) -> None:
        with pytest.raises(errors.IndexOutOfRangeError, match=re.escape("table")):
            compare_masks(dense(TRIANGLE), causal, 40, K)
