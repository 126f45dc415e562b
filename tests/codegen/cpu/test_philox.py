"""The keep bits of kernels are those of `ir.dropout`, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from codegen.cpu.lane_kernel import HOST_ISAS, PRECISE, library_calls, run_kernel
from saccade.codegen.cpu.emitter import I8, I64, Emitter, Value
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.philox import KEYS, keep_lanes
from saccade.ir import dropout
from saccade.ir.dtype import DType

GROUPS = 40


def row_of_masks(e: Emitter, addresses: Sequence[Value], first: Value) -> None:
    """Store the masks of one group of keys as bytes; one vector of the kernel's loop is one group."""
    out, given = addresses
    seed, threshold, b_h, q_idx, skipped = (e.load(e.at(given, 8 * slot), I64) for slot in range(5))
    key = e.binary("mul", e.builder.sdiv(first, e.whole(e.lanes)), e.whole(KEYS))
    masks = keep_lanes(e, seed, threshold, b_h, q_idx, e.binary("add", key, skipped))
    assert len(masks) == KEYS // e.lanes
    for number, mask in enumerate(masks):
        bytes_ = e.builder.zext(mask, e.vector(I8))
        e.store(bytes_, e.at(out, e.binary("add", key, e.whole(number * e.lanes))))


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("precise", PRECISE)
@pytest.mark.parametrize(
    ("seed", "p", "b_h", "q_idx", "first_key"),
    [
        (1, 0.5, 0, 0, 0),
        (-5, 0.1, 37, 12_345, 128),
        (2**63 - 1, 0.9, 2**31 + 5, 2**33 + 7, 128 * 1000),
        (0x0123_4567_89AB_CDEF, 0.25, 2**20, 2**31, 2**34),
        (7, 0.0, 3, 3, 0),
        (7, 1.0, 3, 3, 0),
    ],
)
def test_a_row_keeps_what_the_stream_says(
    seed: int, p: float, b_h: int, q_idx: int, first_key: int, precise: DType, isa: str
) -> None:
    given = np.array([seed, dropout.drop_threshold(p), b_h, q_idx, first_key], np.int64)
    out = np.full(GROUPS * KEYS, 77, np.uint8)
    run_kernel(isa, precise, row_of_masks, GROUPS * ISAS[isa].lanes(precise), out, given)
    expected = dropout.keep_mask(seed, p, b_h, q_idx, first_key + np.arange(out.size))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("precise", PRECISE)
@pytest.mark.parametrize("isa", ISAS)
def test_nothing_calls_a_library(isa: str, precise: DType) -> None:
    assert library_calls(isa, precise, 2, row_of_masks) == set()
