"""Masks of given blocks: the blocks are the truth, and malformed ones are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from saccade import masks
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError, DTypeError, ModError, ShapeError


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, device="cpu")


def test_blocks_decide_before_the_mod() -> None:
    mask = BlockMask.from_kv_blocks(
        tensor(1, 1), tensor([1, 0], [1, 0]), tensor(0, 1), tensor([0, 1], [0, 1]), 2, masks.causal, (3, 4)
    )
    assert not mask.analysed
    assert mask.shape == (1, 1, 3, 4)
    # Row block 0: block 1 is partial, and causality hides it; block 0 is absent, though causal shows some.
    # Row block 1: block 1 is partial; block 0 is full.
    assert mask.to_bool()[0, 0].int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    assert mask.visible_pairs() == 3


def test_default_mod_and_lengths_are_torchs() -> None:
    counts, columns = tensor([[1, 2], [0, 1]]), tensor([[[2, 0, 1], [0, 1, 2]], [[0, 1, 2], [1, 0, 2]]])
    ours = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=(4, 2))
    theirs = torch_flex.BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=(4, 2))
    assert ours.shape == theirs.shape == (1, 2, 8, 6)
    assert ours.mask_mod is masks.noop_mask
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert ours.sparsity() == pytest.approx(theirs.sparsity())
    assert ours.full_kv_indices is None
    assert ours.to_bool().sum() == 4 * 2 * 4


def test_entries_past_the_count_are_ignored() -> None:
    mask = BlockMask.from_kv_blocks(tensor([[1]]), tensor([[[0, 99, -7]]]), BLOCK_SIZE=4, seq_lengths=(4, 8))
    assert mask.to_dense().tolist() == [[[[1, 0]]]]


def test_given_blocks_pass_to_torch_as_they_are() -> None:
    full = tensor([[1]]), tensor([[[0]]])
    mask = BlockMask.from_kv_blocks(tensor([[0]]), tensor([[[0]]]), *full, 8, masks.causal, (5, 7))
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks.tolist() == [[[1]]]  # cut, but FULL is what was said
    assert mask.to_bool().all()


def test_refreshed_keeps_the_blocks() -> None:
    table = torch.ones(4, 4, dtype=torch.bool, device="cpu")
    mask = BlockMask.from_kv_blocks(
        tensor([[1, 0]]), tensor([[[0, 1], [0, 1]]]), None, None, 2, masks.dense(table)
    )
    assert mask.visible_pairs() == 4
    table[0, 0] = False
    assert mask.refreshed().visible_pairs() == 3


def test_malformed_blocks_are_refused() -> None:
    counts, columns = tensor([[1, 1]]), tensor([[[0, 1], [1, 0]]])
    with pytest.raises(ArgumentError, match="belong together, but full_kv_indices is None"):
        BlockMask.from_kv_blocks(counts, columns, counts)
    with pytest.raises(ArgumentError, match="belong together, but full_kv_num_blocks is None"):
        BlockMask.from_kv_blocks(counts, columns, None, columns)
    with pytest.raises(ShapeError, match=r"must have shape \[B, H, rows\] .* got \[\]"):
        BlockMask.from_kv_blocks(torch.tensor(1, device="cpu"), columns)
    with pytest.raises(
        ShapeError, match=r"kv_indices must have the shape of kv_num_blocks and one more axis"
    ):
        BlockMask.from_kv_blocks(counts, columns[..., :1, :])
    with pytest.raises(
        ShapeError, match=r"kv_num_blocks must have shape \[1, 1, 3\], its last axis being the 3 blocks"
    ):
        BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=4, seq_lengths=(12, 8))
    with pytest.raises(ShapeError, match=r"full_kv_num_blocks must have shape \[1, 1, 2\]"):
        BlockMask.from_kv_blocks(counts, columns, counts[..., :1], columns[..., :1, :])
    with pytest.raises(
        ArgumentError, match=r"kv_num_blocks must lie between 0 and the 2 entries of a row, got .* to 3"
    ):
        BlockMask.from_kv_blocks(tensor([[1, 3]]), columns)
    with pytest.raises(
        ArgumentError, match="kv_indices must lie between 0 and 0, the last of the 1 blocks of keys"
    ):
        BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=4, seq_lengths=(8, 4))
    with pytest.raises(ArgumentError, match=r"listed once.* but full_kv_indices lists one again"):
        BlockMask.from_kv_blocks(counts, columns, counts, columns)
    with pytest.raises(ArgumentError, match="but kv_indices lists one again; remove the repetition"):
        BlockMask.from_kv_blocks(tensor([[2]]), tensor([[[1, 1]]]))
    with pytest.raises(DTypeError, match=r"kv_indices must hold integers, got torch.float32"):
        BlockMask.from_kv_blocks(counts, columns.float())
    with pytest.raises(ModError, match=r"from_kv_blocks\(\) expects a mask_mod"):
        BlockMask.from_kv_blocks(counts, columns, mask_mod=lambda score, b, h, q, k: score)  # type: ignore[arg-type]


def test_given_blocks_are_not_equal_to_the_same_blocks_analysed() -> None:
    analysed = create_block_mask(masks.causal, None, None, 4, 4, device="cpu", BLOCK_SIZE=2)
    given = BlockMask.from_torch(analysed.to_torch())
    assert given.runs == analysed.runs
    assert given != analysed
