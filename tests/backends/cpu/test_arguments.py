"""Tensors as addresses: what has no memory is refused or written out, what lies across is copied."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import oracle
from saccade import AuxRequest, flex_attention
from saccade.backends.storage import in_memory
from saccade.errors import OperandError

LENGTHS = [100, 2]  # of queries: the forward and the decode kernel


def tensors(q_len: int) -> list[Tensor]:
    return [torch.randn(1, 2, length, 16) for length in (q_len, 100, 100)]


def across(tensor: Tensor) -> Tensor:
    """The same numbers, neighbours in memory along the third dimension."""
    return tensor.transpose(2, 3).contiguous().transpose(2, 3)


def freed(tensor: Tensor, left: int = 0) -> Tensor:
    tensor.untyped_storage().resize_(left)
    return tensor


@pytest.mark.parametrize("q_len", LENGTHS)
class TestMemory:
    @pytest.mark.parametrize("name", ["query", "key", "value"])
    @pytest.mark.parametrize("left", [0, 60, -4])
    @pytest.mark.parametrize("lay", [torch.clone, across])
    def test_operands(self, q_len: int, name: str, left: int, lay: Callable[[Tensor], Tensor]) -> None:
        given = dict(zip(("query", "key", "value"), tensors(q_len), strict=True))
        bytes_ = given[name].nbytes
        left = left if left >= 0 else bytes_ + left
        given[name] = freed(lay(given[name]), left)
        message = f"elements of {name} in memory, and its storage has {left} bytes where they need {bytes_} "
        with pytest.raises(OperandError, match=re.escape(message)):
            flex_attention(*given.values(), backend="cpu")

    def test_tables(self, q_len: int) -> None:
        table = freed(torch.randn(100))
        with pytest.raises(RuntimeError, match="a tensor that a mod reads in memory, and its storage has 0"):
            flex_attention(
                *tensors(q_len), lambda score, b, h, q_idx, kv_idx: score + table[kv_idx], backend="cpu"
            )

    def test_sinks(self, q_len: int) -> None:
        with pytest.raises(OperandError, match="elements of sinks in memory"):
            flex_attention(*tensors(q_len), sinks=freed(torch.zeros(2)), backend="cpu")

    def test_zeros_that_torch_leaves_out(self, q_len: int) -> None:
        query, key, value = tensors(q_len)
        nothing, table = torch._efficientzerotensor(key.shape), torch._efficientzerotensor(100)
        for keys, values in ((nothing, value), (key, nothing)):
            found = flex_attention(
                query, keys, values, lambda score, b, h, q_idx, kv_idx: score + table[kv_idx], backend="cpu"
            )
            expected = oracle.attention(query, keys.clone(), values.clone()).out
            torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
        sunk = flex_attention(query, key, value, sinks=torch._efficientzerotensor(2), backend="cpu")
        assert torch.equal(sunk, flex_attention(query, key, value, sinks=torch.zeros(2), backend="cpu"))


def test_a_tensor_without_elements_needs_no_memory() -> None:
    empty = torch.empty(0, 3)
    assert in_memory(empty, "it") is empty


def test_the_end_of_a_storage_may_be_used() -> None:
    query = torch.randn(1, 2, 100, 16)
    ending = torch.randn(5000)[-3200:].view(1, 2, 100, 16)
    spread = torch.randn(2, 16)[None, :, None].expand(1, 2, 100, 16)
    found = flex_attention(query, ending, spread, backend="cpu")
    expected = oracle.attention(query, ending, spread).out
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_copies_alone() -> None:
    query = torch.randn(1, 2, 8, 64)
    key = across(torch.randn(1, 2, 20_000, 64))  # so large that torch would copy it on all threads
    expected = flex_attention(query, key, key, backend="cpu")
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that waits for threads
        found = flex_attention(query, key, key, backend="cpu")
        os._exit(0 if torch.allclose(found, expected, atol=1e-6) and torch.get_num_threads() > 0 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("q_len", LENGTHS)
@pytest.mark.parametrize("sink", [float("inf"), float("nan"), -float("inf")])
def test_a_sink_is_no_maximum(q_len: int, sink: float) -> None:
    given = {"sinks": torch.tensor([sink, 0.0]), "return_aux": AuxRequest(lse=True, max_scores=True)}
    operands = tensors(q_len)
    out, aux = flex_attention(*operands, **given, backend="cpu")
    expected, expected_aux = flex_attention(*operands, **given, backend="eager")
    torch.testing.assert_close(aux.max_scores, expected_aux.max_scores)
    torch.testing.assert_close(aux.lse, expected_aux.lse, equal_nan=True)
    torch.testing.assert_close(out, expected, equal_nan=True)


@pytest.mark.parametrize("q_len", LENGTHS)
@pytest.mark.parametrize("scale", [1e-39, -1e-39, 1e-45, 0.0, 1e38, -3e38])
def test_scales_at_the_ends(q_len: int, scale: float) -> None:
    query, key, value = (tensor / 16 for tensor in tensors(q_len))
    given = {"scale": scale, "return_aux": AuxRequest(lse=True, max_scores=True)}
    out, aux = flex_attention(query, key, value, **given, backend="cpu")
    expected, expected_aux = flex_attention(query, key, value, **given, backend="eager")
    torch.testing.assert_close(aux.max_scores, expected_aux.max_scores)
    torch.testing.assert_close(aux.lse, expected_aux.lse)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("q_len", LENGTHS)
@pytest.mark.parametrize("options", [{"BLOCK_M": 10**20}, {"BLOCK_N": 2**40}, {"BLOCK_M": 10**9}])
def test_enormous_tiles_are_cut(q_len: int, options: dict[str, int]) -> None:
    operands = tensors(q_len)
    found = flex_attention(*operands, kernel_options=options, backend="cpu")
    expected = oracle.attention(*operands).out
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
