"""What operands become as arguments of kernels: addresses, steps and numbers by name."""

from __future__ import annotations

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.attention.request import Arguments, read_request
from saccade.backends.triton import operands as operands_module
from saccade.backends.triton.arguments import (
    Capture,
    Values,
    fill_captures,
    fill_rows,
    fill_seed,
    fill_tensor,
    fill_written,
    template,
)
from saccade.backends.triton.operands import OperandReader
from saccade.codegen.program.which import Which
from saccade.errors import OperandError, UnsupportedError
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.dtype import DType
from saccade.masks import sliding_window
from saccade.problem import AttentionProblem, ModFacts
from saccade.tracing import trace

CPU = torch.device("cpu")


def put(tensor: Tensor, name: str = "query") -> tuple[Tensor, list[object], bool]:
    """What becomes of a tensor: itself or a copy, its steps, and whether it is aligned."""
    values: Values = {}
    aligned = fill_tensor(values, name, tensor)
    held = values.pop(name)
    assert isinstance(held, Tensor)
    assert torch.equal(held, tensor)
    return held, list(values.values()), aligned


class TestTensors:
    def test_are_read_where_they_lie(self) -> None:
        tensor = torch.randn(2, 7, 3, 16).transpose(1, 2)  # [B, H, N, D], as a projection leaves it
        held, steps, aligned = put(tensor)
        assert held is tensor
        assert steps == [7 * 48, 16, 48]
        assert aligned

    def test_have_names_by_their_axis(self) -> None:
        values: Values = {}
        for name in ("grad_query", "grad_key"):
            fill_tensor(values, name, torch.zeros(1, 2, 3, 8))
        assert list(values) == [
            *("grad_query", "grad_query_b", "grad_query_h", "grad_query_q"),
            *("grad_key", "grad_key_b", "grad_key_h", "grad_key_k"),
        ]

    def test_take_no_step_along_an_axis_of_one(self) -> None:
        tensor = torch.randn(1, 5, 1, 8).as_strided((1, 5, 1, 8), (3, 8, 5, 1))
        assert put(tensor)[1:] == ([0, 8, 0], True)

    def test_that_are_expanded_are_not_copied(self) -> None:
        tensor = torch.randn(1, 2, 5, 8).expand(3, -1, -1, -1)
        held, steps, _ = put(tensor)
        assert held is tensor
        assert steps == [0, 40, 8]

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.randn(1, 2, 8, 5).mT,
            torch.randn(1, 2, 5, 16)[..., ::2],
            torch._neg_view(torch.randn(1, 2, 5, 8)),
            torch.zeros(1, 1, 1, 1).expand(1, 2, 5, 8),
            torch._efficientzerotensor((1, 2, 5, 8), dtype=torch.float32),
        ],
        ids=["transposed", "every second element", "negated", "a single number", "zeros left out"],
    )
    def test_whose_rows_are_no_consecutive_numbers_are_copied(self, tensor: Tensor) -> None:
        held, steps, aligned = put(tensor)
        assert held is not tensor
        assert not held.is_neg()
        assert held.data_ptr()
        assert steps == [0, 40, 8]
        assert aligned

    def test_whose_rows_are_far_apart_are_copied(self) -> None:
        storage = torch.empty(2 * 2**23 + 8, dtype=torch.float16)  # never touched, so it takes no memory
        near = storage.as_strided((1, 1, 2, 8), (0, 0, 2**23 - 8, 1)).zero_()
        far = storage.as_strided((1, 1, 2, 8), (0, 0, 2**23, 1)).zero_()
        assert put(near)[0] is near
        assert put(far)[0] is not far
        assert put(far)[1] == [0, 0, 8]
        # Of one row there is no next.
        alone = storage.as_strided((1, 2, 1, 8), (0, 8, 2**23, 1)).zero_()
        assert put(alone)[0] is alone

    def test_whose_rows_are_the_same_are_not_copied(self) -> None:
        tensor = torch.randn(1, 2, 1, 8).expand(-1, -1, 5, -1)
        held, steps, aligned = put(tensor)
        assert held is tensor
        assert steps == [0, 8, 0]
        assert aligned

    def test_that_are_written_are_never_copied(self) -> None:
        """A row of queries is that of all heads and batches, where these lie inside it."""
        far = torch.empty(2 * 2**23 + 8, dtype=torch.float16).as_strided((1, 1, 2, 8), (0, 0, 2**23, 1))
        values: Values = {}
        fill_written(values, "out", far)
        assert values["out"] is far
        assert values["out_q"] == 2**23

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.randn(81)[1:].view(1, 2, 5, 8),
            torch.randn(1, 2, 5, 12)[..., :8],
            torch.randn(1, 2 * 44)[0].as_strided((1, 2, 5, 8), (0, 44, 8, 1)),
        ],
        ids=["address", "rows", "heads"],
    )
    def test_that_lie_aslant(self, tensor: Tensor) -> None:
        held, _, aligned = put(tensor)
        assert held is tensor
        assert not aligned

    def test_without_memory_are_refused(self) -> None:
        tensor = torch.randn(1, 2, 5, 8)
        tensor.untyped_storage().resize_(0)
        with pytest.raises(
            OperandError, match=re.escape("expected the elements of the output's gradient in")
        ):
            fill_tensor({}, "grad_out", tensor)


