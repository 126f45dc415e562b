"""Parts of masks: by batch, head and block, or by element; each means what its rows meant in the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from catalogue import MASK_CASES, Case, Sizes
from saccade import masks
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    IndexOutOfRangeError,
    StaleMaskError,
    UnsupportedError,
)

BLOCK = 4


def per_batch_and_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx + 2 * b >= kv_idx) & (kv_idx >= 3 * h)


def example(q_len: int = 18, kv_len: int = 15) -> BlockMask:
    return create_block_mask(per_batch_and_head, 3, 2, q_len, kv_len, "cpu", BLOCK)


def given_blocks() -> BlockMask:
    """A mask whose blocks say other than its mod: hidden where the mod is True, FULL where it is False."""
    counts = torch.tensor([[[2, 1, 0], [3, 1, 1]]], device="cpu")
    columns = torch.tensor(
        [[[[0, 2, 1], [1, 0, 0], [0, 0, 0]], [[0, 1, 2], [2, 0, 1], [0, 1, 2]]]], device="cpu"
    )
    full_counts = torch.tensor([[[1, 1, 2], [0, 1, 0]]], device="cpu")
    full = torch.tensor(
        [[[[1, 0, 2], [0, 1, 2], [2, 0, 0]], [[0, 0, 0], [0, 1, 2], [0, 1, 2]]]], device="cpu"
    )
    return BlockMask.from_kv_blocks(
        counts, columns, full_counts, full, BLOCK, masks.causal, seq_lengths=(10, 11)
    )


def assert_consistent(part: BlockMask, visible: Tensor) -> None:
    """Blocks, program and function of a part all say `visible`."""
    assert part.shape == visible.shape
    assert torch.equal(part.to_bool(), visible)
    if part.analysed:
        again = part.refreshed()  # traces the part's own function
        assert torch.equal(again.to_bool(), visible)
        assert again.runs == part.runs


def positions(size: int, index: object) -> Tensor:
    """What numpy selects, which knows negative steps."""
    picked = index.numpy() if isinstance(index, Tensor) else index
    return torch.from_numpy(np.atleast_1d(np.arange(size)[picked]).copy())  # type: ignore[index]


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        (slice(None), 1),
        (slice(1, None), slice(0, 1)),
        (2, 1, 0),
        (0, 0, slice(1, 3)),
        (slice(None), slice(None), slice(3, None)),
        (slice(None, None, 2),),
        (slice(None, None, -1), 1, slice(None, 4)),
        ([2, 0, 0],),
        (slice(None), slice(None), [0, 1, 3, 2, 4]),
        (1, slice(None), torch.tensor([2, 0], dtype=torch.int32, device="cpu")),
        (slice(None), torch.tensor([False, True], device="cpu")),
        torch.tensor(1, device="cpu"),
    ],
    ids=str,
)
def test_selection_keeps_what_its_rows_saw(index: object) -> None:
    mask = example()
    b, h, i = (*(index if isinstance(index, tuple) else (index,)), slice(None), slice(None))[:3]
    rows = torch.arange(18, device="cpu").split(BLOCK)
    picked = positions(len(rows), i)
    queries = torch.cat([rows[int(one)] for one in picked])
    kept = positions(3, b), positions(2, h)
    assert_consistent(mask[index], mask.to_bool()[kept[0]][:, kept[1]][:, :, queries])  # type: ignore[index]


def test_selection_of_given_blocks() -> None:
    mask = given_blocks()
    visible = mask.to_bool()
    assert torch.equal(mask[0, 1].to_bool(), visible[:, 1:])
    assert torch.equal(mask[:, :, [1, 0]].to_bool(), visible[:, :, [4, 5, 6, 7, 0, 1, 2, 3]])
    assert not mask[:, 0].analysed


def test_selected_batch_serves_any_batch() -> None:
    part = example()[2]
    part.check_usable(5, 2, 18, 15)
    assert not part.program.reads("b")
    again = part.refreshed()  # traces the part's own function
    again.check_usable(5, 2, 18, 15)
    assert not again.program.reads("b")


def test_iteration_gives_every_batch() -> None:
    mask = example()
    assert [part.shape for part in mask] == [(1, 2, 18, 15)] * 3
    assert torch.equal(torch.cat([part.to_bool() for part in mask]), mask.to_bool())


def test_unread_axes_stay_stored_once() -> None:
    mask = create_block_mask(masks.causal, 4, 4, 16, 16, "cpu", 4)
    part = mask[[3, 1, 1], 2]
    assert part.shape == (3, 1, 16, 16)
    assert part.runs is not None
    assert part.runs.shape[:2] == (1, 1)
    assert part.mask_mod is masks.causal


@pytest.mark.parametrize("case", [case for case in MASK_CASES if not case.pairwise], ids=str)
def test_crops_of_every_mask(case: Case) -> None:
    mods = case.build(Sizes(q_len=17, kv_len=22))
    assert mods.mask is not None
    mask = create_block_mask(
        mods.mask, 2 if case.reads_b else None, 2 if case.reads_h else None, 17, 22, "cpu", BLOCK
    )
    visible = mask.to_bool()
    for q, kv in (
        ((4, 12), (8, 22)),
        ((3, 17), None),
        (None, (1, 9)),
        ((0, 5), (0, 22)),
        ((16, 17), (21, 22)),
    ):
        part = mask.crop(q=q, kv=kv)
        (i, j), (k, m) = q or (0, 17), kv or (0, 22)
        assert_consistent(part, visible[:, :, i:j, k:m])
        if mods.plain_mask is None:
            fresh = create_block_mask(part.mask_mod, mask.batch, mask.heads, j - i, m - k, "cpu", BLOCK)
            assert fresh.runs == part.runs


bounds = st.tuples(st.integers(0, 18), st.integers(0, 18)).map(lambda pair: (min(pair), max(pair)))


@settings(max_examples=60)
@given(st.booleans(), bounds, bounds, bounds, bounds)
def test_crop_of_a_crop(
    from_blocks: bool, q: tuple[int, int], kv: tuple[int, int], q2: tuple[int, int], kv2: tuple[int, int]
) -> None:
    mask = given_blocks() if from_blocks else example()

    def clipped(bounds: tuple[int, int], length: int) -> tuple[int, int]:
        return min(bounds[0], length), min(bounds[1], length)

    q, kv = clipped(q, mask.q_len), clipped(kv, mask.kv_len)
    part = mask.crop(q=q, kv=kv)
    visible = mask.to_bool()[:, :, q[0] : q[1], kv[0] : kv[1]]
    assert_consistent(part, visible)
    q2, kv2 = clipped(q2, part.q_len), clipped(kv2, part.kv_len)
    assert_consistent(part.crop(q=q2, kv=kv2), visible[:, :, q2[0] : q2[1], kv2[0] : kv2[1]])


def test_moving_crops_keep_one_structure() -> None:
    mask = create_block_mask(masks.sliding_window(8), None, None, 64, 64, "cpu", 8)
    steps = [mask.crop(q=(t, t + 1)) for t in range(1, 64)]
    assert len({step.program.structure for step in steps}) == 1
    assert [step.program.numbers[-1] for step in steps] == list(range(1, 64))
    assert mask.crop(q=(np.int64(3), torch.tensor(9, device="cpu"))) == mask.crop(q=(3, 9))  # type: ignore[arg-type]
    assert mask.crop() is mask
    assert mask.crop(q=(0, 64)) is mask


def test_index_refusals() -> None:
    mask = example()
    with pytest.raises(IndexOutOfRangeError, match="batch index 3 is out of range for a BlockMask with 3"):
        mask[3]
    with pytest.raises(
        IndexOutOfRangeError, match="query block index -6 is out of range for a BlockMask with 5"
    ):
        mask[:, :, [0, -6]]
    with pytest.raises(ArgumentError, match=r"by batch, head and query block, got 4 indices; use mask.crop"):
        mask[0, 0, 0, 0]
    with pytest.raises(
        ArgumentError, match=r"must select something, got slice\(2, 2, None\) for the head of 2"
    ):
        mask[:, 2:2]
    with pytest.raises(ArgumentTypeError, match="integers, slices, lists or tensors, got None for the batch"):
        mask[None]  # type: ignore[index]
    with pytest.raises(ArgumentTypeError, match=r"in one dimension, got float32 of shape \[2\] for the head"):
        mask[:, torch.ones(2, device="cpu")]
    with pytest.raises(UnsupportedError, match=r"a tensor or list for one axis at a time, got 2; chain"):
        mask[[0, 1], [0]]
    with pytest.raises(
        ArgumentError, match="the last query block holds 2 of 4 queries, so it can only be selected last"
    ):
        mask[:, :, [4, 0]]


def test_crop_refusals() -> None:
    mask = example()
    for bad in ((0, 19), (5, 4)):
        with pytest.raises(
            ArgumentError, match=r"crop\(\) expects q=\(start, stop\) with 0 <= start <= stop <= 18"
        ):
            mask.crop(q=bad)
    with pytest.raises(ArgumentError, match=r"crop\(\): q must be at least 0"):
        mask.crop(q=(-1, 4))
    with pytest.raises(ArgumentTypeError, match=r"crop\(\): kv must be an integer, got float 4.0"):
        mask.crop(kv=(0, 4.0))  # type: ignore[arg-type]
    for short in (3, (1, 2, 3)):
        with pytest.raises(ArgumentTypeError, match=r"crop\(\) expects q=\(start, stop\), got q="):
            mask.crop(q=short)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="create a new mask for a longer one"):
        mask.crop(kv=(0, 16))
    lengths = torch.tensor([3, 4], device="cpu")
    padded = create_block_mask(masks.padding(lengths=lengths), 2, None, 8, 8, "cpu", 4)
    lengths[0] = 5
    with pytest.raises(StaleMaskError, match="refreshed"):
        padded.crop(q=(0, 4))


def test_derived_functions_print_what_they_are() -> None:
    assert "causal at moved q_idx" in repr(
        create_block_mask(masks.causal, None, None, 8, 8, "cpu", 4).crop(q=(2, 8))
    )
    assert "causal in given blocks at moved kv_idx" in repr(given_blocks().crop(kv=(2, 8)))
