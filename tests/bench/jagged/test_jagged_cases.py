"""Which jagged batches and cases are measured, and what a user may choose among them."""

from __future__ import annotations

import pytest
import torch

from saccade.bench.jagged.batches import BATCHES, Batch
from saccade.bench.jagged.cases import JaggedCase, Selection
from saccade.errors import ArgumentError


def test_the_batches_are_the_texts_and_a_thousand_short_ones() -> None:
    text, short = BATCHES["text"], BATCHES["short"]
    assert (text.sequences, text.longest, text.heads, text.head_dim) == (16, 1024, 16, 64)
    assert (short.sequences, short.longest, short.heads, short.head_dim) == (1000, 50, 8, 64)
    for batch in (text, short):
        assert len(batch.lengths) == batch.sequences
        assert 1 <= int(batch.lengths.min()) <= int(batch.lengths.max()) <= batch.longest
    assert (int(short.lengths.min()), int(short.lengths.max())) == (1, 50)


def test_lengths_and_inputs_are_the_same_in_every_run_and_offsets_are_new_tensors() -> None:
    first, second = Batch(5, 9, 2, 4), Batch(5, 9, 2, 4)
    assert torch.equal(first.lengths, second.lengths)
    assert first.offsets is not first.offsets
    assert first.offsets.tolist() == [0, *first.lengths.cumsum(0).tolist()]
    for one, other in zip(first.inputs(torch.bfloat16), second.inputs(torch.bfloat16), strict=True):
        assert torch.equal(one, other)
        assert (one.dtype, tuple(one.shape)) == (torch.bfloat16, (1, 2, int(first.offsets[-1]), 4))
        assert one[0].transpose(0, 1).is_contiguous()  # as values of a nested tensor


def test_the_list_and_what_replaces_it() -> None:
    assert [str(case) for case in Selection().cases()] == [
        f"{batch} {pattern} {dtype}"
        for dtype in ("float32", "bfloat16")
        for batch in ("text", "short")
        for pattern in ("full", "causal")
    ]
    chosen = Selection(("short",), ("full",), ("bfloat16",))
    assert chosen.cases() == (JaggedCase("short", "full", "bfloat16"),)


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="batch must be one of text, short, got 'long'"):
        Selection(batches=("long",))
    with pytest.raises(ArgumentError, match=r"no pattern called 'casual'; did you mean causal\?"):
        Selection(patterns=("casual",))
    with pytest.raises(ArgumentError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        Selection(dtypes=("float16",))
