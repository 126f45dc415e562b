"""R3, "AttentionMaskConverter and 4-D masks": every array of the walk-through, written out.

`M` is "−" of the requirements, `finfo(dtype).min`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import pytest
import torch
import transformers.modeling_attn_mask_utils as theirs
from torch import Tensor

from requirements.arrays_of_r3 import (
    CAUSAL_2_4,
    CAUSAL_4,
    CAUSAL_4_6,
    FIVE,
    PADDED,
    PADDED_4,
    PADDED_PREFIXED,
    PREFIXED,
    WINDOW_1,
    M,
    assert_is,
    written_out,
)
from saccade import dense_masks
from saccade.dense_masks import (
    AttentionMaskConverter,
    _create_4d_causal_attention_mask,
    _prepare_4d_attention_mask,
    _prepare_4d_attention_mask_for_sdpa,
    _prepare_4d_causal_attention_mask,
    _prepare_4d_causal_attention_mask_for_sdpa,
)

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)

causal = AttentionMaskConverter(is_causal=True)


class TestToCausal4d:
    """'`to_causal_4d(batch, q, kv, dtype)`'"""

    @DTYPES
    def test_square(self, dtype: torch.dtype) -> None:
        """'(2,4,4) → [[0,−,−,−],[0,0,−,−],[0,0,0,−],[0,0,0,0]] twice'"""
        assert_is(causal.to_causal_4d(2, 4, 4, dtype), CAUSAL_4, CAUSAL_4, dtype=dtype)

    @DTYPES
    def test_more_keys(self, dtype: torch.dtype) -> None:
        """'(2,2,4) → [[0,0,0,−],[0,0,0,0]]'"""
        assert_is(causal.to_causal_4d(2, 2, 4, dtype), CAUSAL_2_4, CAUSAL_2_4, dtype=dtype)

    def test_one_query(self) -> None:
        """'(2,1,4) → None'"""
        assert causal.to_causal_4d(2, 1, 4, torch.float32) is None

    def test_four_queries_of_six_keys(self) -> None:
        """'(2,4,6) → [[0,0,0,−,−,−],[0,0,0,0,−,−],[0,0,0,0,0,−],[0,0,0,0,0,0]]'"""
        assert_is(causal.to_causal_4d(2, 4, 6, torch.float32), CAUSAL_4_6, CAUSAL_4_6)

    @DTYPES
    def test_sliding_window(self, dtype: torch.dtype) -> None:
        """'sliding_window=1, (2,4,6) → [[−,0,0,−,−,−],...] (window w keeps w+1 keys here)'"""
        converter = AttentionMaskConverter(is_causal=True, sliding_window=1)
        assert_is(converter.to_causal_4d(2, 4, 6, dtype), WINDOW_1, WINDOW_1, dtype=dtype)

    @pytest.mark.parametrize("window", [1, 2, 3, 7])
    def test_a_window_of_w_keeps_w_plus_1_keys(self, window: int) -> None:
        made = AttentionMaskConverter(True, window).to_causal_4d(1, 20, 20, torch.float32)
        assert (made[0, 0] == 0).sum(-1).tolist() == [min(i + 1, window + 1) for i in range(20)]


class TestTo4d:
    """'`to_4d(mask2d, q, dtype, key_value_length)`'"""

    @DTYPES
    def test_five(self, dtype: torch.dtype) -> None:
        """'[[0,0,0,1,1]], 5, 5 → rows 0-2 all −, row 3 [−,−,−,0,−], row 4 [−,−,−,0,0]'"""
        mask = torch.tensor([[0, 0, 0, 1, 1]])
        assert_is(causal.to_4d(mask, 5, dtype, key_value_length=5), FIVE, dtype=dtype)
        assert_is(causal.to_4d(mask, 5, dtype, 5), FIVE, dtype=dtype)

    @DTYPES
    def test_four_queries(self, dtype: torch.dtype) -> None:
        """'mask [[0,1,1,1],[1,1,1,1]]: q=4 → [[−,−,−,−],[−,0,−,−],[−,0,0,−],[−,0,0,0]] and causal'"""
        assert_is(causal.to_4d(PADDED, 4, dtype, 4), PADDED_4, CAUSAL_4, dtype=dtype)

    def test_one_query(self) -> None:
        """'q=1 → [[−,0,0,0]] and zeros'"""
        assert_is(causal.to_4d(PADDED, 1, torch.float32, 4), [[M, 0, 0, 0]], [[0, 0, 0, 0]])

    def test_a_prefix_of_two_ones(self) -> None:
        """'with a prefix of 2 ones (q=4, kv=6) → [[0,0,−,−,−,−],...] and causal after the prefix'"""
        assert_is(causal.to_4d(PREFIXED, 4, torch.float32, 6), PADDED_PREFIXED, CAUSAL_4_6)

    def test_bidirectional(self) -> None:
        """'bidirectional q=4 → [−,0,0,0] in every row and zeros'"""
        converter = AttentionMaskConverter(is_causal=False)
        assert_is(converter.to_4d(PADDED, 4, torch.float32), [[M, 0, 0, 0]] * 4, [[0, 0, 0, 0]] * 4)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32], ids=str)
    def test_whatever_the_type_of_the_table(self, dtype: torch.dtype) -> None:
        assert_is(causal.to_4d(PADDED.to(dtype), 4, torch.float32, 4), PADDED_4, CAUSAL_4)


class TestCalls:
    """'Functions take `dtype` and `device` where transformers does, `dtype` defaulting to float32'"""

    def test_dtype_is_float32_unless_given(self) -> None:
        assert_is(causal.to_causal_4d(2, 4, 4), CAUSAL_4, CAUSAL_4)
        assert_is(causal.to_4d(PADDED, 4, key_value_length=4), PADDED_4, CAUSAL_4)
        assert_is(AttentionMaskConverter._make_causal_mask((1, 4)), CAUSAL_4)
        assert_is(AttentionMaskConverter._expand_mask(torch.tensor([[0, 1]])), [[M, 0], [M, 0]])
        assert_is(_prepare_4d_attention_mask(torch.tensor([[0, 1]])), [[M, 0], [M, 0]])
        assert_is(_create_4d_causal_attention_mask((1, 4)), CAUSAL_4)

    def test_device_is_taken(self) -> None:
        made = causal.to_causal_4d(2, 4, 4, torch.float32, device="meta")
        assert made.device.type == "meta"
        assert _create_4d_causal_attention_mask((1, 4), torch.float32, "meta").device.type == "meta"

    def test_an_int_in_the_place_of_dtype_is_an_error_that_tells_the_keyword(self) -> None:
        """'an int in `to_4d`'s dtype place is an error that suggests `key_value_length=`'"""
        with pytest.raises((TypeError, ValueError), match="key_value_length="):
            causal.to_4d(torch.tensor([[0, 0, 0, 1, 1]]), 5, 5)  # type: ignore[arg-type]

    def test_the_five_argument_call(self) -> None:
        """'the five-argument call `_prepare_4d_causal_attention_mask(mask, [2, 4], embeds, 0, None)` runs'"""
        embeds = torch.zeros(2, 4, 8)
        assert_is(_prepare_4d_causal_attention_mask(PADDED, [2, 4], embeds, 0, None), PADDED_4, CAUSAL_4)

    def test_the_repr(self) -> None:
        """'the repr is `AttentionMaskConverter(is_causal=True, sliding_window=None)`'"""
        assert repr(causal) == "AttentionMaskConverter(is_causal=True, sliding_window=None)"
        windowed = AttentionMaskConverter(True, sliding_window=3)
        assert repr(windowed) == "AttentionMaskConverter(is_causal=True, sliding_window=3)"

    @pytest.mark.parametrize(
        "name",
        [
            "_create_4d_causal_attention_mask",
            "_prepare_4d_attention_mask",
            "_prepare_4d_attention_mask_for_sdpa",
            "_prepare_4d_causal_attention_mask",
            "_prepare_4d_causal_attention_mask_for_sdpa",
            "AttentionMaskConverter",
            "AttentionMaskConverter.to_causal_4d",
            "AttentionMaskConverter.to_4d",
            "AttentionMaskConverter._make_causal_mask",
            "AttentionMaskConverter._expand_mask",
            "AttentionMaskConverter._unmask_unattended",
            "AttentionMaskConverter._ignore_causal_mask_sdpa",
        ],
    )
    def test_names_and_their_order_are_those_of_transformers(self, name: str) -> None:
        """The agreed interface: 'names and signatures as installed transformers'"""
        mine, other = (parameters_of(module, name) for module in (dense_masks, theirs))
        assert mine[: len(other)] == other


