"""Block masks of nested tensors are kept while what they were made from stays as it was, and no longer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import saccade
from attention.nested_sequences import (
    DIM,
    counted,
    exactly,
    leaves_of,
    near,
    nest,
    nested,
    offsets_of,
    one_by_one,
    one_thread,
)
from saccade import create_block_mask, explain, flex_attention
from saccade.attention import sequences
from saccade.attention.nested import ragged_of
from saccade.attention.sequences import sequences_of
from saccade.backends.cpu import work
from saccade.errors import StaleMaskError
from saccade.masks import causal, document, padding, sliding_window

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")


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
