"""The arrays of the walk-through of `modeling_attn_mask_utils`, number by number."""

from __future__ import annotations

import pytest
import torch

from saccade.dense_masks import (
    AttentionMaskConverter,
    _create_4d_causal_attention_mask,
    _prepare_4d_attention_mask,
    _prepare_4d_attention_mask_for_sdpa,
    _prepare_4d_causal_attention_mask,
    _prepare_4d_causal_attention_mask_for_sdpa,
)

CAUSAL, BOTH = AttentionMaskConverter(is_causal=True), AttentionMaskConverter(is_causal=False)
LEFT_PADDED = torch.tensor([[0, 0, 0, 1, 1]])
TWO = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
TRIANGLE = "0--- 00-- 000- 0000"
LOWEST = torch.finfo(torch.float32).min


def drawn(picture: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[Q, K]: rows of 0 and - apart by spaces, - for the lowest number."""
    numbers = {"0": 0.0, "-": torch.finfo(dtype).min}
    return torch.tensor([[numbers[cell] for cell in row] for row in picture.split()], dtype=dtype)


def assert_is(made: torch.Tensor | None, *pictures: str, dtype: torch.dtype = torch.float32) -> None:
    """`made` is one picture a batch entry, to the bit."""
    assert made is not None
    assert made.dtype is dtype
    expected = torch.stack([drawn(picture, dtype) for picture in pictures])[:, None]
    assert made.shape == expected.shape
    assert torch.equal(made, expected)
    assert torch.equal(made.signbit(), expected.signbit())


@pytest.mark.parametrize(
    ("q_len", "kv_len", "window", "picture"),
    [
        (4, 4, None, TRIANGLE),
        (2, 4, None, "000- 0000"),
        (4, 6, None, "000--- 0000-- 00000- 000000"),
        (4, 6, 1, "-00--- --00-- ---00- ----00"),
        (1, 4, 2, "-000"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_causality_is_written_from_the_lower_right_corner(q_len, kv_len, window, picture, dtype):
    converter = AttentionMaskConverter(True, window)
    assert_is(converter.to_causal_4d(2, q_len, kv_len, dtype), picture, picture, dtype=dtype)
    past = kv_len - q_len
    made = converter._make_causal_mask((2, q_len), dtype, "cpu", past, window)
    assert_is(made, picture, picture, dtype=dtype)
    made = _create_4d_causal_attention_mask((2, q_len), dtype, "cpu", past, window)
    assert_is(made, picture, picture, dtype=dtype)
    embeds = torch.zeros(2, q_len, 8, dtype=dtype)
    made = _prepare_4d_causal_attention_mask(None, (2, q_len), embeds, past, window)
    assert_is(made, picture, picture, dtype=dtype)


def test_a_single_query_without_a_window_needs_no_mask():
    assert CAUSAL.to_causal_4d(2, 1, 4) is None
    assert _create_4d_causal_attention_mask((2, 1), past_key_values_length=3) is None
    assert _prepare_4d_causal_attention_mask(None, (2, 1), torch.zeros(2, 1, 8), 3) is None


@pytest.mark.parametrize(
    ("converter", "mask", "q_len", "kv_len", "pictures"),
    [
        (CAUSAL, LEFT_PADDED, 5, 5, ["----- ----- ----- ---0- ---00"]),
        (CAUSAL, TWO, 4, 4, ["---- -0-- -00- -000", TRIANGLE]),
        (CAUSAL, TWO, 1, 4, ["-000", "0000"]),
        (
            CAUSAL,
            torch.cat([torch.ones_like(TWO[:, :2]), TWO], dim=1),
            4,
            6,
            ["00---- 00-0-- 00-00- 00-000", "000--- 0000-- 00000- 000000"],
        ),
        (BOTH, TWO, 4, 4, ["-000 -000 -000 -000", "0000 0000 0000 0000"]),
        (AttentionMaskConverter(True, 1), TWO, 4, 4, ["---- -0-- -00- --00", "0--- 00-- -00- --00"]),
    ],
)
def test_a_2d_mask_is_written_with_causality_or_without(converter, mask, q_len, kv_len, pictures):
    for dtype in (torch.float32, torch.float16):
        assert_is(converter.to_4d(mask, q_len, dtype, kv_len), *pictures, dtype=dtype)
    assert_is(converter.to_4d(mask, q_len, key_value_length=kv_len), *pictures)
    if converter.is_causal:
        shape, window = (len(mask), q_len), converter.sliding_window
        embeds = torch.zeros(*shape, 8)
        made = _prepare_4d_causal_attention_mask(mask, shape, embeds, kv_len - q_len, window)
        assert_is(made, *pictures)
    else:
        assert_is(_prepare_4d_attention_mask(mask, torch.float32, q_len), *pictures)
        assert_is(_prepare_4d_attention_mask_for_sdpa(mask, torch.float32, q_len), *pictures)


def test_the_calls_of_the_text_run_without_a_dtype():
    embeds = torch.zeros(2, 4, 8)
    made = _prepare_4d_causal_attention_mask(TWO, [2, 4], embeds, 0, None)
    assert_is(made, "---- -0-- -00- -000", TRIANGLE)
    assert_is(_prepare_4d_attention_mask(TWO), "-000 " * 4, "0000 " * 4)
    assert_is(AttentionMaskConverter._expand_mask(LEFT_PADDED), "---00 " * 5)
    assert_is(AttentionMaskConverter._make_causal_mask((1, 4)), TRIANGLE)
    assert_is(CAUSAL.to_causal_4d(1, 4, 4), TRIANGLE)
    assert_is(BOTH.to_4d(LEFT_PADDED, 2), "---00 ---00")


def test_a_4d_mask_of_ones_and_zeros_is_inverted_and_not_made_causal():
    keep = torch.tensor([[[[1, 0, 1], [0, 0, 0]]]])
    embeds = torch.zeros(1, 2, 8)
    for given in (keep, keep.float(), keep.bool()):
        assert_is(_prepare_4d_causal_attention_mask(given, (1, 2), embeds, 1), "0-0 ---")
    # The mask's own dtype, as long as it holds the number.
    assert_is(
        _prepare_4d_causal_attention_mask(keep.double(), (1, 2), embeds.double(), 1),
        *("0-0 ---",),
        dtype=torch.float64,
    )
    made = _prepare_4d_causal_attention_mask(keep.float(), (1, 2), embeds.half(), 1)
    assert made.dtype is torch.float32
    assert made.unique().tolist() == [-65504.0, 0.0]
    assert_is(_prepare_4d_causal_attention_mask(keep.half(), (1, 2), embeds, 1), "0-0 ---")


def test_rows_that_see_nothing_become_negative_zeros_and_others_stay():
    table = CAUSAL.to_4d(LEFT_PADDED, 5, key_value_length=5)
    made = AttentionMaskConverter._unmask_unattended(table, LOWEST)
    assert_is(table, "----- ----- ----- ---0- ---00")  # unchanged
    assert torch.equal(made[:, :, 3:], table[:, :, 3:])
    assert not made[:, :, :3].any()
    assert made[:, :, :3].signbit().all()
    assert not made[:, :, 3:][table[:, :, 3:] == 0].signbit().any()
    assert torch.equal(made, AttentionMaskConverter._unmask_unattended(table))
    assert torch.equal(made[:, 0], AttentionMaskConverter._unmask_unattended(table[:, 0]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("q_len", "past", "window", "without", "with_ones"),
    [
        (4, 0, None, True, True),
        (1, 3, None, True, True),
        (2, 2, None, False, False),
        (4, 0, 5, True, True),
        (4, 0, 4, False, False),
        (1, 3, 4, False, False),
        (1, 3, 5, True, True),
    ],
)
def test_when_the_mask_may_be_left_to_sdpa(q_len, past, window, without, with_ones, training):
    embeds = torch.zeros(2, q_len, 8)

    def ignored(mask):
        return AttentionMaskConverter._ignore_causal_mask_sdpa(mask, embeds, past, window, training)

    ones = torch.ones(2, q_len + past)
    holed = ones.clone()
    holed[1, 0] = 0
    assert ignored(None) is without
    assert ignored(ones) is with_ones
    assert ignored(ones.long()) is with_ones
    assert ignored(holed) is False
    assert ignored(ones[:, None, None].expand(2, 1, q_len, q_len + past)) is False
    made = _prepare_4d_causal_attention_mask_for_sdpa(None, (2, q_len), embeds, past, window)
    assert (made is None) is (without or (q_len == 1 and window is None))


def test_for_sdpa_a_table_is_made_where_is_causal_does_not_say_it_all():
    embeds = torch.zeros(2, 4, 8)
    assert _prepare_4d_causal_attention_mask_for_sdpa(torch.ones(2, 4), (2, 4), embeds, 0) is None
    made = _prepare_4d_causal_attention_mask_for_sdpa(TWO, (2, 4), embeds, 0)
    assert_is(made, "---- -0-- -00- -000", TRIANGLE)
    made = _prepare_4d_causal_attention_mask_for_sdpa(torch.ones(2, 6), (2, 4), embeds, 2)
    assert_is(made, *["000--- 0000-- 00000- 000000"] * 2)
    whole = torch.randn(2, 1, 4, 4)
    assert _prepare_4d_causal_attention_mask_for_sdpa(whole, (2, 4), embeds, 0) is whole
    assert _prepare_4d_attention_mask_for_sdpa(torch.ones(2, 4)) is None


def test_for_sdpa_on_a_gpu_rows_that_see_nothing_see_everything(monkeypatch):
    monkeypatch.setattr("saccade.dense_masks.prepare._NEEDS_A_KEY", ("cpu",))
    embeds = torch.zeros(1, 5, 8)
    made = _prepare_4d_causal_attention_mask_for_sdpa(LEFT_PADDED, (1, 5), embeds, 0)
    assert torch.equal(made[0, 0], drawn("00000 00000 00000 ---0- ---00"))
    assert made[0, 0, :3].signbit().all()


def test_a_converter_is_a_value():
    assert repr(CAUSAL) == "AttentionMaskConverter(is_causal=True, sliding_window=None)"
    assert AttentionMaskConverter(True) == CAUSAL
    assert AttentionMaskConverter(True, 3) != CAUSAL
    assert hash(AttentionMaskConverter(True, 3)) == hash(AttentionMaskConverter(True, sliding_window=3))


def test_the_table_of_a_batch_without_padding_is_stored_once():
    made = CAUSAL.to_causal_4d(64, 128, 128)
    assert made.shape == (64, 1, 128, 128)
    assert made.untyped_storage().nbytes() == 128 * 128 * 4