def parameters_of(module: object, name: str) -> list[str]:
    for part in name.split("."):
        module = getattr(module, part)
    return list(inspect.signature(module).parameters)  # type: ignore[arg-type]


class TestParts:
    """'`_make_causal_mask`, `_expand_mask`, `_unmask_unattended`'"""

    @DTYPES
    def test_make_causal_mask(self, dtype: torch.dtype) -> None:
        make, cpu = AttentionMaskConverter._make_causal_mask, torch.device("cpu")
        assert_is(make(torch.Size([2, 4]), dtype, cpu), CAUSAL_4, CAUSAL_4, dtype=dtype)
        assert_is(make((1, 4), dtype, cpu, past_key_values_length=2), CAUSAL_4_6, dtype=dtype)
        assert_is(make((1, 4), dtype, cpu, 2, sliding_window=1), WINDOW_1, dtype=dtype)
        assert_is(make((1, 1), dtype, cpu, 2), [[0, 0, 0]], dtype=dtype)

    @DTYPES
    def test_expand_mask(self, dtype: torch.dtype) -> None:
        """'`_expand_mask` ([[0,0,0,1,1]] → every row [−,−,−,0,0])'"""
        mask = torch.tensor([[0, 0, 0, 1, 1]])
        expand = AttentionMaskConverter._expand_mask
        assert_is(expand(mask, dtype), [[M, M, M, 0, 0]] * 5, dtype=dtype)
        assert_is(expand(mask, dtype, tgt_len=2), [[M, M, M, 0, 0]] * 2, dtype=dtype)

    @DTYPES
    def test_unmask_unattended(self, dtype: torch.dtype) -> None:
        """'(rows that are all − become −0.0; others untouched; ...)'"""
        lowest = torch.finfo(dtype).min
        table = written_out(FIVE, [[0] * 5] * 5, dtype=dtype)
        table[1, 0, 4] = torch.tensor([lowest, -1.5, lowest, lowest, 2.0])
        given = table.clone()
        found = AttentionMaskConverter._unmask_unattended(given, min_dtype=lowest)
        assert torch.equal(given, table)
        expected = table.clone()
        expected[0, 0, :3] = -0.0
        assert torch.equal(found, expected)
        assert torch.signbit(found[0, 0, :3]).all()  # -0.0 equals 0.0
        assert not torch.signbit(found[1, 0, :4]).any()
        assert torch.equal(AttentionMaskConverter._unmask_unattended(table[:, 0], lowest), expected[:, 0])

    def test_unmask_unattended_of_the_walk_throughs_left_padding(self) -> None:
        lowest = torch.finfo(torch.float32).min
        table = written_out([[M, M, M], [M, M, M], [M, M, 0]], [[0, M, M], [0, 0, M], [0, 0, 0]])
        found = AttentionMaskConverter._unmask_unattended(table, lowest)
        assert_is(found, [[0, 0, 0], [0, 0, 0], [M, M, 0]], [[0, M, M], [0, 0, M], [0, 0, 0]])

    def test_unmask_unattended_refuses_bool(self) -> None:
        """'ValueError on bool'"""
        with pytest.raises(ValueError, match="bool"):
            AttentionMaskConverter._unmask_unattended(
                torch.zeros(1, 1, 2, 2, dtype=torch.bool), min_dtype=0.0
            )


