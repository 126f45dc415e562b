"""What a descriptor is made of keeps the hardware's rules, or is refused with the rule."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

from saccade.errors import ArgumentError
from saccade.runtime.triton import DESCRIPTOR_ALIGNMENT, descriptor_fault, tensor_descriptor

KEYS = torch.zeros(2, 3, 40, 64, dtype=torch.bfloat16)
BLOCK = (1, 1, 32, 64)


def test_a_tensor_is_described_as_it_lies() -> None:
    keys = KEYS.transpose(1, 2).contiguous().transpose(1, 2)
    described = tensor_descriptor(keys, keys.shape, keys.stride(), BLOCK)
    assert described.base is keys
    assert described.shape == [2, 3, 40, 64]
    assert described.strides == [40 * 3 * 64, 64, 3 * 64, 1]
    assert described.block_shape == [1, 1, 32, 64]
    assert described.padding == "zero"


@pytest.mark.parametrize("stride", [0, 3, -64])
def test_a_dimension_of_one_element_has_any_stride(stride: int) -> None:
    described = tensor_descriptor(KEYS, (1, 3, 40, 64), (stride, 2560, 64, 1), BLOCK)
    assert described.strides[0] * KEYS.element_size() % DESCRIPTOR_ALIGNMENT == 0
    assert described.strides[0] > 0
    narrow = torch.zeros(40, 1, dtype=torch.float32)
    assert tensor_descriptor(narrow, (40, 1), (4, 9), (32, 4)).strides == [4, 1]


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"shape": (3, 40, 64)}, "must have one and the same rank from 1 to 5, but shape=(3, 40, 64)"),
        ({"shape": (2, 3, 0, 64)}, "every size must be from 1 to 2**32, but shape=(2, 3, 0, 64)"),
        ({"shape": (2, 3, 2**32 + 1, 64)}, "every size must be from 1 to 2**32"),
        ({"base": KEYS.flatten()[1:]}, "the first element must be on 16 bytes, but it is at 0x"),
        ({"strides": (7680, 2560, 64, 2)}, "the last stride must be 1, but strides=(7680, 2560, 64, 2)"),
        ({"strides": (7680, 2560, 68, 1)}, "strides but the last must be positive multiples of 16 bytes"),
        ({"strides": (0, 2560, 64, 1)}, "below 2**40, but strides=(0, 2560, 64, 1) of 2 bytes each"),
        ({"strides": (2**39, 2560, 64, 1)}, "below 2**40, but strides=(549755813888, 2560, 64, 1)"),
        ({"block": (1, 1, 24, 64)}, "every size of a block must be a power of two, but block=(1, 1, 24, 64)"),
        ({"block": (1, 1, 0, 64)}, "must be a power of two, but block=(1, 1, 0, 64)"),
        ({"block": (1, 1, 32, 4)}, "a block must be 16 bytes wide or more, but block=(1, 1, 32, 4)"),
    ],
)
def test_what_the_hardware_refuses_is_refused(changed: dict[str, object], rule: str) -> None:
    sound = {"base": KEYS, "shape": KEYS.shape, "strides": KEYS.stride(), "block": BLOCK}
    assert descriptor_fault(**sound) is None  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=re.escape(rule)):
        tensor_descriptor(**{**sound, **changed})  # type: ignore[arg-type]
