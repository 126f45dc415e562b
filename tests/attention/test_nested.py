"""flex_attention of nested tensors: each sequence alone, in one call, forward and backward."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import low_precision
import oracle
import saccade
from saccade import AuxRequest, BlockMask, create_block_mask, explain, flex_attention
from saccade.attention import nested as nested_calls
from saccade.attention import sequences
from saccade.attention.nested import packed_call, ragged_of
from saccade.attention.request import Arguments
from saccade.attention.sequences import Ragged, sequences_of
from saccade.backends.cpu import work
from saccade.errors import ArgumentError, ArgumentTypeError, ShapeError, StaleMaskError, UnsupportedError
from saccade.masks import causal, document, jagged, noop_mask, padding, prefix_lm, sliding_window
from saccade.scores import softcap

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")

ENGINES = ("eager", "cpu")
HEADS, DIM = 4, 16
LENGTHS = (3, 0, 130, 1, 37)

Attend = Callable[..., tuple[Tensor, Tensor]]


def offsets_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def leaves_of(
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    kv_heads: int = HEADS,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Packed values [total, H, D] of a query, a key and a value."""
    keys = sum(lengths if kv_lengths is None else kv_lengths)
    shapes = ((sum(lengths), HEADS, DIM), (keys, kv_heads, DIM), (keys, kv_heads, 8))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def nest(values: Tensor, offsets: Tensor) -> Tensor:
    """[B, H, j, D] of [total, H, D]."""
    return torch.nested.nested_tensor_from_jagged(values, offsets).transpose(1, 2)


def nested(
    leaves: Sequence[Tensor], lengths: Sequence[int], kv_lengths: Sequence[int] | None = None
) -> list[Tensor]:
    offsets = offsets_of(lengths)
    kv_offsets = offsets if kv_lengths is None else offsets_of(kv_lengths)
    return [nest(one, each) for one, each in zip(leaves, (offsets, kv_offsets, kv_offsets), strict=True)]


def of_sequence(mod: Any, number: int) -> Any:
    """A mod as it is asked about one sequence of the batch."""
    if mod is None:
        return None
    return lambda *at: mod(*at[:-4], torch.tensor(number), *at[-3:])


def one_by_one(
    attend: Attend,
    leaves: Sequence[Tensor],
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    mask: Any = None,
    score: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The output [H, total, Dv] and lse [H, total] of each sequence alone."""
    outs, lses = [], []
    bounds = (pairwise(offsets_of(each).tolist()) for each in (lengths, kv_lengths or lengths))
    for number, (rows, columns) in enumerate(zip(*bounds, strict=True)):
        query, key, value = (
            one[slice(*part)].transpose(0, 1)[None]
            for one, part in zip(leaves, (rows, columns, columns), strict=True)
        )
        mods = {"mask": of_sequence(mask, number), "score": of_sequence(score, number)}
        out, lse = attend(query, key, value, **mods, **options)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.cat(outs, dim=1), torch.cat(lses, dim=1)


def exactly(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    found = oracle.attention(*tensors, **options)
    return found.out, found.lse


@contextmanager
def one_thread() -> Iterator[None]:
    """For small products, where torch's threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def assert_like_the_oracle(
    leaves: Sequence[Tensor],
    lengths: Sequence[int],
    kv_lengths: Sequence[int] | None = None,
    *,
    learned: Sequence[Tensor] = (),
    mask: Any = None,
    score: Any = None,
    enable_gqa: bool = False,
    backends: Sequence[str] = ("cpu",),
    block_masks: Sequence[BlockMask | None] = (None,),
    **options: Any,
) -> None:
    """Output, lse and every gradient are as good as those of an independent computation of that precision.

    Every backend is asked, under each of some block masks that say what `mask` says.
    """
    dtype, wanted = leaves[0].dtype, [*leaves, *learned]
    asked = {"mask": mask, "score": score, **options}
    doubles = [one.detach().double().requires_grad_() for one in leaves]
    with one_thread():
        theirs = one_by_one(low_precision.attention, leaves, lengths, kv_lengths, **asked)
        exact = one_by_one(exactly, doubles, lengths, kv_lengths, **asked)
        their_gradients = low_precision.gradients(theirs, wanted, dtype)
        exact_gradients = low_precision.gradients(exact, [*doubles, *learned], dtype)
    for backend, block_mask in product(backends, block_masks):
        results = flex_attention(
            *nested(leaves, lengths, kv_lengths),
            score,
            mask_mod=None if block_mask is not None else mask,
            block_mask=block_mask,
            return_lse=True,
            enable_gqa=enable_gqa,
            backend=backend,
            **options,
        )
        mine = [one.values() for one in results]
        low_precision.assert_as_good(
            [seen(one) for one in mine],
            [seen(one).to(each.dtype) for one, each in zip(theirs, mine, strict=True)],
            [seen(one) for one in exact],
        )
        found = low_precision.gradients(mine, wanted, dtype)
        low_precision.assert_as_good(found, their_gradients, exact_gradients)


def seen(result: Tensor) -> Tensor:
    """Without the −inf of lse in rows that see nothing."""
    return result.detach().masked_fill(result.isneginf(), 0.0)


def near(score, b, h, q_idx, kv_idx):
    return score - 0.25 * (q_idx - kv_idx).abs()


