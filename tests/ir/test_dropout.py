"""The dropout stream: published answers, its layout, its statistics."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.errors import ArgumentError
from saccade.ir.dropout import drop_threshold, keep_mask, keep_rate, philox4x32

ONES = 2**32 - 1


def words(*values: int) -> list[np.ndarray]:
    return [np.array(value, np.uint64) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "expected"),
    [
        # from the authors' file of known answers
        ((0, 0, 0, 0), (0, 0), 7, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        ((ONES,) * 4, (ONES, ONES), 7, "5207ddc2 45165e59 4d8ee751 8c52f662"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            7,
            "4dfccaba 190a87f0 c47362ba b6b5242a",
        ),
        ((0, 0, 0, 0), (0, 0), 10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES, ONES), 10, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            10,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], rounds: int, expected: str):
    found = philox4x32(words(*counter), key, rounds)
    assert " ".join(f"{word:08x}" for word in found.tolist()) == expected


def half(seed: int, b_h: int, q_idx: int, kv_idx: int) -> int:
    """The 16 bits that decide a weight, by the definition, one at a time."""
    counter = words(q_idx, 16 * (kv_idx // 128) + kv_idx % 16, b_h, 0)
    block = philox4x32(counter, (seed % 2**32, seed // 2**32)).tolist()
    bits = sum(word << (32 * place) for place, word in enumerate(block))
    return bits >> (16 * ((kv_idx // 16) % 8)) & 0xFFFF


def test_layout_is_the_definition():
    seed, p = 0x0123456789ABCDEF, 0.4
    places = [(0, 0, 0), (0, 0, 17), (1, 2, 127), (1, 2, 128), (3, 70000, 300), (63, 5, 131071)]
    for b_h, q_idx, kv_idx in places:
        assert keep_mask(seed, p, b_h, q_idx, kv_idx) == (half(seed, b_h, q_idx, kv_idx) >= drop_threshold(p))


def test_does_not_depend_on_how_the_matrix_is_cut():
    whole = keep_mask(7, 0.3, np.arange(3)[:, None, None], np.arange(40)[:, None], np.arange(300))
    assert whole.shape == (3, 40, 300)
    for rows, columns in [
        (slice(0, 7), slice(0, 64)),
        (slice(13, 40), slice(100, 257)),
        (slice(5, 6), slice(299, 300)),
    ]:
        part = keep_mask(7, 0.3, 2, np.arange(40)[rows, None], np.arange(300)[columns])
        np.testing.assert_array_equal(part, whole[2, rows, columns])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keeps_as_many_as_it_says(p: float):
    kept = keep_mask(2024, p, np.arange(4)[:, None, None], np.arange(256)[:, None], np.arange(512))
    deviation = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - keep_rate(p)) < 4 * deviation / np.sqrt(kept.size)
    for other in range(3):  # along each axis too
        assert np.abs(kept.mean(axis=other) - keep_rate(p)).max() < 6 * deviation / np.sqrt(kept.shape[other])


def test_seeds_rows_and_heads_differ():
    index = (np.arange(64)[:, None], np.arange(128))
    streams = [
        keep_mask(seed, 0.5, b_h, *index) for seed, b_h in [(0, 0), (1, 0), (0, 1), (1 << 32, 0), (-1, 0)]
    ]
    for place, first in enumerate(streams):
        assert not any((first == other).mean() > 0.6 for other in streams[place + 1 :])
    np.testing.assert_array_equal(streams[-1], keep_mask(2**64 - 1, 0.5, 0, *index))


def test_the_ends():
    index = (0, np.arange(50)[:, None], np.arange(50))
    assert keep_mask(3, 0.0, *index).all()
    assert not keep_mask(3, 1.0, *index).any()
    assert (keep_rate(0.0), keep_rate(1.0), keep_rate(0.1)) == (1.0, 0.0, 1 - 6554 / 65536)


def test_a_higher_p_drops_more():
    index = (1, np.arange(50)[:, None], np.arange(50))
    assert not (keep_mask(3, 0.6, *index) & ~keep_mask(3, 0.2, *index)).any()


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_is_a_probability(p: float):
    with pytest.raises(ArgumentError, match=r"dropout_p is a probability in \[0, 1\]; got dropout_p="):
        keep_mask(0, p, 0, 0, 0)
    with pytest.raises(ArgumentError, match="give the part of weights to drop"):
        keep_rate(p)
