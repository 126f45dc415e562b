"""saccade.jagged: padded, packed and nested forms give back what went in; masks are those of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
import saccade
from saccade import causal, create_block_mask, create_mask, flex_attention, jagged, noop_mask, prefix_lm
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    ModError,
    ShapeError,
    UnsupportedError,
)
from saccade.jagged import (
    Packed,
    block_mask_of,
    create_nested_block_mask,
    from_nested,
    pack,
    score_mod_of,
    to_nested,
    unpack,
)

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")

LENGTHS = [2, 0, 3, 1]
OFFSETS = torch.tensor([0, 2, 2, 5, 6])
KEPT = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)


def packed(*shape: int) -> Packed:
    return Packed(torch.randn(6, *shape), OFFSETS)


class TestPadding:
    @given(
        st.lists(st.integers(0, 5), max_size=5),
        st.integers(0, 2),
        st.lists(st.integers(1, 3), max_size=2),
        st.sampled_from(["right", "left"]),
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    )
    def test_there_and_back(
        self, lengths: list[int], more: int, trailing: list[int], side: Any, dtype: torch.dtype
    ) -> None:
        length = max(lengths, default=0) + more
        padded = torch.randint(1, 9, (len(lengths), length, *trailing)).to(dtype)
        for row, held in zip(padded, lengths, strict=True):
            row[held:] = 0  # on the right
        padded = padded.flip(1) if side == "left" else padded
        made = pack(padded, lengths, padding_side=side)
        rows = [
            row[-held:] if side == "left" else row[:held]
            for row, held in zip(padded, lengths, strict=True)
            if held
        ]
        assert torch.equal(made.values, torch.cat([padded.new_zeros(0, *trailing), *rows]))
        assert made.lengths.tolist() == lengths
        assert made.max_seqlen == max(lengths, default=0)
        back = unpack(made, length, padding_side=side)
        assert back.dtype is dtype
        assert torch.equal(back, padded)

    @given(st.integers(0, 4), st.integers(0, 6), st.data())
    def test_tokens_may_lie_anywhere(self, batch: int, length: int, data: st.DataObject) -> None:
        bits = data.draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length))
        keep = torch.tensor(bits, dtype=torch.bool).view(batch, length)
        padded = torch.randn(batch, length, 2) * keep[..., None]
        made = pack(padded, keep=keep)
        assert torch.equal(made.values, padded[keep])
        assert made.lengths.tolist() == keep.sum(1).tolist()
        assert torch.equal(unpack(made, keep=keep), padded)

    def test_of_what_is_not_contiguous(self) -> None:
        padded = torch.randn(3, 2, 4).permute(2, 0, 1)  # [4, 3, 2]
        assert torch.equal(pack(padded, LENGTHS).values, padded[KEPT])

    def test_gradients_pass_and_padding_has_none(self) -> None:
        padded = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda one: pack(one, LENGTHS).values, padded)
        assert torch.autograd.gradcheck(
            lambda one: unpack(pack(one, LENGTHS), 5, padding_side="left"), padded
        )
        (found,) = torch.autograd.grad(pack(padded, LENGTHS).values.sum(), padded)
        assert torch.equal(found, KEPT[..., None].expand(4, 3, 2).double())

    def test_fill_is_what_padding_holds(self) -> None:
        made = Packed(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 3]))
        assert unpack(made, 3, fill=-1).tolist() == [[7, -1, -1], [8, 9, -1]]
        marks = made.with_values(torch.tensor([0.5, 1.5, 2.5], dtype=torch.bfloat16))
        assert unpack(marks, 2, fill=-math.inf).tolist() == [[0.5, -math.inf], [1.5, 2.5]]
        assert unpack(marks, 2, fill=math.nan)[0, 1].isnan()
        assert unpack(made.with_values(torch.zeros(3, dtype=torch.bool)), fill=True).tolist()[0] == [
            False,
            True,
        ]


class TestPacked:
    def test_takes_the_offsets_as_they_are_if_they_can_be(self) -> None:
        assert packed().cu_seqlens is OFFSETS
        made = Packed(torch.randn(6), OFFSETS.int())
        assert made.cu_seqlens.dtype is torch.int64
        assert made.cu_seqlens.tolist() == OFFSETS.tolist()

    def test_other_values_of_the_same_sequences(self) -> None:
        made = packed(3)
        other = made.with_values(torch.randn(6, 5))
        assert other.cu_seqlens is made.cu_seqlens
        assert other.values.shape == (6, 5)
        with pytest.raises(ArgumentError, match="must end with the values, at 7, got 6"):
            made.with_values(torch.randn(7))

    def test_the_longest_is_asked_of_cu_seqlens_as_they_are(self) -> None:
        made = Packed(torch.randn(7), torch.tensor([0, 3, 7]))
        assert made.max_seqlen == 4
        made.cu_seqlens[1] = 6
        assert made.max_seqlen == 6
        assert unpack(made).shape == (2, 6)

    def test_prints_shortly(self) -> None:
        assert repr(packed(3)) == "Packed(values=float32[6, 3], cu_seqlens=[0, 2, 2, 5, 6], max_seqlen=3)"
        long = Packed(torch.zeros(20), torch.arange(21))
        assert "cu_seqlens=[0, 1, 2, 3, 4, 5, 6, 7, ...], max_seqlen=1" in repr(long)


class TestNested:
    def test_there_and_back_without_a_copy(self) -> None:
        made = packed(2, 3)
        nested: Any = to_nested(made)
        assert [one.tolist() for one in nested.unbind()] == [
            one.tolist() for one in made.values.split(LENGTHS)
        ]
        assert (nested._maybe_min_seqlen, nested._maybe_max_seqlen) == (0, 3)
        back = from_nested(nested)
        assert back.cu_seqlens is OFFSETS
        assert back.values.data_ptr() == made.values.data_ptr()
        assert torch.equal(back.values, made.values)

    def test_one_ragged_size_for_all_that_share_offsets(self) -> None:
        made = packed(2)
        assert (to_nested(made) + to_nested(made.with_values(torch.ones(6, 2)))).shape[0] == 4

    def test_a_later_ragged_dimension_comes_to_the_front(self) -> None:
        made = packed(2, 3)
        assert torch.equal(from_nested(to_nested(made).transpose(1, 2)).values, made.values)

    def test_holes_are_closed(self) -> None:
        padded = torch.randn(3, 5, 2, requires_grad=True)
        part = torch.nested.narrow(
            padded, 1, torch.tensor([1, 0, 2]), torch.tensor([2, 5, 1]), layout=torch.jagged
        )
        made = from_nested(part)
        assert torch.equal(made.values, torch.cat([padded[0, 1:3], padded[1], padded[2, 2:3]]))
        assert made.lengths.tolist() == [2, 5, 1]
        (found,) = torch.autograd.grad(made.values.sum(), padded)
        assert found.sum() == 16
        beyond = torch.nested.nested_tensor_from_jagged(torch.arange(9), torch.tensor([0, 2, 6]))
        assert from_nested(beyond).values.tolist() == [0, 1, 2, 3, 4, 5]

    def test_gradients_pass(self) -> None:
        values = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda one: from_nested(to_nested(Packed(one, OFFSETS)) * 2).values, values
        )

    @pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0]])
    def test_nothing(self, offsets: list[int]) -> None:
        made = Packed(torch.randn(0, 2), torch.tensor(offsets))
        assert made.max_seqlen == 0
        assert unpack(made).shape == (len(offsets) - 1, 0, 2)
        assert from_nested(to_nested(made)).values.shape == (0, 2)


class TestMods:
    def test_a_mask_is_that_of_the_factory(self) -> None:
        mask = block_mask_of(causal, OFFSETS, BLOCK_SIZE=2)
        assert mask == create_block_mask(saccade.masks.jagged(causal, OFFSETS), None, None, 6, 6, "cpu", 2)
        assert mask.mask_mod == saccade.masks.jagged(causal, OFFSETS)
        query = to_nested(packed(2, 8)).transpose(1, 2)
        assert create_nested_block_mask(causal, query, BLOCK_SIZE=2).runs == mask.runs

    @pytest.mark.parametrize("kv_offsets", [None, [0, 1, 3, 3, 7]])
    def test_a_mask_shows_what_each_sequence_sees_alone(self, kv_offsets: list[int] | None) -> None:
        mod = prefix_lm(torch.tensor([1, 0, 3, 2]))
        queries, keys = OFFSETS.tolist(), kv_offsets or OFFSETS.tolist()
        expected = torch.zeros(6, keys[-1], dtype=torch.bool)
        for number in range(4):
            rows, columns = (slice(*one[number : number + 2]) for one in (queries, keys))
            shape = expected[rows, columns].shape
            one = lambda b, h, q, k, at=number: mod(torch.tensor(at), h, q, k)  # noqa: E731
            expected[rows, columns] = oracle.visible_pairs(one, 1, 1, *shape)[0, 0]
        asked = (OFFSETS.tolist(), kv_offsets)
        assert torch.equal(block_mask_of(mod, *asked).to_bool()[0, 0], expected)
        nested = [to_nested(Packed(torch.zeros(one[-1], 1), torch.tensor(one))) for one in (queries, keys)]
        assert torch.equal(create_nested_block_mask(mod, *nested).to_bool()[0, 0], expected)

    def test_heads_are_those_of_the_query_where_the_mask_asks(self) -> None:
        widths = torch.tensor([1, 2])
        mod = lambda b, h, q_idx, kv_idx: q_idx - kv_idx < widths[h]  # noqa: E731
        nested = to_nested(packed(2, 8))
        assert create_nested_block_mask(mod, nested.transpose(1, 2)).shape == (1, 2, 6, 6)
        assert create_nested_block_mask(mod, nested) == create_nested_block_mask(mod, nested.transpose(1, 2))
        assert create_nested_block_mask(mod, nested, heads=2).shape == (1, 2, 6, 6)
        assert block_mask_of(mod, OFFSETS, heads=2).shape == (1, 2, 6, 6)
        assert create_nested_block_mask(mod, to_nested(packed(8)), heads=2).shape == (1, 2, 6, 6)

    def test_packed_values_attend_with_mask_and_score_like_nested_ones(self) -> None:
        slope = torch.randn(4, requires_grad=True)
        score = lambda s, b, h, q_idx, kv_idx: s + slope[b] * (q_idx - kv_idx)  # noqa: E731
        tensors = [packed(2, 8) for _ in range(3)]
        dense = [one.values.transpose(0, 1)[None] for one in tensors]
        found = flex_attention(
            *dense, score_mod_of(score, OFFSETS), block_mask=block_mask_of(causal, OFFSETS)
        )
        nested = [to_nested(one).transpose(1, 2) for one in tensors]
        expected = flex_attention(*nested, score, mask_mod=causal)
        assert torch.equal(found[0], expected.values())
        mine, theirs = (torch.autograd.grad(one.sum(), slope) for one in (found, expected.values()))
        torch.testing.assert_close(mine, theirs)

    def test_a_mask_of_sequences_with_room_between_them(self) -> None:
        mask = saccade.masks.jagged(causal, [1, 4, 6], lengths=[2, 1])
        expected = torch.zeros(6, 6, dtype=torch.bool)
        expected[1, 1] = expected[2, 1] = expected[2, 2] = expected[4, 4] = True
        assert torch.equal(create_mask(mask, None, None, 6, 6, device="cpu")[0, 0], expected)
        assert torch.equal(oracle.visible_pairs(mask, 1, 1, 6, 6)[0, 0], expected)
        cross = saccade.masks.jagged(noop_mask, [0, 2, 3], [1, 4, 6], kv_lengths=[2, 1])
        assert create_mask(cross, None, None, 3, 6, device="cpu")[0, 0].int().tolist() == [
            [0, 1, 1, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 0],
        ]
        assert mask.around(noop_mask) == saccade.masks.jagged(noop_mask, [1, 4, 6], lengths=[2, 1])


ROWS = torch.zeros(2, 3)
FAULTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no tensor": (lambda: pack([[1]], [1]), ArgumentTypeError, r"pack\(\): padded must be a torch tensor"),
    "one dimension": (
        lambda: pack(ROWS[0], [1]),
        ShapeError,
        r"padded must be \[B, L, ...\], got shape=\[3\]",
    ),
    "neither": (lambda: pack(ROWS), ArgumentError, "expects lengths or keep, got neither"),
    "both": (lambda: pack(ROWS, [1, 2], keep=ROWS > 0), ArgumentError, "expects lengths or keep, got both"),
    "a length too many": (lambda: pack(ROWS, [1, 2, 3]), ShapeError, "one number a sequence, 2, got 3"),
    "a length too long": (
        lambda: pack(ROWS, [1, 4]),
        ArgumentError,
        r"padded length 3, got lengths=\[1, 4\]",
    ),
    "a negative length": (
        lambda: pack(ROWS, [-1, 3]),
        ArgumentError,
        r"between 0 and .* got lengths=\[-1, 3\]",
    ),
    "floating lengths": (
        lambda: pack(ROWS, torch.ones(2)),
        DTypeError,
        r"pack\(\): lengths must be of an integer",
    ),
    "another side": (
        lambda: pack(ROWS, [1, 2], padding_side="up"),
        ArgumentError,
        "padding_side must be 'right' or 'left', got 'up'",
    ),
    "keep of numbers": (
        lambda: pack(ROWS, keep=ROWS),
        DTypeError,
        r"pack\(\): keep must be bool.*\.bool\(\)",
    ),
    "keep of another shape": (
        lambda: pack(ROWS, keep=ROWS[:, :2] > 0),
        ShapeError,
        r"keep must be \[B, L\] with B=2 and L=3, got shape=\[2, 2\]",
    ),
    "keep of other rows": (
        lambda: unpack(packed(), keep=ROWS > 0),
        ShapeError,
        r"unpack\(\): keep must be \[B, L\] with B=4, got shape=\[2, 3\]",
    ),
    "keep of other counts": (
        lambda: unpack(packed(), keep=~KEPT),
        ArgumentError,
        r"as many True .*\[2, 0, 3, 1\], got \[1, 3, 0, 2\]",
    ),
    "keep is no tensor": (lambda: unpack(packed(), keep=3), ArgumentTypeError, "keep must be a torch tensor"),
    "another side beside keep": (
        lambda: pack(ROWS, keep=ROWS > 0, padding_side="middle"),
        ArgumentError,
        r"pack\(\): padding_side must be 'right' or 'left', got 'middle'",
    ),
    "another side of unpacking": (
        lambda: unpack(packed(), keep=KEPT, padding_side="up"),
        ArgumentError,
        r"unpack\(\): padding_side must be 'right' or 'left', got 'up'",
    ),
    "half a token": (
        lambda: unpack(packed(), 3.5),
        ArgumentTypeError,
        r"unpack\(\): length must be an integer, got float 3.5",
    ),
    "padding of another kind": (
        lambda: unpack(packed(), fill="0"),
        ArgumentTypeError,
        r"unpack\(\): fill must be a number, got str '0'",
    ),
    **{
        f"padding that {dtype} has not, {fill}": (
            lambda dtype=dtype, fill=fill: unpack(Packed(torch.ones(6, dtype=dtype), OFFSETS), fill=fill),
            ArgumentError,
            rf"unpack\(\): fill must be a number that values of {dtype} can be, got fill={fill}",
        )
        for dtype, fill in (
            (torch.int64, 0.5),
            (torch.int64, math.nan),
            (torch.uint8, -1),
            (torch.bool, 2),
            (torch.float16, 1e6),
            (torch.float32, 1j),
        )
    },
    "too short": (lambda: unpack(packed(), 2), ArgumentError, "longest sequence, of 3 tokens, got length=2"),
    "unpack of a tensor": (
        lambda: unpack(ROWS),
        ArgumentTypeError,
        r"unpack\(\) expects a Packed, got Tensor",
    ),
    "to_nested of a tensor": (lambda: to_nested(ROWS), ArgumentTypeError, r"to_nested\(\) expects a Packed"),
    "from_nested of a tensor": (
        lambda: from_nested(ROWS),
        ArgumentTypeError,
        "nested must be a nested tensor",
    ),
    "from_nested of nothing": (
        lambda: from_nested(None),
        ArgumentTypeError,
        r"from_nested\(\): nested must be a",
    ),
    "from_nested of rows": (
        lambda: from_nested(torch.nested.nested_tensor([ROWS])),
        UnsupportedError,
        "must have the layout torch.jagged",
    ),
    "values without dimensions": (
        lambda: Packed(torch.zeros(()), OFFSETS),
        ShapeError,
        r"values must be \[total, ...\]",
    ),
    "values of another kind": (
        lambda: Packed([1], OFFSETS),
        ArgumentTypeError,
        "values must be a torch tensor",
    ),
    "offsets of another kind": (
        lambda: Packed(ROWS, [0, 2]),
        ArgumentTypeError,
        "cu_seqlens must be a torch",
    ),
    "offsets that fall": (
        lambda: Packed(ROWS, torch.tensor([0, 3, 2])),
        ArgumentError,
        r"Packed\(\): cu_seqlens must start at 0 and never fall",
    ),
    "offsets that end elsewhere": (
        lambda: Packed(ROWS, torch.tensor([0, 3])),
        ArgumentError,
        "must end with the values, at 2, got 3",
    ),
    "floating offsets": (
        lambda: Packed(ROWS, torch.zeros(2)),
        DTypeError,
        "cu_seqlens must be of an integer",
    ),
    "a number of batches": (
        lambda: create_nested_block_mask(causal, 1),
        ArgumentTypeError,
        "q_nested must be a nested tensor, got int 1; numbers of batches and heads are left out",
    ),
    "a dense query": (
        lambda: create_nested_block_mask(causal, ROWS),
        ArgumentTypeError,
        "q_nested must be a nested",
    ),
    "a factory": (
        lambda: create_nested_block_mask(prefix_lm, to_nested(packed())),
        ModError,
        r"create_nested_block_mask\(\): prefix_lm is a factory",
    ),
    "a mask of the form of a score": (
        lambda: block_mask_of(lambda score, b, h, q_idx, kv_idx: score, OFFSETS),
        ModError,
        r"a mask mod is a function of .*got function <function <lambda>.*pass it as score_mod=",
    ),
    "a nested mask of the form of a score": (
        lambda: create_nested_block_mask(
            lambda score, b, h, q_idx, kv_idx: score, to_nested(packed()), heads=2
        ),
        ModError,
        r"a mask mod is a function of .*got function <function <lambda>.*pass it as score_mod=",
    ),
    "a score of the form of a mask": (
        lambda: score_mod_of(causal, OFFSETS),
        ModError,
        "a score mod is a function of .*got _Causal causal.*pass it as mask_mod=",
    ),
    "no number of heads": (
        lambda: create_nested_block_mask(lambda b, h, q_idx, kv_idx: q_idx < h, to_nested(packed(8))),
        saccade.MaskAxisError,
        r"create_nested_block_mask\(\): the mask reads 'h', and q_nested of shape \[4, j\d+, 8\] does not",
    ),
    "a score of no function": (lambda: score_mod_of(3, OFFSETS), ModError, r"score_mod_of\(\) expects mods"),
    "other numbers of sequences": (
        lambda: create_nested_block_mask(
            causal, to_nested(packed()), to_nested(Packed(torch.zeros(6), torch.tensor([0, 6])))
        ),
        ArgumentError,
        "as many sequences as offsets, got 1 and 4",
    ),
    "a length that does not fit": (
        lambda: saccade.masks.jagged(causal, [0, 2, 6], lengths=[3, 1]),
        ArgumentError,
        r"lengths must lie between 0 and the room that offsets leave, \[2, 4\], got lengths=\[3, 1\]",
    ),
    "too few lengths": (
        lambda: saccade.masks.jagged(causal, [0, 2, 6], [0, 1, 2], kv_lengths=[1]),
        ShapeError,
        r"jagged\(\): kv_lengths must hold one number a sequence, 2 as kv_offsets tell, got 1",
    ),
    "lengths of keys alone": (
        lambda: saccade.masks.jagged(causal, [0, 2, 6], kv_lengths=[1, 1]),
        ArgumentError,
        "kv_lengths go with kv_offsets",
    ),
    "another mask of no function": (
        lambda: saccade.masks.jagged(causal, [0, 2]).around(3),
        ModError,
        r"jagged\(\) expects mods",
    ),
}


@pytest.mark.parametrize(("call", "error", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_used_is_refused(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_name_is_the_modules_and_the_mask_has_its_own() -> None:
    assert saccade.jagged is jagged
    assert "jagged" not in saccade.__all__
    assert isinstance(saccade.masks.jagged(causal, [0, 3]), saccade.Mask)


def test_a_thousand_sequences_are_read_fast() -> None:
    """A mask of many sequences is analysed as the outline of its blocks, not pair by pair."""
    lengths = torch.randint(1, 51, (1000,), generator=torch.Generator().manual_seed(1))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    mask = block_mask_of(causal, offsets)
    assert mask.visible_pairs() == int((lengths * (lengths + 1) // 2).sum())
