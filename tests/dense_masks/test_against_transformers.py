"""Tensors equal those of the installed transformers, bit by bit, on drawn inputs."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import modeling_attn_mask_utils as theirs

import saccade.dense_masks as ours
from saccade.errors import ShapeError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
dtypes = st.sampled_from(DTYPES)
windows = st.none() | st.integers(1, 9)
queries, pasts, batches = st.integers(1, 7), st.integers(0, 6), st.integers(1, 3)

# transformers announces that its module will be removed; that these functions are the same is the point here.
pytestmark = pytest.mark.filterwarnings("ignore:The attention mask API under:FutureWarning")


def assert_same(made: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    """Equal in shape, dtype, values and the signs of zeros."""
    if expected is None:
        assert made is None
        return
    assert made is not None
    assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
    assert torch.equal(made, expected)
    assert torch.equal(made.signbit(), expected.signbit())


@st.composite
def masks_2d(draw, batch: int, kv_len: int, numbers=(0, 1)):
    values = st.lists(st.sampled_from(numbers), min_size=batch * kv_len, max_size=batch * kv_len)
    dtype = draw(st.sampled_from([torch.int64, torch.bool, torch.float32, torch.uint8, torch.float16]))
    mask = torch.tensor(draw(values), dtype=torch.float32).view(batch, kv_len).to(dtype)
    return torch.ones_like(mask) if draw(st.integers(0, 3)) == 0 else mask


@st.composite
def padded(draw, numbers=(0, 1)):
    """batch, q_len, past, mask [batch, past + q_len]"""
    batch, q_len, past = draw(batches), draw(queries), draw(pasts)
    return batch, q_len, past, draw(masks_2d(batch, past + q_len, numbers))


@given(batches, queries, pasts, windows, dtypes)
def test_to_causal_4d(batch, q_len, past, window, dtype):
    made, expected = (
        library.AttentionMaskConverter(True, window).to_causal_4d(batch, q_len, q_len + past, dtype)
        for library in (ours, theirs)
    )
    assert_same(made, expected)
    if expected is not None:
        assert made.stride() == expected.stride()


@given(padded(numbers=(0, 1, 1, 2, -1, 0.5, float("nan"))), windows, st.booleans(), dtypes)
def test_to_4d(case, window, causal, dtype):
    _, q_len, past, mask = case
    assume(causal or window is None)
    made, expected = (
        library.AttentionMaskConverter(causal, window).to_4d(mask, q_len, dtype, q_len + past)
        for library in (ours, theirs)
    )
    assert_same(made, expected)


@given(padded(numbers=(0, 1, 0.9999)), dtypes)
def test_a_2d_mask_of_numbers_is_compared_in_the_dtype_of_the_table(case, dtype):
    *_, mask = case
    for q_len in (None, 3):
        made, expected = (
            library.AttentionMaskConverter._expand_mask(mask, dtype, q_len) for library in (ours, theirs)
        )
        assert_same(made, expected)


@given(batches, queries, pasts, windows, dtypes)
def test_make_and_create_a_causal_mask(batch, q_len, past, window, dtype):
    for call in (
        lambda library: library.AttentionMaskConverter._make_causal_mask(
            (batch, q_len), dtype, "cpu", past, window
        ),
        lambda library: library._create_4d_causal_attention_mask((batch, q_len), dtype, "cpu", past, window),
    ):
        assert_same(call(ours), call(theirs))


@given(padded(), windows, dtypes, st.booleans(), st.booleans())
def test_ignore_causal_mask_sdpa(case, window, dtype, training, given_none):
    batch, q_len, past, mask = case
    mask = None if given_none else mask
    embeds = torch.zeros(batch, q_len, 2, dtype=dtype)
    made, expected = (
        library.AttentionMaskConverter._ignore_causal_mask_sdpa(mask, embeds, past, window, training)
        for library in (ours, theirs)
    )
    assert made is bool(expected)


@given(padded(), windows, dtypes, st.sampled_from(["2d", "4d", "none"]))
def test_prepare_a_causal_mask(case, window, dtype, form):
    batch, q_len, past, mask = case
    embeds = torch.zeros(batch, q_len, 2, dtype=dtype)
    if form == "none":
        mask = None
    elif form == "4d":
        assume(mask.dtype is not torch.bool)  # refused there, taken here
        mask = mask[:, None, None].expand(batch, 1, q_len, q_len + past)
        # A dtype that cannot hold the lowest number is an error there; here the table has the embeddings'.
        assume(mask.dtype is not torch.float16 or dtype is torch.float16)
    for name in ("_prepare_4d_causal_attention_mask", "_prepare_4d_causal_attention_mask_for_sdpa"):
        made, expected = (
            getattr(library, name)(mask, (batch, q_len), embeds, past, window) for library in (ours, theirs)
        )
        assert_same(made, expected)


@given(padded(), dtypes, st.none() | queries)
def test_prepare_a_mask_of_padding_alone(case, dtype, q_len):
    *_, mask = case
    for name in ("_prepare_4d_attention_mask", "_prepare_4d_attention_mask_for_sdpa"):
        made, expected = (getattr(library, name)(mask, dtype, q_len) for library in (ours, theirs))
        assert_same(made, expected)


@given(padded(), dtypes, st.data())
def test_unmask_unattended(case, dtype, data):
    _, q_len, past, mask = case
    lowest = torch.finfo(dtype).min
    table = ours.AttentionMaskConverter(True).to_4d(mask, q_len, dtype, q_len + past)
    rows = data.draw(st.lists(st.booleans(), min_size=q_len, max_size=q_len))
    table = table.masked_fill(torch.tensor(rows)[:, None], lowest)
    table = table[:, 0] if data.draw(st.booleans()) else table
    made, expected = (
        library.AttentionMaskConverter._unmask_unattended(table, lowest) for library in (ours, theirs)
    )
    assert_same(made, expected)


def test_where_results_differ_as_the_documentation_says():
    """A dtype that some releases of theirs overflow on, and a mask of one entry."""
    table = ours.AttentionMaskConverter(True).to_causal_4d(1, 2, 2, torch.float64)
    assert table.tolist() == [[[[0.0, torch.finfo(torch.float64).min], [0.0, 0.0]]]]
    one = torch.ones(1, 1)
    broadcast = theirs.AttentionMaskConverter(True).to_4d(one, 2, torch.float32, 2)
    assert broadcast.shape == (1, 1, 2, 2)
    with pytest.raises(ShapeError, match=r"one entry a key, \[B, 2\], got shape=\[1, 1\]"):
        ours.AttentionMaskConverter(True).to_4d(one, 2, torch.float32, 2)


def test_signatures_are_theirs_with_more_defaults():
    def parameters(function):
        return list(inspect.signature(function).parameters)

    names = [name for name in ours.__all__ if name.startswith("_")]
    assert len(names) == 5
    for name in names:
        assert parameters(getattr(ours, name)) == parameters(getattr(theirs, name)), name
    for name in (
        *("__init__", "to_causal_4d", "to_4d", "_make_causal_mask", "_expand_mask"),
        *("_unmask_unattended", "_ignore_causal_mask_sdpa"),
    ):
        mine, yours = (getattr(library.AttentionMaskConverter, name) for library in (ours, theirs))
        assert parameters(mine) == parameters(yours), name


def test_nothing_here_warns_of_removal():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.AttentionMaskConverter(True).to_causal_4d(1, 2, 2)
