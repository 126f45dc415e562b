"""What masks and scores share: the test that something is a mod, parameters that are integers, tables."""

from __future__ import annotations

import pytest
import torch

from saccade import causal, create_block_mask, dense, trace
from saccade.errors import ArgumentError, ArgumentTypeError, ModError
from saccade.mod_value import (
    as_stored,
    is_integral,
    read_table,
    require_at_least,
    require_mod,
    require_tensor,
)
from saccade.scores import bias


def test_anything_that_can_be_called_may_be_a_mod():
    require_mod(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, "here()")
    require_mod(torch.ge, "here()")


@pytest.mark.parametrize(
    ("mod", "message"),
    [
        (None, r"here\(\) expects mods, functions of index values.*got the NoneType None"),
        ("causal", "got the str 'causal'"),
        (torch.ones(9, 9), r"got the tensor float32\[9, 9\]; a bool table is the mask dense\(table\)"),
        (dict, r"here\(\): dict is a factory, not yet a mod; call it first: dict\(\.\.\.\)"),
    ],
)
def test_what_is_no_mod_is_refused(mod, message):
    with pytest.raises(ModError, match=message):
        require_mod(mod, "here()")


def test_a_block_mask_in_place_of_a_mod_is_told_where_it_goes():
    ours = create_block_mask(causal, None, None, 9, 9, device="cpu")
    for given in (ours, ours.to_torch()):
        with pytest.raises(
            ModError, match=r"here\(\) expects mods.*got a BlockMask: pass it as block_mask=, or"
        ):
            require_mod(given, "here()")


def test_a_function_in_place_of_a_tensor_is_told_where_it_goes():
    for given in (causal, lambda b, h, q_idx, kv_idx: q_idx >= kv_idx):
        with pytest.raises(
            ArgumentTypeError, match=r"here must be a torch tensor, got .*; a function.* mask_mod="
        ):
            require_tensor(given, "here")
    with pytest.raises(
        ArgumentTypeError, match=r"here must be a torch tensor, got list; make one of it with"
    ):
        require_tensor([1], "here")


def test_an_expanded_table_is_seen_as_it_is_stored():
    table = torch.randn(3, 1, 5)
    expanded = table.expand(2, 3, 4, 5)
    stored = as_stored(expanded)
    assert stored.shape == (1, 3, 1, 5)
    assert stored.data_ptr() == table.data_ptr()
    assert as_stored(table) is table
    for mod in (dense(expanded), dense((table > 0).expand(2, 3, 4, 5)), bias(expanded)):
        assert [capture.numel() for capture in trace(mod).captures] == [15]
    learned = torch.randn(5, requires_grad=True).expand(4, 5)
    assert as_stored(learned) is learned
    assert [capture.shape for capture in trace(bias(learned)).captures] == [(4, 5)]


def test_integers_are_checked():
    require_at_least(2, 2, "here(): n")
    require_at_least(None, -5, "here(): n")
    with pytest.raises(ArgumentError, match=r"here\(\): n must be at least 2, got 1"):
        require_at_least(2, 1, "here(): n")
    for value, shown in ((True, "bool True"), (2.0, "float 2.0"), (torch.tensor(2), r"Tensor tensor\(2\)")):
        with pytest.raises(ArgumentTypeError, match=rf"here\(\): n must be an integer, got {shown}"):
            require_at_least(2, value, "here(): n")


def test_integral_means_neither_bool_nor_floating():
    dtypes = (torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.float16, torch.complex64)
    assert [is_integral(torch.zeros(1, dtype=dtype)) for dtype in dtypes] == [True] * 4 + [False] * 3


def test_a_table_is_read_without_a_copy_and_through_autograd():
    table = torch.randn(1, 3, 1, 5, requires_grad=True)
    h, q_idx, kv_idx = torch.arange(3)[:, None, None], torch.arange(4)[:, None], torch.arange(5)
    read = read_table(table, torch.tensor(0), h, q_idx, kv_idx)
    assert torch.equal(read.expand(3, 4, 5), table[0].expand(3, 4, 5))
    read.sum().backward()
    assert torch.equal(table.grad, torch.ones_like(table))
    assert read_table(table[:, :1, :, :1], *[torch.tensor(0)] * 4).shape == ()