def traced(question: Callable[[Tensor], bool], embeds: Tensor) -> bool:
    """The answer while torch.jit traces."""
    answers: list[bool] = []

    def run(x: Tensor) -> Tensor:
        answers.append(question(x))
        return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and is what "tracing" means here
        torch.jit.trace(run, embeds, check_trace=False)
    return answers[0]


class TestIgnoreCausalMask:
    """'`_ignore_causal_mask_sdpa(attention_mask, inputs_embeds, past_key_values_length, ...)`'"""

    ignore = staticmethod(AttentionMaskConverter._ignore_causal_mask_sdpa)

    @pytest.mark.parametrize(
        ("q_len", "past", "window", "expected"),
        [
            (4, 0, None, True),  # kv = q
            (1, 7, None, True),  # q = 1
            (4, 2, None, False),  # neither
            (4, 0, 5, True),  # kv < window
            (4, 0, 4, False),  # kv = window
            (4, 0, 3, False),
            (1, 7, 9, True),
            (1, 7, 8, False),
        ],
    )
    def test_without_a_mask_and_with_ones(
        self, q_len: int, past: int, window: int | None, expected: bool
    ) -> None:
        """'no mask → True iff (...) and (q = 1 or kv = q) and (no window or kv < window)'; ones: the same"""
        embeds = torch.zeros(2, q_len, 8)
        ones = torch.ones(2, q_len + past, dtype=torch.int64)
        for mask in (None, ones, ones.bool()):
            for is_training in (False, True):
                found = self.ignore(mask, embeds, past, window, is_training)
                assert isinstance(found, bool)
                assert found is expected

    def test_without_window_and_training_by_default(self) -> None:
        assert self.ignore(None, torch.zeros(2, 4, 8), 0) is True

    def test_a_mask_of_four_axes(self) -> None:
        """'a 4-D mask → False'"""
        embeds, mask = torch.zeros(2, 4, 8), torch.ones(2, 1, 4, 4)
        for is_training in (False, True):
            assert self.ignore(mask, embeds, 0, None, is_training) is False

    def test_a_mask_with_padding(self) -> None:
        """'else False'"""
        assert self.ignore(PADDED, torch.zeros(2, 4, 8), 0) is False

    def test_while_tracing(self) -> None:
        """'no mask → True iff (training or not tracing) ...; a 2-D mask of ones, not tracing, ... → True'"""
        embeds, ones = torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.int64)
        assert traced(lambda x: self.ignore(None, x, 0, None, False), embeds) is False
        assert traced(lambda x: self.ignore(None, x, 0, None, True), embeds) is True
        assert traced(lambda x: self.ignore(ones, x, 0, None, False), embeds) is False
        assert traced(lambda x: self.ignore(ones, x, 0, None, True), embeds) is False


