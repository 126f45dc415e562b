"""R1, the masks of the table at the sizes of the text: whom each query sees, exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saccade import (
    causal,
    create_block_mask,
    create_mask,
    document,
    image_cross_attention,
    local_2d,
    masks,
    natten,
    prefix_lm,
    sliding_window,
)
from saccade.signatures import MaskMod


def test_the_sliding_window_keeps_1024_keys() -> None:
    """'sliding window causal | 1024 keys'"""
    blocks = create_block_mask(sliding_window(1024), None, None, 8192, 8192, "cpu")
    for query in (0, 1, 1022, 1023, 1024, 5000, 8191):
        row = blocks.crop(q=(query, query + 1)).to_bool()[0, 0, 0]
        expected = torch.zeros(8192, dtype=torch.bool)
        expected[max(0, query - 1023) : query + 1] = True
        assert torch.equal(row, expected)
    assert blocks.visible_pairs() == 8192 * 1024 - 1024 * 1023 // 2


def test_the_prefix_is_2048_keys() -> None:
    """'prefix LM | `kv < 2048` or causal'"""
    blocks = create_block_mask(prefix_lm(2048), None, None, 8192, 8192, "cpu")
    for query in (0, 2046, 2047, 2048, 8191):
        assert torch.equal(
            blocks.crop(q=(query, query + 1)).to_bool()[0, 0, 0],
            (torch.arange(8192) < 2048) | (torch.arange(8192) <= query),
        )
    assert blocks.visible_pairs() == 2048**2 + sum(range(2049, 8193))


@pytest.mark.parametrize(
    ("tokens", "lengths"), [(32768, [4096, 4096, 8192, 8192, 8192]), (8192, [4096, 4096])]
)
def test_documents_of_4096_4096_then_8192_each(tokens: int, lengths: list[int]) -> None:
    """'32,768 tokens (and 8,192): documents of 4096, 4096, then 8192 each'"""
    assert sum(lengths) == tokens
    document_id = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))

    def document_causal(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (document_id[q_idx] == document_id[kv_idx])

    printed = create_block_mask(document_causal, None, None, tokens, tokens, "cpu")
    ours = create_block_mask(causal & document(lengths=lengths), None, None, tokens, tokens, "cpu")
    assert printed.visible_pairs() == sum(length * (length + 1) // 2 for length in lengths)
    assert ours.visible_pairs() == printed.visible_pairs()
    assert torch.equal(ours.to_dense(), printed.to_dense())
    # Per document, a triangle of blocks.
    blocks = sum((length // 128) * (length // 128 + 1) // 2 for length in lengths)
    assert int(printed.to_dense().sum()) == blocks


def canvas_rows(mask: MaskMod) -> Callable[[int], Tensor]:
    """The number of keys that each of 512 queries sees, of 128 × 128 tokens."""
    blocks = create_block_mask(mask, None, None, 16384, 16384, "cpu")
    return lambda first: torch.from_numpy(blocks.crop(q=(first, first + 512)).to_bool()[0, 0].numpy().sum(-1))


def test_natten_on_128_by_128_every_query_sees_exactly_49_keys() -> None:
    """'NATTEN | 128×128 image, 7×7 kernel, ...: every query sees exactly 49 keys'"""
    keys = canvas_rows(natten((128, 128), 7))
    for first in range(0, 16384, 512):
        assert torch.equal(keys(first), torch.full((512,), 49))


@pytest.mark.parametrize("query", [(0, 0), (0, 127), (127, 0), (2, 3), (3, 2), (64, 1), (100, 126), (60, 61)])
def test_nattens_kernel_is_clamped_to_stay_on_the_canvas(query: tuple[int, int]) -> None:
    """'its centre clamped to stay on the canvas'"""
    row, column = (min(max(at, 3), 124) for at in query)
    expected = torch.zeros(128, 128, dtype=torch.bool)
    expected[row - 3 : row + 4, column - 3 : column + 4] = True
    token = torch.tensor(query[0] * 128 + query[1])
    shown = natten((128, 128), 7)(torch.tensor(0), torch.tensor(0), token, torch.arange(16384))
    assert torch.equal(shown.view(128, 128), expected)


def test_sasa_on_128_by_128_sees_both_coordinates_within_8() -> None:
    """'stand-alone self-attention | 128×128 image, both coordinates within 8'"""
    along = torch.tensor([min(at + 8, 127) - max(at - 8, 0) + 1 for at in range(128)])
    expected = (along[:, None] * along).flatten()
    assert expected.max() == 17 * 17
    keys = canvas_rows(local_2d((128, 128), 8))
    for first in range(0, 16384, 2048):
        assert torch.equal(keys(first), expected[first : first + 512])


def flamingo_12_by_9() -> Tensor:
    expected = torch.zeros(12, 9, dtype=torch.bool)
    expected[0:7, 0:3] = True  # columns 0-2 True in rows 0-6
    expected[1:7, 3:6] = True  # columns 3-5 True in rows 1-6
    expected[7:12, 6:9] = True  # columns 6-8 True in rows 7-11
    return expected


def test_flamingos_exact_mask_of_12_by_9() -> None:
    """'Flamingo's exact mask, 12 text tokens × 9 image tokens (3 images of 3; ...)'"""
    mask = image_cross_attention([[0, 7], [1, 7], [7, 12]], 3)
    assert torch.equal(create_mask(mask, None, None, 12, 9, "cpu")[0, 0], flamingo_12_by_9())
    interval = torch.tensor([[0, 7], [1, 7], [7, 12]])
    image_idx = torch.arange(9) // 3

    def text_attends_to_image(b, h, q_idx, kv_idx):
        return (interval[image_idx[kv_idx], 0] <= q_idx) & (q_idx < interval[image_idx[kv_idx], 1])

    blocks = create_block_mask(text_attends_to_image, None, None, 12, 9, "cpu")
    assert torch.equal(blocks.to_bool()[0, 0], flamingo_12_by_9())


def test_flamingos_intervals_come_from_the_tokens() -> None:
    """'[1,1,9673,...,8415] with image token 1 gives [[0,7],[1,7],[7,12]]'"""
    tokens = [1, 1, 9673, 527, 1403, 12875, 13, 1, 1115, 374, 264, 8415]
    intervals = [[0, 7], [1, 7], [7, 12]]
    assert masks.image_intervals(tokens, image_token=1) == intervals
    assert masks.image_intervals(torch.tensor(tokens), image_token=1) == intervals
    mask = image_cross_attention.from_tokens(tokens, image_token=1, image_lengths=3)
    assert torch.equal(create_mask(mask, None, None, 12, 9, "cpu")[0, 0], flamingo_12_by_9())


def test_flamingos_images_may_have_unequal_lengths() -> None:
    """'images may have unequal lengths'"""
    mask = image_cross_attention([[0, 7], [1, 7], [7, 12]], [1, 4, 2])
    expected = torch.zeros(12, 7, dtype=torch.bool)
    expected[0:7, 0] = expected[1:7, 1:5] = True
    expected[7:12, 5:7] = True
    assert torch.equal(create_mask(mask, None, None, 12, 7, "cpu")[0, 0], expected)
