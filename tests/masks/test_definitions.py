"""Every mask against a definition in plain numpy or Python, on drawn sizes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from oracle import visible_pairs
from saccade.masks import (
    causal,
    create_padding_mask,
    dense,
    document,
    local,
    natten,
    padding,
    prefix_lm,
    shift,
    sliding_window,
)

lengths = st.integers(1, 12)
few = st.integers(0, 13)


def shown(mask, q_len, kv_len, batch=1, heads=1):
    """[Q, K] bool numpy array, or [B, H, Q, K] where there is more than one of either."""
    pairs = visible_pairs(mask, batch, heads, q_len, kv_len).numpy()
    return pairs if batch * heads > 1 else pairs[0, 0]


def distance(q_len, kv_len):
    """[Q, K] int: how far the key is before the query."""
    return np.arange(q_len)[:, None] - np.arange(kv_len)


@given(lengths, lengths, few, few)
def test_local_keeps_left_and_one_and_right(q_len, kv_len, left, right):
    far = distance(q_len, kv_len)
    kept = shown(local(left, right), q_len, kv_len)
    assert np.array_equal(kept, (far <= left) & (far >= -right))
    inner = kept[left : max(kv_len - right, 0)]
    assert (inner.sum(axis=1) == left + 1 + right).all()


@given(lengths, lengths, st.integers(1, 13))
def test_sliding_window_keeps_the_last_keys(q_len, kv_len, window):
    kept = shown(sliding_window(window), q_len, kv_len)
    assert np.array_equal(kept, shown(local(window - 1, 0), q_len, kv_len))
    assert (kept[:kv_len].sum(axis=1) == np.minimum(np.arange(min(q_len, kv_len)) + 1, window)).all()


@given(lengths, lengths, few)
def test_prefix_lm_keeps_the_prefix_and_the_past(q_len, kv_len, prefix):
    kept = shown(prefix_lm(prefix), q_len, kv_len)
    assert np.array_equal(kept, (np.arange(kv_len) < prefix) | (distance(q_len, kv_len) >= 0))
    assert np.array_equal(shown(prefix_lm(torch.tensor([prefix, 0])), q_len, kv_len, batch=2)[0, 0], kept)
    assert np.array_equal(shown(prefix_lm(torch.tensor(prefix)), q_len, kv_len), kept)


@given(lengths, lengths, st.integers(-13, 13), st.integers(-13, 13))
def test_shift_moves_the_positions(q_len, kv_len, q, kv):
    moved = distance(q_len, kv_len) + q - kv >= 0
    assert np.array_equal(shown(shift(causal, q=q, kv=kv), q_len, kv_len), moved)
    tensors = shift(causal, q=torch.tensor([q, 0]), kv=torch.tensor(kv))
    assert np.array_equal(shown(tensors, q_len, kv_len, batch=2)[0, 0], moved)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_a_document_is_told_by_ids_lengths_or_starts(sizes):
    total = sum(sizes)
    assume(total)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    expected = owner[:, None] == owner
    starts = [0, *itertools.accumulate(sizes)]
    told = [
        document(torch.tensor(owner)),
        document(torch.tensor(owner * 7 - 3, dtype=torch.int32)),
        document(lengths=sizes),
        document(lengths=torch.tensor(sizes, dtype=torch.int32)),
        document(cu_seqlens=starts),
        document(cu_seqlens=torch.tensor(starts)),
    ]
    for mask in told:
        assert np.array_equal(shown(mask, total, total), expected), mask
    assert (expected.sum(axis=1) == np.array(sizes)[owner]).all()


@given(st.data())
def test_document_ids_need_no_order(data):
    q_len, kv_len = data.draw(lengths), data.draw(lengths)
    q_ids = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=2 * q_len, max_size=2 * q_len)))
    kv_ids = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=kv_len, max_size=kv_len)))
    q_ids = q_ids.reshape(2, q_len)
    mask = document(torch.tensor(q_ids), kv_ids=torch.tensor(kv_ids))
    assert np.array_equal(shown(mask, q_len, kv_len, batch=2)[:, 0], q_ids[:, :, None] == kv_ids)


@given(st.data())
def test_padding_is_told_by_pads_keep_or_lengths(data):
    size = data.draw(lengths)
    kept = data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2))
    side = data.draw(st.sampled_from(["right", "left"]))
    queries = data.draw(st.booleans())
    row = np.arange(size)
    token = np.stack([row < n if side == "right" else row >= size - n for n in kept])
    expected = np.broadcast_to(token[:, None, :], (2, size, size)) & (token[:, :, None] | (not queries))
    where = {"side": side, "kv_len": size} if side == "left" else {}
    told = [
        padding(pads=torch.tensor(~token), queries=queries),
        padding(keep=torch.tensor(token), queries=queries),
        padding(keep=torch.tensor(token).int() * 3, queries=queries),
        padding(lengths=kept, queries=queries, **where),
        padding(lengths=torch.tensor(kept), queries=queries, **where),
    ]
    if queries:
        told.append(create_padding_mask(torch.tensor(~token)))
    for mask in told:
        assert np.array_equal(shown(mask, size, size, batch=2)[:, 0], expected), mask


def test_padded_causal_attention_of_ten_tokens_three_of_them_padding():
    pads = torch.arange(10)[None] >= 7
    expected = np.zeros((10, 10), dtype=bool)
    expected[:7, :7] = np.tri(7, dtype=bool)
    assert np.array_equal(shown(causal & create_padding_mask(pads), 10, 10), expected)


@given(st.lists(st.booleans(), min_size=24, max_size=24), st.sets(st.integers(0, 3)), st.integers(2, 4))
def test_dense_is_its_table_and_axes_of_size_one_broadcast(bits, ones, axes):
    table = np.array(bits).reshape(2, 2, 2, 3)
    table = table[tuple(slice(1) if axis in ones else slice(None) for axis in range(4))]
    table = table[(0,) * (4 - axes)]
    expected = np.broadcast_to(table, (2, 2, 2, 3))
    assert np.array_equal(shown(dense(torch.tensor(table)), 2, 3, batch=2, heads=2), expected)


def neighbours(position: int, size: int, kernel: int, dilation: int) -> set[int]:
    """The coordinates that a query sees along one axis: the kernel's width in its own residue class."""
    mates = [other for other in range(size) if other % dilation == position % dilation]
    first = min(max(mates.index(position) - kernel // 2, 0), len(mates) - kernel)
    return set(mates[first : first + kernel])


@st.composite
def canvases(draw):
    axes = draw(st.integers(1, 3))
    canvas = draw(st.lists(st.integers(1, 7 if axes < 3 else 4), min_size=axes, max_size=axes))
    kernel = [draw(st.integers(1, size)) for size in canvas]
    dilation = [draw(st.integers(1, size // width)) for size, width in zip(canvas, kernel, strict=True)]
    return tuple(canvas), tuple(kernel), tuple(dilation)


@given(canvases())
def test_natten_keeps_the_neighbours_of_each_axis(drawn):
    canvas, kernel, dilation = drawn
    places = list(itertools.product(*map(range, canvas)))
    expected = [
        [
            all(
                k in neighbours(q, *axis)
                for q, k, axis in zip(query, key, zip(*drawn, strict=True), strict=True)
            )
            for key in places
        ]
        for query in places
    ]
    kept = shown(natten(canvas, kernel, dilation), len(places), len(places))
    assert np.array_equal(kept, np.array(expected))
    assert (kept.sum(axis=1) == math.prod(kernel)).all()
    assert kept.diagonal().all()


def test_natten_of_an_image_sees_the_kernel_everywhere():
    kept = shown(natten((20, 33), (7, 4)), 20 * 33, 20 * 33)
    assert (kept.sum(axis=1) == 28).all()
    # Away from the border the window is centred, an even one reaching farther back.
    row = kept[10 * 33 + 16].reshape(20, 33)
    assert np.array_equal(np.argwhere(row.any(axis=1))[:, 0], np.arange(7, 14))
    assert np.array_equal(np.argwhere(row.any(axis=0))[:, 0], np.arange(14, 18))


@pytest.mark.parametrize("number", [5, torch.tensor(5)])
def test_a_number_for_every_axis(number):
    if isinstance(number, int):
        assert natten((8, 9), number) == natten((8, 9), (5, 5)) == natten([8, 9], [5, 5], [1, 1])
        assert natten(8, number) == natten((8,), (5,), 1)
    else:
        assert np.array_equal(shown(prefix_lm(number), 3, 9), shown(prefix_lm(5), 3, 9))