class TestPrepare:
    """'`_create_4d_causal_attention_mask`, `_prepare_4d_causal_attention_mask` ... `_for_sdpa` forms'"""

    @DTYPES
    def test_create(self, dtype: torch.dtype) -> None:
        create, cpu = _create_4d_causal_attention_mask, torch.device("cpu")
        assert_is(create((2, 4), dtype, cpu), CAUSAL_4, CAUSAL_4, dtype=dtype)
        assert_is(create((1, 4), dtype, cpu, past_key_values_length=2), CAUSAL_4_6, dtype=dtype)
        assert_is(create([1, 4], dtype, cpu, 2, sliding_window=1), WINDOW_1, dtype=dtype)
        assert create((2, 1), dtype, cpu, 3) is None

    @DTYPES
    def test_prepare_causal_of_a_2d_mask_and_of_none(self, dtype: torch.dtype) -> None:
        """'(2-D mask, None, ...)'"""
        embeds = torch.zeros(2, 4, 8, dtype=dtype)
        prepare = _prepare_4d_causal_attention_mask
        assert_is(prepare(PADDED, (2, 4), embeds, 0), PADDED_4, CAUSAL_4, dtype=dtype)
        assert_is(prepare(PREFIXED, (2, 4), embeds, 2), PADDED_PREFIXED, CAUSAL_4_6, dtype=dtype)
        assert_is(prepare(None, (2, 4), embeds, 0), CAUSAL_4, CAUSAL_4, dtype=dtype)
        assert_is(prepare(None, (2, 4), embeds, 2, sliding_window=1), WINDOW_1, WINDOW_1, dtype=dtype)
        assert prepare(None, (2, 1), embeds[:, :1], 3) is None

    def test_a_4d_mask_of_ones_to_keep_is_inverted(self) -> None:
        """'or a 4-D mask of 1 = keep which is inverted'"""
        keep = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 1]]).view(1, 1, 2, 4)
        found = _prepare_4d_causal_attention_mask(keep, (1, 2), torch.zeros(1, 2, 8), 2)
        assert_is(found, [[0, M, 0, M], [0, 0, 0, 0]])

    def test_a_wrong_4d_shape_is_an_error_naming_both(self) -> None:
        """'a wrong 4-D shape → ValueError naming both shapes'"""
        with pytest.raises(ValueError, match="shape") as caught:
            _prepare_4d_causal_attention_mask(torch.ones(1, 1, 2, 5), (1, 2), torch.zeros(1, 2, 8), 2)
        message = str(caught.value).replace("[", "(").replace("]", ")")
        assert "(1, 1, 2, 5)" in message
        assert "(1, 1, 2, 4)" in message

    def test_the_sdpa_form(self) -> None:
        """'their `_for_sdpa` forms': nothing where SDPA's is_causal says the same"""
        prepare, embeds = _prepare_4d_causal_attention_mask_for_sdpa, torch.zeros(2, 4, 8)
        assert prepare(None, (2, 4), embeds, 0) is None
        assert prepare(torch.ones(2, 4, dtype=torch.int64), (2, 4), embeds, 0) is None
        assert prepare(None, (2, 1), embeds[:, :1], 5) is None
        assert_is(prepare(None, (2, 4), embeds, 2), CAUSAL_4_6, CAUSAL_4_6)
        assert_is(prepare(PADDED, (2, 4), embeds, 0), PADDED_4, CAUSAL_4)
        assert_is(prepare(PREFIXED, (2, 4), embeds, 2), PADDED_PREFIXED, CAUSAL_4_6)
        assert_is(prepare(None, (2, 4), embeds, 2, 1), WINDOW_1, WINDOW_1)

    @DTYPES
    def test_prepare_bidirectional(self, dtype: torch.dtype) -> None:
        """'`_prepare_4d_attention_mask`'"""
        mask = torch.tensor([[0, 0, 0, 1, 1]])
        for prepare in (_prepare_4d_attention_mask, _prepare_4d_attention_mask_for_sdpa):
            assert_is(prepare(mask, dtype), [[M, M, M, 0, 0]] * 5, dtype=dtype)
            assert_is(prepare(mask, dtype, tgt_len=2), [[M, M, M, 0, 0]] * 2, dtype=dtype)
        ones = torch.ones(1, 3, dtype=torch.int64)
        assert_is(_prepare_4d_attention_mask(ones, dtype), [[0, 0, 0]] * 3, dtype=dtype)
        assert _prepare_4d_attention_mask_for_sdpa(ones, dtype) is None


class TestErrors:
    @pytest.mark.parametrize("window", [0, -1])
    def test_a_window_below_1(self, window: int) -> None:
        """'sliding_window ≤ 0 → ValueError'"""
        with pytest.raises(ValueError, match=rf"sliding_window\b.*{window}"):
            AttentionMaskConverter(is_causal=True, sliding_window=window)

    def test_a_window_that_is_not_causal(self) -> None:
        """'window and bidirectional → NotImplementedError'"""
        converter = AttentionMaskConverter(is_causal=False, sliding_window=2)
        with pytest.raises(NotImplementedError, match="sliding_window"):
            converter.to_4d(PADDED, 4, torch.float32, 4)

    def test_causal_without_the_number_of_keys(self) -> None:
        """'causal without key_value_length → ValueError'"""
        with pytest.raises(ValueError, match="key_value_length"):
            causal.to_4d(PADDED, 4, torch.float32)
