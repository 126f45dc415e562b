"""Remembered masks: found again when the mod means the same, made anew when it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade import masks
from saccade.block_mask import BlockMask, cached, create_block_mask, create_block_mask_cached
from saccade.errors import ArgumentError, ArgumentTypeError, MaskAxisError, ModError
from saccade.signatures import MaskMod


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    cached._made.clear()


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[MaskMod]:
    """The mods that were analysed, in order."""
    mods: list[MaskMod] = []

    def counting(mod: MaskMod, *arguments: object) -> BlockMask:
        mods.append(mod)
        return create_block_mask(mod, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cached, "create_block_mask", counting)
    return mods


def window(width: int) -> MaskMod:
    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < width)

    return mask


def documents(ids: Tensor) -> MaskMod:
    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return ids[q_idx] == ids[kv_idx]

    return mask


def ids_of(*lengths: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def made(mod: MaskMod, *, q_len: int = 300) -> BlockMask:
    return create_block_mask_cached(mod, None, None, q_len, 300, device="cpu")


def anew(mod: MaskMod) -> BlockMask:
    return create_block_mask(mod, None, None, 300, 300, device="cpu")


def test_the_same_question_gives_the_same_object(analysed: list[MaskMod]) -> None:
    for mod in (
        masks.causal,
        masks.document(ids_of(200, 100)) & masks.causal,
        window(7),
        documents(ids_of(300)),
    ):
        first = made(mod)
        assert first == anew(mod)
        assert made(mod) is first
    assert len(analysed) == 4


def test_functions_made_alike_share_a_mask_and_others_do_not(analysed: list[MaskMod]) -> None:
    first, again = made(window(7)), made(window(7))
    assert again == first
    assert again.runs is first.runs
    named = made(masks.sliding_window(7))
    assert named.runs is first.runs
    assert named.mask_mod == masks.sliding_window(7)
    assert made(masks.sliding_window(7)) is named
    assert made(window(9)).visible_pairs() > first.visible_pairs()
    assert len(analysed) == 2


def test_each_argument_counts(analysed: list[MaskMod]) -> None:
    for arguments in (
        (None, None, 300, 300),
        (1, None, 300, 300),
        (None, 2, 300, 300),
        (None, None, 300, 299),
    ):
        for _ in range(2):
            mask = create_block_mask_cached(masks.causal, *arguments, device="cpu")
        expected = create_block_mask(masks.causal, *arguments, device="cpu")
        assert mask == expected
    assert create_block_mask_cached(masks.causal, None, None, 300, 300, "meta").device.type == "meta"
    assert len(analysed) == 5


def test_a_write_to_a_tensor_gives_a_new_mask(analysed: list[MaskMod]) -> None:
    ids = ids_of(200, 100)
    for mod in (documents(ids), masks.document(ids)):
        before = made(mod).visible_pairs()
        ids[150:] = 1 + ids[0]
        assert made(mod) == anew(mod)
        assert made(mod).visible_pairs() != before
        ids.copy_(ids_of(200, 100))
    assert len(analysed) == 4


def test_a_rebound_number_or_tensor_gives_a_new_mask() -> None:
    width, ids = 7, ids_of(200, 100)

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx - kv_idx < width) & (ids[q_idx] == ids[kv_idx])

    before = made(mask)
    width = 200
    assert made(mask) == anew(mask)
    assert made(mask) != before
    ids = ids_of(1, 299)
    assert made(mask) == anew(mask)


def test_equal_tensors_share_the_analysis_but_each_mask_watches_its_own(analysed: list[MaskMod]) -> None:
    mine, yours = ids_of(200, 100), ids_of(200, 100)
    mod = documents(yours)
    first, second = made(documents(mine)), made(mod)
    assert len(analysed) == 1
    assert second == first
    assert second.runs is first.runs
    assert [one.tensor is yours for one in second.watched] == [True]
    mine[:] = 0
    second.check_fresh()
    assert made(mod) is second
    assert len(analysed) == 1


def test_tensors_made_inside_the_mod_are_compared_by_content(analysed: list[MaskMod]) -> None:
    pads = torch.arange(300) >= 250

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (~pads)[kv_idx]

    assert made(mask) == made(mask) == anew(mask)
    assert len(analysed) == 1
    pads[100:] = True
    assert made(mask) == anew(mask)
    assert len(analysed) == 2


def test_masks_of_inference_tensors_are_not_kept(analysed: list[MaskMod]) -> None:
    with torch.inference_mode():
        ids = ids_of(200, 100)
        mod = documents(ids)
        made(mod)
        ids[150:] = 1
        assert made(mod) == anew(mod)
    assert len(analysed) == 2


def test_the_latest_are_kept_and_stale_ones_dropped(analysed: list[MaskMod]) -> None:
    for width in range(1, cached._LATEST + 1):
        made(window(width))
    made(window(1))  # is the latest used now
    made(window(100))
    made(window(1))
    assert len(analysed) == cached._LATEST + 1
    made(window(2))
    assert len(analysed) == cached._LATEST + 2
    ids = ids_of(200, 100)
    mask = made(documents(ids))
    ids[:] = 0
    made(masks.causal)
    assert all(one.mask is not mask for one in cached._made)
    assert len(cached._made) == cached._LATEST


def test_arguments_are_refused_as_create_block_mask_does() -> None:
    with pytest.raises(
        ModError, match=r"create_block_mask_cached\(\) expects a mask_mod, .* got the score_mod"
    ):
        create_block_mask_cached(lambda score, b, h, q_idx, kv_idx: score, None, None, 8, 8)  # type: ignore[arg-type]
    with pytest.raises(ModError, match=r"create_block_mask_cached\(\): document is a factory"):
        create_block_mask_cached(masks.document, None, None, 8, 8)  # type: ignore[arg-type]

    def per_batch(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx < b

    create_block_mask_cached(per_batch, 1, None, 8, 8, "cpu")
    with pytest.raises(MaskAxisError, match="the mod reads 'b'"):
        create_block_mask_cached(per_batch, None, None, 8, 8, "cpu")
    made(masks.causal, q_len=1)
    with pytest.raises(ArgumentTypeError, match="Q_LEN"):
        made(masks.causal, q_len=1.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="Q_LEN"):
        made(masks.causal, q_len=-1)
