"""The output's dimensions in memory follow the query's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.backends.layout import like_query, strides_like


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_every_order(order: tuple[int, ...]) -> None:
    back = sorted(range(3), key=order.__getitem__)
    shape = (2, 3, 4)
    query = torch.empty([shape[dim] for dim in order] + [8]).permute(*back, 3)
    out = torch.randn(2, 3, 4, 5)
    laid = like_query(out, query)
    assert torch.equal(laid, out)
    assert laid.permute(*order, 3).is_contiguous()


def test_what_lies_right_already_is_not_copied() -> None:
    out = torch.randn(2, 3, 4, 5)
    assert like_query(out, torch.empty(2, 3, 4, 8)).data_ptr() == out.data_ptr()


def test_a_query_whose_last_dimension_is_not_innermost() -> None:
    query = torch.empty(2, 3, 8, 4).transpose(2, 3)
    assert like_query(torch.randn(2, 3, 4, 5), query).is_contiguous()


def test_dimensions_that_a_query_repeats_keep_their_order() -> None:
    query = torch.empty(8).expand(2, 3, 4, 8)
    assert like_query(torch.randn(2, 3, 4, 5), query).is_contiguous()


@given(
    st.tuples(*[st.sampled_from([0, 1, 2, 3])] * 3, st.sampled_from([1, 5])),
    st.permutations(range(3)),
    st.sampled_from([1, 2]),
)
def test_the_strides_are_known_beforehand(shape: tuple[int, ...], order: list[int], step: int) -> None:
    memory = [shape[dim] * step for dim in order]
    back = [order.index(dim) for dim in range(3)]
    query = torch.empty(*memory, 4).permute(*back, 3)[::step, ::step, ::step]
    assert query.shape[:3] == shape[:3]
    assert strides_like(shape, query.stride()) == like_query(torch.empty(shape), query).stride()