class TestRows:
    def test_are_dense_and_float32(self) -> None:
        values: Values = {}
        given = torch.randn(3, 4, dtype=torch.float64).t()
        fill_rows(values, "lse", given)
        held = values["lse"]
        assert isinstance(held, Tensor)
        assert held.dtype is torch.float32
        assert held.is_contiguous()
        assert torch.equal(held, given.float())

    def test_lie_on_16_bytes(self) -> None:
        values: Values = {}
        fill_rows(values, "lse", torch.arange(9.0)[1:])
        held = values["lse"]
        assert isinstance(held, Tensor)
        assert held.data_ptr() % 16 == 0
        assert held.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


class TestCaptures:
    def test_are_named_by_program_and_slot(self) -> None:
        table = torch.arange(12).view(3, 4)
        values: Values = {}
        captures = (Capture.of(table, CPU), Capture.of(table.t(), CPU))
        fill_captures(values, Which.MASK_MOD, captures)
        assert [capture.layout.is_dense for capture in captures] == [True, False]
        assert {name: value for name, value in values.items() if isinstance(value, int)} == {
            "mask_mod_c0_s0": 4,
            "mask_mod_c0_s1": 1,
            "mask_mod_c1_s0": 1,
            "mask_mod_c1_s1": 4,
        }

    def test_of_one_column_are_dense(self) -> None:
        assert Capture.of(torch.zeros(3, 4)[:, 1:2].t().t(), CPU).layout.is_dense
        assert Capture.of(torch.tensor(3), CPU).layout.is_dense

    def test_that_hold_nothing_have_an_element_that_no_step_leaves(self) -> None:
        capture = Capture.of(torch.empty(0, 3), CPU)
        assert capture.tensor.numel() == 1
        assert capture.strides == (0, 0)
        assert capture.layout == (False, False, False)
        assert Capture.of(torch.empty(0, 2**31), CPU).layout.is_wide  # an index is held against its sizes

    @pytest.mark.parametrize(
        ("shape", "strides", "is_wide"),
        [
            ((2, 9), (2**31 - 9, 1), False),  # the last stands 2**31 - 1 elements after the first
            ((2, 9), (2**31 - 8, 1), True),
            ((3, 9), (2**30, 1), True),  # though each stride has 32 bits
            ((1, 9), (2**40, 1), False),  # no step is taken
            ((2**31 - 1,), (0,), False),
            ((2**31,), (0,), True),
            ((2**20, 2**20), (0, 1), False),
        ],
    )
    def test_that_reach_far_are_counted_in_64_bits(
        self, shape: tuple[int, ...], strides: tuple[int, ...], is_wide: bool
    ) -> None:
        """A byte each, never touched, so that they take no memory."""
        size = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        capture = Capture.of(torch.empty(size, dtype=torch.int8).as_strided(shape, strides), CPU)
        assert capture.layout.is_wide is is_wide
        if not is_wide:
            assert max(capture.strides) < 2**31

    @pytest.mark.parametrize(
        ("capture", "is_aligned"),
        [
            (torch.zeros(6, 16), True),
            (torch.zeros(6, 16)[:, :3], True),
            (torch.zeros(6, 9), False),
            (torch.zeros(1, 9), True),
            (torch.zeros(6, 16).t(), False),  # a kernel is given its last stride
            (torch.zeros(97)[1:].view(6, 16), False),
            (torch.zeros(9), True),
            (torch.tensor(3), True),
            (torch.zeros(1).expand(5, 5), True),
        ],
    )
    def test_what_is_promised_of_them(self, capture: Tensor, is_aligned: bool) -> None:
        assert Capture.of(capture, CPU).layout.is_aligned is is_aligned

    @pytest.mark.parametrize(
        "array",
        [np.arange(6)[::-2], np.arange(3, dtype=">i4"), np.float32(2.5)],
        ids=["reversed", "big", "0-d"],
    )
    def test_of_numpy(self, array: np.ndarray) -> None:
        capture = Capture.of(array, CPU)
        np.testing.assert_array_equal(capture.tensor.numpy(), array)
        assert capture.layout.is_dense

    def test_of_no_dimension_come_from_anywhere(self) -> None:
        capture = Capture.of(torch.tensor(2**60 + 1), torch.device("meta"))
        assert capture.tensor.device.type == "meta"
        assert capture.tensor.dtype is torch.int64

    @pytest.mark.parametrize("array", [torch.tensor(3.0), np.arange(3)], ids=["tensor", "numpy"])
    def test_on_the_host_are_no_part_of_a_graph(
        self, array: Tensor | np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        told = "a mod reads an array in host memory, which a replay does not read again; move it to cuda:0"
        with pytest.raises(UnsupportedError, match=told):
            Capture.of(array, torch.device("cuda", 0))
        assert Capture.of(array, CPU).layout.is_dense

    def test_are_read_without_their_sign_bit(self) -> None:
        capture = Capture.of(torch._neg_view(torch.ones(2)), CPU)
        assert not capture.tensor.is_neg()
        assert capture.tensor.tolist() == [-1, -1]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**63 - 1, 0x0123456789ABCDEF])
