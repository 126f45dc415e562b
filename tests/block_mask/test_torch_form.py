"""Torch's form of a mask: every attribute equals what torch makes of the same mod, entry by entry."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from catalogue import MASK_CASES, Case, Sizes
from saccade import masks
from saccade.block_mask import BlockMask, convert, create_block_mask, create_mask
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.signatures import MaskMod

TENSORS = [
    f"{full}{axis}_{part}"
    for axis in ("kv", "q")
    for full in ("", "full_")
    for part in ("num_blocks", "indices")
]
LENGTHS = [(24, 24), (23, 40), (33, 17)]
TORCH_CASES = [case for case in MASK_CASES if not case.pairwise]


def both(
    case: Case, q_len: int, kv_len: int, block: int | tuple[int, int], *, separate: bool = True
) -> tuple[BlockMask, torch_flex.BlockMask]:
    """The mask of a case, by us and by torch."""
    mods = case.build(Sizes(q_len=q_len, kv_len=kv_len))
    assert mods.mask is not None
    sizes = (2 if case.reads_b else None, 2 if case.reads_h else None, q_len, kv_len)
    ours = create_block_mask(mods.mask, *sizes, "cpu", block, separate_full_blocks=separate)
    theirs = torch_flex.create_block_mask(
        mods.plain_mask or mods.mask, *sizes, "cpu", block, separate_full_blocks=separate
    )
    return ours, theirs


def assert_same(ours: object, theirs: object) -> None:
    for name in TENSORS:
        mine, yours = getattr(ours, name), getattr(theirs, name)
        if yours is None:
            assert mine is None, name
        else:
            assert mine.dtype == torch.int32, name
            assert torch.equal(mine, yours), name


@pytest.mark.parametrize("case", TORCH_CASES, ids=str)
def test_attributes_equal_torchs(case: Case) -> None:
    for (q_len, kv_len), block in zip(LENGTHS, (8, (4, 8), (8, 3)), strict=True):
        ours, theirs = both(case, q_len, kv_len, block)
        assert_same(ours, theirs)
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        assert ours.sparsity() == pytest.approx(theirs.sparsity())
        assert (ours.shape, ours.numel(), ours.BLOCK_SIZE, ours.seq_lengths) == (
            theirs.shape,
            theirs.numel(),
            theirs.BLOCK_SIZE,
            theirs.seq_lengths,
        )


def test_full_blocks_are_not_listed_apart_on_request() -> None:
    for case in MASK_CASES[:4]:
        ours, theirs = both(case, 23, 40, 8, separate=False)
        assert ours.full_kv_indices is None
        assert_same(ours, theirs)
        assert_same(ours.to_torch(), theirs)


def test_as_tuple_has_torchs_entries() -> None:
    ours, theirs = both(MASK_CASES[1], 20, 12, 8)
    for flatten in (True, False):
        mine, yours = ours.as_tuple(flatten=flatten), theirs.as_tuple(flatten=flatten)
        assert len(mine) == len(yours)
        for one, other in zip(mine[:-1], yours[:-1], strict=True):
            assert torch.equal(one, other) if isinstance(other, Tensor) else one == other
        assert mine[-1] is ours.mask_mod


def test_whole_blocks_are_drawn_as_torch_draws_them() -> None:
    ids = torch.arange(64, device="cpu") // 16

    def same_document(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return ids[q_idx] == ids[kv_idx]

    ours = create_block_mask(same_document, 2, 3, 64, 64, "cpu", 16)
    theirs = torch_flex.create_block_mask(same_document, 2, 3, 64, 64, "cpu", 16)
    assert str(ours) == str(theirs)
    assert ours.to_string() == theirs.to_string()
    assert ours.to_string(grid_size=2, limit=10) == theirs.to_string(grid_size=2, limit=10)
    assert ours.to_string(grid_size=(1, 3)) == theirs.to_string(grid_size=(1, 3))


def test_signatures_begin_with_torchs() -> None:
    for ours, theirs in (
        (create_block_mask, torch_flex.create_block_mask),
        (create_mask, torch_flex.create_mask),
        (BlockMask.to_string, torch_flex.BlockMask.to_string),
        (BlockMask.as_tuple, torch_flex.BlockMask.as_tuple),
    ):
        mine = list(inspect.signature(ours).parameters.values())
        yours = list(inspect.signature(theirs).parameters.values())
        assert [(one.name, one.default) for one in mine[: len(yours)]] == [
            (one.name, one.default) for one in yours
        ]
    given = list(inspect.signature(BlockMask.from_kv_blocks).parameters)
    assert given == list(inspect.signature(torch_flex.BlockMask.from_kv_blocks).parameters)[: len(given)]


@pytest.mark.parametrize("case", TORCH_CASES[::3], ids=str)
def test_torch_and_back(case: Case) -> None:
    ours, theirs = both(case, 23, 40, 8)
    there = ours.to_torch()
    assert_same(there, theirs)
    assert there.shape == theirs.shape
    back = BlockMask.from_torch(theirs)
    assert not back.analysed
    assert_same(back, theirs)
    assert_same(back.to_torch(), theirs)
    if ours.program.captures == ():
        assert torch.equal(back.to_bool(), ours.to_bool())


@pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile"
)  # the dense path is the point
@pytest.mark.parametrize("of", ["library mask", "function", "part"])
def test_torchs_flex_attention_takes_the_converted_mask(of: str) -> None:
    lengths = torch.tensor([30, 11], device="cpu")

    def padded(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx < lengths[b]) & (q_idx >= kv_idx)

    mod: MaskMod = masks.sliding_window(9) if of == "library mask" else padded
    mask = create_block_mask(mod, 2, None, 32, 32, "cpu", 8)
    if of == "part":
        mask = mask.crop(q=(5, 31), kv=(2, 30))
    q, k, v = (
        torch.randn(2, 1, length, 8, dtype=torch.float64) for length in (mask.q_len, mask.kv_len, mask.kv_len)
    )
    out = torch_flex.flex_attention(q, k, v, block_mask=mask.to_torch())
    visible = mask.to_bool()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    torch.testing.assert_close(out, expected.masked_fill(~visible.any(-1, keepdim=True), 0.0))


def test_torch_mask_takes_library_tensors_along() -> None:
    table = torch.ones(8, 8, dtype=torch.bool, device="cpu")
    mask = create_block_mask(masks.causal & masks.dense(table), None, None, 8, 8, "cpu", 4)
    there = mask.to_torch("meta")
    assert there.kv_indices.device.type == "meta"
    index = torch.zeros(3, dtype=torch.int64, device="meta")
    assert there.mask_mod(index, index, index, index).device.type == "meta"
    assert mask.to_bool().device.type == "cpu"


def test_large_torch_mask_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = create_block_mask(masks.causal, 3, None, 4096, 4096, "cpu", 16)
    assert mask.torch_nbytes() == 2 * 2 * (256 * 256 + 256) * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask.to_torch()
    monkeypatch.setattr(convert, "_LARGE", 1 << 20)
    with pytest.warns(UserWarning, match=r"to_torch\(\) takes 0.0 GiB .* larger blocks than \(16, 16\)"):
        mask.to_torch()
    monkeypatch.setattr(convert, "_AT_ONCE", 1000)
    assert torch.equal(
        create_block_mask(masks.causal, 3, None, 4096, 4096, "cpu", 16).kv_indices, mask.kv_indices
    )


def test_refusals() -> None:
    with pytest.raises(ArgumentTypeError, match=r"from_torch\(\) expects .*BlockMask, got a builtins.int"):
        BlockMask.from_torch(3)  # type: ignore[arg-type]
    mask = create_block_mask(masks.causal, None, None, 8, 8, "cpu", 4)
    bare = create_block_mask(mask.program, None, None, 8, 8, "cpu", 4)
    with pytest.raises(ArgumentError, match=r"to_torch\(\) needs the function that the mask was made from"):
        bare.to_torch()