class TestResults:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("mask", [None, causal, sliding_window(9)], ids=repr)
    def test_are_those_of_each_sequence_alone(self, mask: Any, dtype: torch.dtype) -> None:
        leaves = leaves_of(LENGTHS, dtype=dtype)
        assert_like_the_oracle(leaves, LENGTHS, mask=mask, backends=ENGINES)

    def test_cross_attention_with_other_lengths(self) -> None:
        kv_lengths = (0, 5, 140, 2, 33)
        leaves = leaves_of(LENGTHS, kv_lengths)
        assert_like_the_oracle(leaves, LENGTHS, kv_lengths, mask=causal, score=near, backends=ENGINES)

    def test_mods_read_tensors_with_one_entry_a_sequence(self) -> None:
        prefix = torch.tensor([1, 0, 60, 1, 5])
        slope = torch.randn(len(LENGTHS), HEADS, requires_grad=True)
        position = torch.randn(max(LENGTHS), requires_grad=True)

        def learned(score, b, h, q_idx, kv_idx):
            return score * slope[b, h] + position[kv_idx]

        assert_like_the_oracle(
            leaves_of(LENGTHS),
            LENGTHS,
            mask=prefix_lm(prefix),
            score=learned,
            learned=[slope, position],
            backends=ENGINES,
        )

    def test_options_mean_what_they_mean_for_dense_tensors(self) -> None:
        sinks = torch.randn(HEADS, requires_grad=True)
        leaves = leaves_of(LENGTHS, kv_heads=2)
        assert_like_the_oracle(
            leaves,
            LENGTHS,
            mask=causal,
            learned=[sinks],
            sinks=sinks,
            scale=0.7,
            enable_gqa=True,
            backends=ENGINES,
        )

    def test_a_mask_that_differs_by_head(self) -> None:
        widths = torch.tensor([1, 3, 20, 50])
        assert_like_the_oracle(
            leaves_of(LENGTHS), LENGTHS, mask=lambda b, h, q_idx, kv_idx: (q_idx - kv_idx).abs() < widths[h]
        )

    def test_a_score_that_asks_for_no_position(self) -> None:
        assert_like_the_oracle(leaves_of(LENGTHS), LENGTHS, score=softcap(2.0))

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=7), st.data())
    @settings(max_examples=10)
    def test_for_any_lengths(self, lengths: list[int], data: st.DataObject) -> None:
        crosses = data.draw(st.booleans())
        kv_lengths = [data.draw(st.integers(0, 40)) for _ in lengths] if crosses else None
        mask = data.draw(st.sampled_from([None, causal, sliding_window(4)]))
        torch.manual_seed(0)
        assert_like_the_oracle(leaves_of(lengths, kv_lengths), lengths, kv_lengths, mask=mask)

    @pytest.mark.parametrize("lengths", [(0,), (0, 0, 0), ()], ids=str)
    def test_nothing_at_all(self, lengths: tuple[int, ...]) -> None:
        leaves = leaves_of(lengths)
        out, lse = flex_attention(*nested(leaves, lengths), near, mask_mod=causal, return_lse=True)
        assert out.values().shape == (HEADS, 0, 8)
        assert lse.values().shape == (HEADS, 0)
        assert [one.shape for one in torch.autograd.grad(out.values().sum(), leaves)] == [
            one.shape for one in leaves
        ]

    def test_torch_says_the_same(self) -> None:
        leaves = leaves_of(LENGTHS)
        found = flex_attention(*nested(leaves, LENGTHS)).values()
        expected = functional.scaled_dot_product_attention(*nested(leaves, LENGTHS)).values()
        torch.testing.assert_close(found, expected)
        mine, theirs = (torch.autograd.grad(one.square().sum(), leaves) for one in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    def test_many_short_sequences(self) -> None:
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(1, 51, (1000,), generator=generator).tolist()
        packed = [torch.randn(sum(lengths), 1, 8, requires_grad=True) for _ in range(3)]
        # What comes after a token is hidden anyway, padding too.
        keep = torch.arange(50) < torch.tensor(lengths)[:, None]
        padded = [torch.zeros(1000, 50, 1, 8).index_put(keep.nonzero(as_tuple=True), one) for one in packed]
        expected = exactly(*(one.transpose(1, 2) for one in padded), mask=causal)[0].transpose(1, 2)[keep]
        found = flex_attention(*nested(packed, lengths), mask_mod=causal).transpose(1, 2).values()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        mine, theirs = (torch.autograd.grad(one.square().sum(), packed) for one in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("backend", ENGINES)
    def test_dropout_repeats_and_keeps_sequences_apart(self, backend: str) -> None:
        leaves = leaves_of((20, 30))
        outs = []
        for _ in range(2):
            torch.manual_seed(7)
            outs.append(flex_attention(*nested(leaves, (20, 30)), dropout_p=0.5, backend=backend).values())
        assert torch.equal(*outs)
        (found,) = torch.autograd.grad(outs[0][:, :20].sum(), leaves[2])
        assert found[:20].abs().sum() > 0
        assert not found[20:].any()

    def test_under_autocast(self) -> None:
        leaves = leaves_of(LENGTHS)
        with torch.autocast("cpu", torch.bfloat16):
            assert flex_attention(*nested(leaves, LENGTHS), mask_mod=causal).dtype is torch.bfloat16


class TestTheForm:
    def test_is_the_querys_so_that_residuals_add(self) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        wide = torch.cat([value, value], dim=-1)  # as wide as the query
        out = flex_attention(query, key, wide, mask_mod=causal)
        assert out.shape == query.shape
        assert out.offsets() is query.offsets()
        total = query + out
        torch.testing.assert_close(total.values(), query.values() + out.values())
        assert [one.shape for one in out.unbind()] == [(HEADS, length, DIM) for length in LENGTHS]

    def test_keeps_what_is_known_of_lengths(self) -> None:
        offsets, values = offsets_of([2, 5]), torch.randn(7, HEADS, DIM)
        for known in ({}, {"min_seqlen": 2, "max_seqlen": 5}):
            query = torch.nested.nested_tensor_from_jagged(values, offsets, **known).transpose(1, 2)
            out: Any = flex_attention(query, query, query)
            assert (out._maybe_min_seqlen, out._maybe_max_seqlen) == (
                known.get("min_seqlen"),
                known.get("max_seqlen"),
            )

    def test_values_are_not_copied(self) -> None:
        values = torch.randn(7, HEADS, DIM)
        query = nest(values, offsets_of([2, 5]))
        packed = packed_call(Arguments(query, query, query, mask_mod=causal)).packed
        assert {one.data_ptr() for one in (packed.query, packed.key, packed.value)} == {values.data_ptr()}
        out = flex_attention(query, query, query, mask_mod=causal)
        # In memory [total, H, D], so that heads join without a copy.
        assert out.transpose(1, 2).values().is_contiguous()

    def test_values_of_one_tensor_are_asked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Tensor] = []
        values = nested_calls._values
        monkeypatch.setattr(nested_calls, "_values", lambda one: (asked.append(one), values(one))[1])
        query, key = (nest(torch.randn(9, 2, DIM), offsets_of((4, 5))) for _ in range(2))
        packed = packed_call(Arguments(query, query, query)).packed
        assert packed.query is packed.key is packed.value
        assert len(asked) == 1
        packed = packed_call(Arguments(query, key, key)).packed
        assert packed.query is not packed.key
        assert packed.key is packed.value
        assert len(asked) == 3

    def test_lse_and_max_scores_are_nested_too(self) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        _, aux = flex_attention(query, key, value, return_aux=AuxRequest(lse=True, max_scores=True))
        for one in (aux.lse, aux.max_scores):
            assert one is not None
            assert one.shape == query.shape[:3]
            assert [row.shape for row in one.unbind()] == [(HEADS, length) for length in LENGTHS]

    def test_nested_leaves_get_nested_gradients(self) -> None:
        offsets = offsets_of([4, 9])
        leaf = torch.nested.nested_tensor_from_jagged(torch.randn(13, 2, DIM), offsets).requires_grad_()
        query = leaf.transpose(1, 2)
        flex_attention(query, query, query, mask_mod=causal).values().square().sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.shape == leaf.shape
        plain = leaf.detach().values().requires_grad_()
        out, _ = one_by_one(exactly, [plain] * 3, (4, 9), mask=causal)
        (expected,) = torch.autograd.grad(out.square().sum(), plain)
        torch.testing.assert_close(leaf.grad.values(), expected, rtol=1e-4, atol=1e-5)


class TestHoles:
    STARTS, HELD = (1, 0, 5, 2), (2, 6, 0, 3)

    def narrowed(self, padded: Tensor) -> Tensor:
        """[B, H, j, D]: a part of each row of [B, L, H, D]."""
        part = torch.nested.narrow(
            padded, 1, torch.tensor(self.STARTS), torch.tensor(self.HELD), layout=torch.jagged
        )
        return part.transpose(1, 2)

    @pytest.mark.parametrize("backend", ENGINES)
    def test_are_passed_over_without_a_copy(self, backend: str) -> None:
        padded = [torch.randn(4, 6, 2, DIM, requires_grad=True) for _ in range(3)]
        query, key, value = (self.narrowed(one) for one in padded)
        position = torch.randn(6)  # of the longest sequence, no more
        score = lambda s, b, h, q_idx, kv_idx: s + position[kv_idx]  # noqa: E731
        out = flex_attention(query, key, value, score, mask_mod=causal, backend=backend)
        (total := out + query).values()
        assert total.shape == query.shape
        parts = [
            torch.cat(
                [
                    row[start : start + held]
                    for row, start, held in zip(one, self.STARTS, self.HELD, strict=True)
                ]
            )
            for one in padded
        ]
        expected, _ = one_by_one(exactly, parts, self.HELD, mask=causal, score=score)
        found = torch.cat(out.unbind(), dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        weights = torch.randn(found.shape)
        mine = torch.autograd.grad(out.values(), padded, self.spread(out, weights))
        theirs = torch.autograd.grad(expected, padded, weights.double())
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

    def spread(self, out: Tensor, weights: Tensor) -> Tensor:
        """Weights of the sequences' tokens where those are among the values, 0 elsewhere."""
        spread = torch.zeros_like(out.values())
        bounds = zip(out.offsets().tolist(), self.HELD, strict=False)
        places = [place for start, held in bounds for place in range(start, start + held)]
        spread[:, places] = weights
        return spread

    @pytest.mark.parametrize("queries", ["holes", "rest", "full"])
    @pytest.mark.parametrize("keys", ["holes", "rest", "full"])
    def test_on_either_side_of_cross_attention(self, queries: str, keys: str) -> None:
        lengths = {"holes": self.HELD, "rest": (2, 1, 0, 4), "full": (3, 2, 2, 1)}
        made = {
            "holes": self.narrowed(torch.randn(4, 6, 2, DIM)),
            "rest": nest(torch.randn(9, 2, DIM), offsets_of(lengths["rest"])),
            "full": nest(torch.randn(8, 2, DIM), offsets_of(lengths["full"])),
        }
        rows = {
            name: torch.cat(
                [
                    one.values()[:, start : start + held]
                    for start, held in zip(one.offsets().tolist(), lengths[name], strict=False)
                ],
                dim=1,
            ).transpose(0, 1)
            for name, one in made.items()
        }
        out = flex_attention(made[queries], *[made[keys]] * 2, mask_mod=causal)
        expected, _ = one_by_one(
            exactly, [rows[queries], *[rows[keys]] * 2], lengths[queries], lengths[keys], mask=causal
        )
        bounds = zip(out.offsets().tolist(), lengths[queries], strict=False)
        found = torch.cat([out.values()[:, start : start + held] for start, held in bounds], dim=1)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_more_values_of_keys_than_of_queries_behind_the_same_offsets(self) -> None:
        offsets = offsets_of((4, 5))
        values, more = torch.randn(9, 2, DIM), torch.randn(12, 2, DIM)
        for rows, columns in ((values, more), (more, values)):
            query, key = nest(rows, offsets), nest(columns, offsets)
            out = flex_attention(query, key, key, mask_mod=causal).values()
            expected, _ = one_by_one(exactly, [rows[:9], *[columns[:9]] * 2], (4, 5), mask=causal)
            torch.testing.assert_close(out[:, :9].double(), expected, rtol=1e-5, atol=1e-5)
            assert not out[:, 9:].any()

    def test_values_beyond_the_last_offset_see_nothing(self) -> None:
        values = torch.randn(12, 2, DIM)
        query = nest(values, torch.tensor([0, 4, 9]))
        out, lse = flex_attention(query, query, query, return_lse=True)
        expected, _ = one_by_one(exactly, [values[:9]] * 3, (4, 5))
        torch.testing.assert_close(out.values()[:, :9].double(), expected, rtol=1e-5, atol=1e-5)
        assert not out.values()[:, 9:].any()
        assert torch.isneginf(lse.values()[:, 9:]).all()


class TestBlockMasks:
    def test_that_keep_sequences_apart_are_taken(self) -> None:
        leaves = leaves_of(LENGTHS)
        query, _, _ = nested(leaves, LENGTHS)
        total = sum(LENGTHS)
        masks = (
            saccade.jagged.create_nested_block_mask(causal, query),
            saccade.jagged.block_mask_of(causal, offsets_of(LENGTHS), BLOCK_SIZE=32),
            create_block_mask(causal & document(lengths=LENGTHS), None, None, total, total, "cpu"),
        )
        assert_like_the_oracle(leaves, LENGTHS, mask=causal, block_masks=masks, backends=ENGINES)

    def test_and_a_mask_mod_must_both_hold(self) -> None:
        leaves = leaves_of(LENGTHS)
        query, key, value = nested(leaves, LENGTHS)
        mask = saccade.jagged.create_nested_block_mask(causal, query)
        found = flex_attention(
            query, key, value, block_mask=mask, mask_mod=lambda b, h, q, k: (q - k < 4) & (b != 3)
        )
        expected = flex_attention(
            query, key, value, mask_mod=lambda b, h, q, k: (q >= k) & (q - k < 4) & (b != 3)
        )
        assert torch.equal(found.values(), expected.values())

    def test_of_given_blocks_are_joined_with_what_keeps_sequences_apart(self) -> None:
        leaves = leaves_of(LENGTHS)
        total = sum(LENGTHS)
        everything = create_block_mask(noop_mask, None, None, total, total, "cpu")
        given_blocks = BlockMask.from_torch(everything.to_torch())
        query, key, value = nested(leaves, LENGTHS)
        for mask in (given_blocks, everything.to_torch()):
            for mod in (None, causal):
                found = flex_attention(query, key, value, block_mask=mask, mask_mod=mod)
                assert torch.equal(found.values(), flex_attention(query, key, value, mask_mod=mod).values())

    @pytest.mark.parametrize(
        ("mask", "pair"),
        [
            (causal, "packed query 3 packed key 0"),
            (noop_mask, "packed query 0 packed key 3"),
            (lambda b, h, q_idx, kv_idx: (q_idx == 150) & (kv_idx == 132), "packed query 150 packed key 132"),
            (
                lambda b, h, q_idx, kv_idx: (h == 2) & (q_idx == 1) & (kv_idx == 170),
                "packed query 1 packed key 170",
            ),
        ],
        ids=["causal", "noop", "a pair", "a pair of a head"],
    )
    def test_that_do_not_are_refused(self, mask: Any, pair: str) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        total = sum(LENGTHS)
        blocks = create_block_mask(mask, None, HEADS, total, total, "cpu")
        with pytest.raises(ArgumentError, match=f"hide every pair of different sequences.*{pair}"):
            flex_attention(query, key, value, block_mask=blocks)

    def test_are_checked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        query, key, value = nested(leaves_of(LENGTHS), LENGTHS)
        blocks = saccade.jagged.block_mask_of(causal, offsets_of(LENGTHS))
        asked = counted(monkeypatch)
        for _ in range(3):
            flex_attention(query, key, value, block_mask=blocks)
        assert len(asked) == 1

    def test_that_have_changed_since_they_were_checked_are_stale(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        ids = torch.tensor([0] * 4 + [1] * 5)
        blocks = create_block_mask(document(ids=ids), None, None, 9, 9, "cpu")
        flex_attention(query, key, value, block_mask=blocks)
        ids.zero_()
        with pytest.raises(saccade.StaleMaskError, match="has changed since"):
            flex_attention(query, key, value, block_mask=blocks)
        with pytest.raises(ArgumentError, match="hide every pair of different sequences"):
            flex_attention(query, key, value, block_mask=blocks.refreshed())

    def test_are_checked_by_what_they_say_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        numbers = np.array([0] * 4 + [1] * 5)
        ids = torch.from_numpy(numbers)
        blocks, another = (create_block_mask(document(ids=ids), None, None, 9, 9, "cpu") for _ in range(2))
        asked = counted(monkeypatch)
        flex_attention(query, key, value, block_mask=blocks)
        flex_attention(query, key, value, block_mask=another)
        assert len(asked) == 1
        numbers[:] = 0  # which torch does not count
        for each in (blocks, another):
            with pytest.raises(ArgumentError, match="hide every pair of different sequences"):
                flex_attention(query, key, value, block_mask=each)

    @pytest.mark.parametrize(("bytes_kept", "count"), [(72, 1), (71, 3)])
    def test_with_large_tables_are_checked_at_each_call(
        self, monkeypatch: pytest.MonkeyPatch, bytes_kept: int, count: int
    ) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        ids = torch.tensor([0] * 4 + [1] * 5)  # 72 bytes
        blocks = create_block_mask(document(ids=ids), None, None, 9, 9, "cpu")
        monkeypatch.setattr(sequences, "_MOST_BYTES", bytes_kept)
        asked = counted(monkeypatch)
        for _ in range(3):
            flex_attention(query, key, value, block_mask=blocks)
        assert len(asked) == count

    def test_of_another_length_are_refused(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        with pytest.raises(ShapeError, match="q_len=8 and kv_len=8, but the query has 9"):
            flex_attention(query, key, value, block_mask=saccade.jagged.block_mask_of(causal, [0, 4, 8]))

    def test_of_another_kind_are_refused(self) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        with pytest.raises(ArgumentTypeError, match="block_mask must be a BlockMask or None, got _Causal"):
            flex_attention(query, key, value, block_mask=causal)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every analysis from now on that nested tensors ask for."""
    asked: list[object] = []
    make = sequences.create_block_mask

    def noted(mod: Any, *args: Any) -> BlockMask:
        asked.append(mod)
        return make(mod, *args)

    monkeypatch.setattr(sequences, "create_block_mask", noted)
    return asked


def in_inference(tensor: Tensor, to: Tensor) -> None:
    with torch.inference_mode():
        tensor.copy_(to)


# Of most of these torch's count of writes says nothing.
WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "copy_": lambda tensor, to: tensor.copy_(to),
    "inference mode": in_inference,
    ".data": lambda tensor, to: tensor.data.copy_(to),
    ".data =": lambda tensor, to: setattr(tensor, "data", to),
    "numpy": lambda tensor, to: np.copyto(tensor.numpy(), to.numpy()),
    "dlpack": lambda tensor, to: torch.from_dlpack(tensor).copy_(to),
}


class TestWhatIsKept:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        return counted(monkeypatch)

    def test_layers_pay_once(self, asked: list[object]) -> None:
        query = nest(torch.randn(9, 2, DIM), offsets_of((4, 5)))
        for _ in range(12):
            query = query + flex_attention(query, query, query, mask_mod=causal)
            query = query + flex_attention(query, query, query, mask_mod=lambda b, h, q, k: q - k < 3)
        assert len(asked) == 2

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_in_inference_too_and_for_training_afterwards(
        self, asked: list[object], mode: Callable[[], Any]
    ) -> None:
        leaves = leaves_of((4, 5))
        with mode():
            tensors = nested([one * 2 for one in leaves], (4, 5))
            for _ in range(3):
                flex_attention(*tensors, mask_mod=causal)
        assert len(asked) == 1
        offsets = offsets_of((4, 5))
        with mode():
            flex_attention(*(nest(one * 2, offsets) for one in leaves), mask_mod=causal)
        out = flex_attention(*(nest(one, offsets) for one in leaves), mask_mod=causal)
        torch.autograd.grad(out.values().sum(), leaves)
        assert len(asked) == 2

    def test_offsets_written_to_are_read_again(self) -> None:
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                offsets, values = torch.tensor([0, 4, 9]), torch.randn(9, 2, DIM)
                for middle in (4, 7):
                    offsets[1] = middle
                    query = nest(values, offsets)
                    found = flex_attention(query, query, query, mask_mod=causal).values()
                    expected, _ = one_by_one(exactly, [values] * 3, (middle, 9 - middle), mask=causal)
                    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_numbers_and_tensors_of_a_mask_are_read_at_each_call(self, asked: list[object]) -> None:
        leaves = leaves_of((30, 40))
        query, key, value = nested(leaves, (30, 40))
        width, held, last = 3, torch.tensor([5, 40]), torch.tensor(38)

        def mask(b, h, q_idx, kv_idx):
            return (q_idx - kv_idx < width) & (kv_idx < held[b]) & (kv_idx <= last)

        def check() -> None:
            found = flex_attention(query, key, value, mask_mod=mask).values()
            expected, _ = one_by_one(exactly, leaves, (30, 40), mask=mask)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

        check()
        width = 7
        check()
        held[0] = 2
        check()
        held = torch.tensor([9, 9])
        check()
        last.fill_(6)
        check()
        assert len(asked) == 5
        check()
        assert len(asked) == 5

    def test_another_function_that_says_the_same_gets_the_blocks(self, asked: list[object]) -> None:
        query, key, value = nested(leaves_of((30, 40)), (30, 40))

        def window(width: int) -> Any:
            def mask(b, h, q_idx, kv_idx):
                return q_idx - kv_idx < width

            def change(to: int) -> None:
                nonlocal width
                width = to

            mask.change = change
            return mask

        first, second = window(3), window(3)
        for one in (first, second):
            assert explain(query, key, value, mask_mod=one).blocks.mask_mod.mask_mod is one
        first.change(20)
        assert explain(query, key, value, mask_mod=second).blocks.mask_mod.mask_mod is second
        assert len(asked) == 1
        found = flex_attention(query, key, value, mask_mod=first).values()
        assert len(asked) == 2
        expected, _ = one_by_one(
            exactly, [one.transpose(1, 2).values() for one in (query, key, value)], (30, 40), mask=first
        )
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    def test_engines_find_their_work_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        query, key, value = nested([one.detach() for one in leaves_of((30, 40))], (30, 40))
        keep = torch.ones(2, 40, dtype=torch.bool)
        made: list[object] = []
        make = work._forward_work
        monkeypatch.setattr(work, "_forward_work", lambda *args: (made.append(args), make(*args))[1])
        for _ in range(3):
            flex_attention(query, key, value, mask_mod=padding(keep=keep.clone()))
        assert len(made) == 1

    @pytest.mark.parametrize("what", ["offsets", "mask"])
    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    def test_every_write_is_seen(self, write: Callable[[Tensor, Tensor], object], what: str) -> None:
        offsets, values = torch.tensor([0, 40, 300]), torch.randn(300, 2, DIM)
        held = torch.tensor([20, 128])  # which hides the last block

        def check(mask: Any) -> None:
            query = nest(values, offsets)
            found = flex_attention(query, query, query, mask_mod=mask).values()
            with one_thread():
                expected, _ = one_by_one(exactly, [values] * 3, offsets.diff().tolist(), mask=mask)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

        mask = padding(lengths=held)
        check(mask)
        if what == "offsets":
            write(offsets, torch.tensor([0, 70, 300]))
        else:
            write(held, torch.tensor([40, 260]))
        check(mask)
        check(padding(lengths=held))
        check(padding(lengths=torch.tensor([20, 128])))

    def test_numbers_are_told_apart_to_the_bit(self, asked: list[object]) -> None:
        query, key, value = nested(leaves_of((4, 5)), (4, 5))
        slope = torch.zeros(2)
        mask = lambda b, h, q_idx, kv_idx: (1 / slope[b] > 0) | (q_idx == kv_idx)  # noqa: E731
        seen_all = flex_attention(query, key, value, mask_mod=mask).values()
        assert torch.equal(seen_all, flex_attention(query, key, value).values())
        slope.neg_()
        found = flex_attention(query, key, value, mask_mod=mask).values()
        assert torch.equal(found, value.values())
        del asked[:]
        slope.fill_(torch.nan)
        for _ in range(3):
            assert torch.equal(flex_attention(query, key, value, mask_mod=mask).values(), found)
        assert len(asked) == 1

    def test_of_offsets_on_a_device_writes_are_counted(
        self, asked: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sequences, "_is_compared", lambda offsets: False)
        offsets, values = torch.tensor([0, 4, 9]), torch.randn(9, 2, DIM)
        for middle in (4, 7):
            offsets[1] = middle
            for _ in range(3):
                query = nest(values, offsets)
                found = flex_attention(query, query, query, mask_mod=causal).values()
            expected, _ = one_by_one(exactly, [values] * 3, (middle, 9 - middle), mask=causal)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        assert len(asked) == 2

    def test_masks_that_read_tensors_are_kept_in_inference_and_for_training(
        self, asked: list[object]
    ) -> None:
        leaves, offsets = leaves_of((4, 5)), offsets_of((4, 5))
        with torch.inference_mode():
            keep = torch.arange(5) < torch.tensor([[3], [5]])
            for _ in range(3):
                flex_attention(*(nest(one * 2, offsets) for one in leaves), mask_mod=padding(keep=keep))
        out = flex_attention(*(nest(one, offsets) for one in leaves), mask_mod=padding(keep=keep.clone()))
        found = torch.autograd.grad(out.values().sum(), leaves)
        assert len(asked) == 1
        exact, _ = one_by_one(exactly, leaves, (4, 5), mask=padding(keep=keep.clone()))
        torch.testing.assert_close(found, torch.autograd.grad(exact.sum(), leaves), rtol=1e-4, atol=1e-5)

    def test_a_mask_goes_on_saying_what_it_said_to_the_forward_pass(self) -> None:
        leaves = leaves_of((4, 5))
        held = torch.tensor([2, 5])
        out = flex_attention(*nested(leaves, (4, 5)), mask_mod=padding(lengths=held))
        exact, _ = one_by_one(exactly, leaves, (4, 5), mask=padding(lengths=held.clone()))
        held.fill_(1)
        found, expected = (torch.autograd.grad(one.sum(), leaves) for one in (out.values(), exact))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_masks_that_read_too_much_are_not(
        self, asked: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sequences, "_MOST_BYTES", 40)
        leaves, offsets = leaves_of((4, 5)), offsets_of((4, 5))
        tensors = [nest(one, offsets) for one in leaves]
        held = torch.tensor([2, 5]).repeat(3)  # 48 bytes
        for count in (1, 2):
            out = flex_attention(*tensors, mask_mod=padding(lengths=held))
            assert len(asked) == count
        exact, _ = one_by_one(exactly, leaves, (4, 5), mask=padding(lengths=held))
        torch.testing.assert_close(out.values().double(), exact, rtol=1e-5, atol=1e-5)
        held.fill_(1)
        with pytest.raises(StaleMaskError, match="has changed since"):
            out.values().sum().backward()
        # All together count: of three with 16 bytes each the latest two are kept.
        del asked[:]
        masks = [padding(lengths=torch.tensor([2, last])) for last in (3, 4, 5)]
        for mask in [*masks, *masks[1:], masks[0]]:
            flex_attention(*tensors, mask_mod=mask)
        assert len(asked) == 4

    def test_it_goes_when_the_offsets_go(self) -> None:
        def attend() -> list[weakref.ref[Any]]:
            offsets, held = offsets_of((4, 5)), torch.tensor([1, 2])
            query = nest(torch.randn(9, 2, DIM), offsets)
            for mask in (
                padding(lengths=held),
                lambda b, h, q_idx, kv_idx: kv_idx < offsets[b + 1] - offsets[b],
                lambda b, h, q_idx, kv_idx: kv_idx < query.offsets()[b + 1] - held[b],
            ):
                flex_attention(query, query, query, mask_mod=mask)
            flex_attention(query, query, query, block_mask=saccade.jagged.block_mask_of(causal, offsets))
            known = sequences_of(ragged_of(query), ragged_of(query))
            assert len(known._made) == 3
            return [weakref.ref(offsets), weakref.ref(known)]

        gone = attend()
        gc.collect()
        assert [one() for one in gone] == [None, None]

    def test_it_holds_nothing_of_the_users(self) -> None:
        query = nest(torch.randn(9, 2, DIM), offsets_of((4, 5)))

        def attend() -> list[weakref.ref[Any]]:
            held = torch.tensor([1, 2])
            mask = lambda b, h, q_idx, kv_idx: kv_idx < held[b]  # noqa: E731
            blocks = create_block_mask(document(ids=(ids := torch.arange(9))), None, None, 9, 9, "cpu")
            flex_attention(query, query, query, mask_mod=mask)
            flex_attention(query, query, query, block_mask=blocks)
            return [weakref.ref(one) for one in (held, mask, ids, blocks)]

        gone = attend()
        gc.collect()
        assert [one() for one in gone] == [None] * 4

    def test_users_names_stay(self) -> None:
        query = nest(torch.randn(9, 2, DIM), offsets_of((4, 5)))
        lengths_held = torch.tensor([1, 2])
        for _ in range(2):
            told = explain(query, query, query, mask_mod=lambda b, h, q, k: k < lengths_held[b])
            assert "lengths_held[" in str(told)

    def test_only_the_latest_masks_are_kept(self) -> None:
        query = nest(torch.randn(9, 2, DIM), offsets_of((4, 5)))
        for width in range(1, 20):
            flex_attention(query, query, query, mask_mod=sliding_window(width))
        assert len(sequences_of(ragged_of(query), ragged_of(query))._made) == 8

    def test_programs_are_masks_and_scores_too(self) -> None:
        leaves = leaves_of((30, 40))
        query, key, value = nested(leaves, (30, 40))
        expected = flex_attention(query, key, value, near, mask_mod=causal).values()
        for _ in range(2):
            found = flex_attention(query, key, value, saccade.trace(near), mask_mod=saccade.trace(causal))
            assert torch.equal(found.values(), expected)

    def test_no_function_seems_to_be_behind_a_program(self) -> None:
        query, key, value = nested(leaves_of((30, 40)), (30, 40))
        program = saccade.trace(causal)
        for mask, is_function in ((causal, True), (program, False), (causal, True), (program, False)):
            told = explain(query, key, value, mask_mod=mask)
            reasons = " ".join(told.reasons["flex_attention"])
            assert ("the block_mask is a traced Program" in reasons) is not is_function


FAULTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no tensor": (
        lambda: flex_attention(nest(torch.zeros(3, 2, 8), offsets_of([3])), [1], [2]),
        ArgumentTypeError,
        "key must be a torch tensor, got list",
    ),
    "a dense key": (
        lambda: flex_attention(nest(torch.zeros(3, 2, 8), offsets_of([3])), *[torch.zeros(1, 2, 3, 8)] * 2),
        ArgumentTypeError,
        r"key must be a nested tensor as the others are, got a dense one of shape \[1, 2, 3, 8\]",
    ),
    "a dense query": (
        lambda: flex_attention(torch.zeros(1, 2, 3, 8), *[nest(torch.zeros(3, 2, 8), offsets_of([3]))] * 2),
        ArgumentTypeError,
        "query must be a nested tensor",
    ),
    "strided": (
        lambda: flex_attention(*[torch.nested.nested_tensor([torch.zeros(2, 3, 8)])] * 3),
        UnsupportedError,
        "must have the layout torch.jagged, got query.layout=torch.strided.*layout=torch.jagged",
    ),
    "not transposed": (
        lambda: flex_attention(*[nest(torch.zeros(3, 2, 8), offsets_of([3])).transpose(1, 2)] * 3),
        ShapeError,
        r"ragged in dimension 2, got shape=\[1, j\d+, 2, 8\], ragged in dimension 1.*query.transpose\(1, 2\)",
    ),
    "three dimensions": (
        lambda: flex_attention(
            *[torch.nested.nested_tensor_from_jagged(torch.zeros(3, 8), offsets_of([3]))] * 3
        ),
        ShapeError,
        "must be nested as .*give it the missing dimensions",
    ),
    "another number of sequences": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (1, 3), (4,))),
        ShapeError,
        "same number of sequences, got 2 and 1",
    ),
    "a value of other lengths": (
        lambda: flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 2 + [torch.zeros(4, 2, 8)], (1, 3))[:2],
            nest(torch.zeros(4, 2, 8), offsets_of((2, 2))),
        ),
        ShapeError,
        r"same lengths at the same places, got key.offsets\(\)=\[0, 1, 4\] and value.offsets\(\)=\[0, 2, 4\]",
    ),
    "offsets beyond the values": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (3, 3))),
        ArgumentError,
        "offsets of query must end within its 4 values, got 6",
    ),
    "weights": (
        lambda: flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 3, (1, 3)), return_aux=AuxRequest(weights=True)
        ),
        UnsupportedError,
        r"attention weights of nested tensors differ in two lengths.*query.unbind\(\)",
    ),
    "heads": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8), *[torch.zeros(4, 1, 8)] * 2], (1, 3))),
        ShapeError,
        "same number of heads, got Hq=2 and Hkv=1",
    ),
}


@pytest.mark.parametrize(("call", "error", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_used_is_refused(
    call: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_mask_with_a_gradient_is_refused_by_its_own_name() -> None:
    table = torch.zeros(4, requires_grad=True)
    with pytest.raises(ArgumentError, match="mask_mod must read tensors without a gradient, got table"):
        flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 3, (1, 3)), mask_mod=lambda b, h, q, kv: table[kv] > 0
        )


def test_offsets_without_numbers_are_refused() -> None:
    with (
        FakeTensorMode(shape_env=ShapeEnv()),
        pytest.raises(UnsupportedError, match="planned from the numbers in their offsets"),
    ):
        flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (1, 3)))


def test_what_others_watch_is_not_kept() -> None:
    offsets = offsets_of((4, 5))
    cut = Ragged(offsets, None, 9)
    with FlopCounterMode(display=False):
        watched = sequences_of(cut, cut)
    assert sequences_of(cut, cut) is not watched
    assert sequences_of(cut, cut) is sequences_of(cut, cut)


def test_explain_tells_of_the_packed_call() -> None:
    query, key, value = nested(leaves_of((4, 5)), (4, 5))
    told = explain(query, key, value, mask_mod=causal)
    assert told.backend == "cpu"
    assert f"query [1, {HEADS}, 9, {DIM}]" in str(told)
    assert isinstance(told.blocks, BlockMask)
    assert told.blocks.mask_mod == jagged(causal, offsets_of((4, 5)))


class TestCompiled:
    def leaves(self) -> list[Tensor]:
        """[B, j, H, D], nested themselves."""
        offsets = offsets_of((4, 5))
        return [
            torch.nested.nested_tensor_from_jagged(one.detach(), offsets).requires_grad_()
            for one in leaves_of((4, 5))
        ]

    # Dynamo looks at .grad of what it is given, nested tensors too.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_a_graph_ends_at_the_call(self) -> None:
        leaves = self.leaves()

        def layer(*tensors: Tensor) -> Tensor:
            query, key, value = (one.transpose(1, 2) for one in tensors)
            return flex_attention(query * 2, key, value, near, mask_mod=causal) + 1

        expected = layer(*leaves).values()
        found = torch.compile(layer, backend="aot_eager")(*leaves).values()
        torch.testing.assert_close(found, expected)
        mine, theirs = (torch.autograd.grad(one.square().sum(), leaves) for one in (found, expected))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one.values(), other.values())

    def test_a_whole_graph_is_refused_with_the_reason(self) -> None:
        compiled = torch.compile(flex_attention, backend="eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph=True"):
            compiled(*(one.detach().transpose(1, 2) for one in self.leaves()))