def test_a_seed_is_two_words(seed: int) -> None:
    values: Values = {}
    fill_seed(values, torch.tensor(seed))
    low, high = values["seed_low"], values["seed_high"]
    assert isinstance(low, int)
    assert isinstance(high, int)
    assert -(2**31) <= low < 2**31
    assert 0 <= high < 2**31
    assert (low % 2**32) + (high << 32) == seed


def test_a_seed_is_no_part_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.randn(1, 2, 5, 8)

    def refuse(device: torch.device, lacking: str, advice: str) -> None:
        raise UnsupportedError(f"{lacking}; {advice}")

    monkeypatch.setattr(operands_module, "require_no_capture", refuse)
    for dropout_p, expected in (
        (0.0, nullcontext()),
        (0.5, pytest.raises(UnsupportedError, match=r"the seed of dropout is drawn .*; pass dropout_p=0\.0")),
    ):
        request = read_request(Arguments(query, query, query, dropout_p=dropout_p))
        with expected:
            OperandReader(request.problem).read(request.drawn())


def test_what_the_problem_fixes() -> None:
    window = trace(sliding_window(8))
    mask = ModFacts(window.structure, window.numbers, ((5, 6), ()))
    problem = AttentionProblem(
        "cpu", DType.FLOAT32, 2, 1, 8, 2, 30, 40, 64, 32, scale=0.125, mask_mod=mask, dropout_p=0.3
    )
    values = template(problem, {Which.MASK: mask})
    sizes = ("batch", "kv_batch", "q_heads", "kv_heads", "group", "q_len", "kv_len")
    assert [values[name] for name in sizes] == [2, 1, 8, 2, 4, 30, 40]
    assert (values["mask_c0_n0"], values["mask_c0_n1"]) == (5, 6)
    assert values["mask_n0"] == window.numbers[0]
    assert values["keep_threshold"] == drop_threshold(0.3)
    assert values["keep_factor"] == 1 / keep_rate(0.3)
