"""Witnesses prove PARTIAL and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.analysis.bounds import Rectangles
from saccade.analysis.witness import partial_blocks

SIZE = 16
BLOCKS = Rectangles(*np.array([[0, 0, 15, 0, 15], [1, 16, 31, 0, 15], [0, 5, 5, 7, 7], [1, 3, 9, 2, 20]]).T)


def found(mask):
    return partial_blocks(BLOCKS, mask)


def test_witnesses_lie_in_their_block():
    def mask_at(head, q_idx, kv_idx):
        # Without an answer no block is settled, so each round asks about every block, in order.
        assert (head == BLOCKS.head[:, None]).all()
        assert (q_idx >= BLOCKS.q_first[:, None]).all()
        assert (q_idx <= BLOCKS.q_last[:, None]).all()
        assert (kv_idx >= BLOCKS.kv_first[:, None]).all()
        assert (kv_idx <= BLOCKS.kv_last[:, None]).all()
        return np.asarray(True)

    found(mask_at)


@pytest.mark.parametrize("value", [True, False])
def test_agreement_proves_nothing(value):
    assert not found(lambda head, q_idx, kv_idx: np.asarray(value)).any()


def test_one_pair_is_never_partial():
    assert not found(lambda head, q_idx, kv_idx: (q_idx + kv_idx) % 2 == 0)[2]


@pytest.mark.parametrize(
    "mask",
    [
        lambda head, q_idx, kv_idx: kv_idx < q_idx,
        lambda head, q_idx, kv_idx: q_idx <= kv_idx,
        lambda head, q_idx, kv_idx: q_idx == kv_idx,
        lambda head, q_idx, kv_idx: (q_idx - kv_idx) % 3 == 0,
        lambda head, q_idx, kv_idx: (q_idx == 0) & (kv_idx == 0),
        lambda head, q_idx, kv_idx: (q_idx == 15) & (kv_idx == 14),
        lambda head, q_idx, kv_idx: q_idx % 8 == 4,
        lambda head, q_idx, kv_idx: kv_idx % 8 == 4,
        lambda head, q_idx, kv_idx: q_idx - kv_idx == 9,
        lambda head, q_idx, kv_idx: kv_idx - q_idx == 6,
        lambda head, q_idx, kv_idx: (q_idx >= 13) & (kv_idx == 6),
        lambda head, q_idx, kv_idx: (q_idx == 6) & (kv_idx >= 13),
    ],
)
def test_common_patterns_are_found_in_the_first_block(mask):
    assert found(mask)[0]


def test_no_diagonal_of_a_large_block_escapes():
    blocks = Rectangles(*np.array([[0, 0, 127, 0, 127]]).T)
    for far in range(-127, 128):
        assert partial_blocks(blocks, lambda head, q_idx, kv_idx, far=far: q_idx - kv_idx == far).all(), far


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5, 0.97]))
def test_found_blocks_are_partial(seed, rate):
    table = np.random.default_rng(seed).random((2, 32, 32)) < rate
    partial = found(lambda head, q_idx, kv_idx: table[head, q_idx, kv_idx])
    for n in np.flatnonzero(partial):
        block = table[
            BLOCKS.head[n],
            BLOCKS.q_first[n] : BLOCKS.q_last[n] + 1,
            BLOCKS.kv_first[n] : BLOCKS.kv_last[n] + 1,
        ]
        assert block.any()
        assert not block.all()
