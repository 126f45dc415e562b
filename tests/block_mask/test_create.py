"""From a mod to its mask: exact kinds, sizes, defaults, and every refusal."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import oracle
from catalogue import MASK_CASES, SCORE_CASES, Case, Sizes
from saccade import masks
from saccade.analysis.runs import BlockKind
from saccade.block_mask import arguments, create_block_mask, create_mask, pairs
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    DivisionByZeroError,
    IndexOutOfRangeError,
    MaskAxisError,
    ModError,
    UnsupportedError,
)


def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


@pytest.mark.parametrize("case", MASK_CASES, ids=str)
def test_mask_by_element_is_what_the_function_says(case: Case) -> None:
    for (q_len, kv_len), block in (((4, 6), 2), ((13, 29), (5, 4)), ((20, 9), 1)):
        mods = case.build(Sizes(q_len=q_len, kv_len=kv_len))
        assert mods.mask is not None
        sizes = (2 if case.reads_b else None, 2 if case.reads_h else None, q_len, kv_len)
        visible = oracle.visible_pairs(
            mods.plain_mask or mods.mask, sizes[0] or 1, sizes[1] or 1, q_len, kv_len, pairwise=case.pairwise
        )
        mask = create_block_mask(mods.mask, *sizes, "cpu", block)
        assert mask.shape == visible.shape
        assert torch.equal(mask.to_bool(), visible)
        assert mask.visible_pairs() == int(visible.sum())
        assert mask.density() == pytest.approx(float(visible.double().mean()))
        assert torch.equal(create_mask(mods.mask, *sizes, "cpu"), visible)


def test_pieces_of_any_size_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.arange(26, device="cpu") // 5
    mod = masks.document(ids) & masks.causal
    expected = create_mask(mod, None, None, 26, 26, "cpu")
    for at_once, piece in ((1, 1), (30, 4), (1000, 3)):
        monkeypatch.setattr(pairs, "_AT_ONCE", at_once)
        monkeypatch.setattr(pairs, "_PIECE", piece)
        for block in (6, (3, 64), 1 << 30):
            mask = create_block_mask(mod, 2, 3, 26, 26, "cpu", block)
            assert mask.visible_pairs() == 6 * int(expected.sum())
            assert torch.equal(mask.to_bool(), expected.expand(2, 3, -1, -1))
        assert torch.equal(create_mask(mod, None, None, 26, 26, "cpu"), expected)


def test_ragged_block_that_shows_all_it_has_is_full() -> None:
    mask = create_block_mask(masks.noop_mask, None, None, 10, 7, "cpu", 4)
    assert mask.runs.counts() == {BlockKind.EMPTY: 0, BlockKind.PARTIAL: 0, BlockKind.FULL: 6}
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_num_blocks.tolist() == [[[1, 1, 0]]]  # as torch counts: only uncut blocks
    assert mask.kv_num_blocks.tolist() == [[[1, 1, 2]]]


def test_unread_axes_are_stored_once() -> None:
    mask = create_block_mask(masks.causal, 3, 5, 64, 64, "cpu", 16)
    assert mask.shape == (3, 5, 64, 64)
    assert mask.runs.shape == (1, 1, 4, 4)
    assert mask.kv_indices.shape == (3, 5, 4, 4)
    assert mask.visible_pairs() == 15 * 64 * 65 // 2
    per_head = create_block_mask(lambda b, h, q, k: k < h * 8, 3, 5, 64, 64, "cpu", 16)
    assert per_head.runs.shape[:2] == (1, 5)


def test_a_million_tokens_take_little_memory() -> None:
    n = 1 << 20
    for mod in (masks.causal, masks.sliding_window(4096)):
        mask = create_block_mask(mod, None, None, n, n, "cpu")
        assert mask.runs.nbytes < 8e6
        assert len(str(mask)) < 2000
    n = 1 << 17
    window = create_block_mask(masks.sliding_window(4096), None, None, n, n, "cpu")
    assert window.visible_pairs() == 4096 * 4097 // 2 + (n - 4096) * 4096


@pytest.mark.parametrize("lengths", [(0, 0), (0, 5), (5, 0)])
def test_empty_axes(lengths: tuple[int, int]) -> None:
    mask = create_block_mask(causal, 2, None, *lengths, "cpu", 4)
    assert mask.shape == (2, 1, *lengths)
    assert mask.to_bool().shape == mask.shape
    assert (mask.visible_pairs(), mask.density(), mask.sparsity()) == (0, 0.0, 100.0)
    assert mask.to_dense().shape == (2, 1, -(-lengths[0] // 4), -(-lengths[1] // 4))
    assert mask.q_indices.shape == (2, 1, -(-lengths[1] // 4), -(-lengths[0] // 4))
    assert str(mask).startswith(f"BlockMask(shape={mask.shape}, sparsity=100.00%")
    assert create_mask(causal, 2, None, *lengths, "cpu").shape == mask.shape


def test_block_sizes_can_be_given_apart() -> None:
    mask = create_block_mask(causal, None, None, 64, 64, "cpu", Q_BLOCK_SIZE=16, KV_BLOCK_SIZE=8)
    assert mask.BLOCK_SIZE == (16, 8)
    assert create_block_mask(causal, None, None, 64, 64, "cpu", 32, KV_BLOCK_SIZE=8).BLOCK_SIZE == (32, 8)
    assert create_block_mask(causal, None, None, 64, 64, "cpu", [4, 2]).BLOCK_SIZE == (4, 2)  # type: ignore[arg-type]


def test_compile_flag_has_no_effect() -> None:
    assert create_block_mask(causal, None, None, 64, 64, "cpu", _compile=True) == create_block_mask(
        causal, None, None, 64, 64, "cpu"
    )


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.device("meta"),
        torch.inference_mode,
        torch.no_grad,
    ],
    ids=["default device meta", "inference mode", "no grad"],
)
def test_torchs_modes_change_nothing(state: object) -> None:
    lengths = torch.tensor([3, 9], device="cpu")
    plain = create_block_mask(masks.padding(lengths=lengths), 2, None, 9, 9, "cpu", 4)
    entered = state()  # type: ignore[operator]
    assert isinstance(entered, AbstractContextManager)
    with entered:
        mask = create_block_mask(masks.padding(lengths=lengths), 2, None, 9, 9, "cpu", 4)
        visible, indices = mask.to_bool(), mask.kv_indices
        part = mask[1, :, [0, 2]].crop(q=(1, 4)).to_bool()
    assert torch.equal(visible, plain.to_bool())
    assert torch.equal(indices, plain.kv_indices)
    assert torch.equal(part, plain.to_bool()[1:, :, [1, 2, 3]])


def test_default_device_is_the_accelerator_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_block_mask(causal, None, None, 8, 8).device == (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    )
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    mask = create_block_mask(causal, None, None, 8, 8)
    assert mask.kv_indices.device.type == "meta"
    assert create_mask(causal, None, None, 8, 8).device.type == "meta"


@pytest.mark.parametrize("case", [case for case in SCORE_CASES if not case.pairwise], ids=str)
def test_create_mask_of_a_score_mod_is_torchs(case: Case) -> None:
    mods = case.build(Sizes(q_len=7, kv_len=5, dtype=torch.float32))
    assert mods.score is not None
    ours = create_mask(mods.score, 2, 2, 7, 5, "cpu")
    assert torch.equal(ours, torch_flex.create_mask(mods.score, 2, 2, 7, 5, "cpu"))


def test_create_mask_hides_what_a_score_mod_sends_to_minus_infinity() -> None:
    def look_back(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where(q_idx >= kv_idx, score, -float("inf"))

    visible = create_mask(look_back, 2, None, 6, 6, "cpu")
    assert torch.equal(visible, torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6))
    assert visible.is_contiguous()


def test_create_mask_shows_every_other_score_even_if_not_finite() -> None:
    table = torch.tensor([0.0, float("inf"), float("nan"), -float("inf")], device="cpu")

    def odd(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[kv_idx]

    assert create_mask(odd, None, None, 1, 4, "cpu").flatten().tolist() == [True, True, True, False]


def test_what_is_not_a_mask_is_refused() -> None:
    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score

    with pytest.raises(
        ModError, match=r"create_block_mask\(\) expects a mask_mod.* got the score_mod 'score'"
    ):
        create_block_mask(score, None, None, 8, 8)  # type: ignore[arg-type]
    with pytest.raises(ModError, match=r"sliding_window is a factory, not yet a mod; call it first"):
        create_block_mask(masks.sliding_window, None, None, 8, 8)  # type: ignore[arg-type]
    with pytest.raises(ModError, match=r"create_mask\(\) expects mods.* got the int 3"):
        create_mask(3, None, None, 8, 8)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="compute_dq_write_order=True is not offered"):
        create_block_mask(causal, None, None, 8, 8, compute_dq_write_order=True)


def test_axis_that_is_read_must_be_given() -> None:
    with pytest.raises(
        MaskAxisError, match=r"the mod reads 'b'.* but B=None asks for one mask .* pass the batch size"
    ):
        create_block_mask(lambda b, h, q, k: k < b, None, 2, 8, 8)
    with pytest.raises(
        MaskAxisError, match=r"the mod reads 'h'.* but H=None .* pass the number of query heads"
    ):
        create_mask(lambda b, h, q, k: k < h, 2, None, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 1, 8, 8), ArgumentError, "B must be at least 1, got B=0"),
        ((1, -1, 8, 8), ArgumentError, "H must be at least 1, got H=-1"),
        ((1, 1, -8, 8), ArgumentError, "Q_LEN must be at least 0, got Q_LEN=-8"),
        ((1, 1, 8, -1), ArgumentError, "KV_LEN must be at least 0, got KV_LEN=-1"),
        ((1, 1, 8.0, 8), ArgumentTypeError, "Q_LEN must be an integer, got float 8.0"),
        ((True, 1, 8, 8), ArgumentTypeError, "B must be an integer, got bool True"),
    ],
)
def test_sizes_are_checked(sizes: tuple[int, int, int, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_block_mask(causal, *sizes)
    with pytest.raises(error, match=message):
        create_mask(causal, *sizes)


def test_block_sizes_are_checked() -> None:
    with pytest.raises(ArgumentError, match="BLOCK_SIZE must be at least 1, got BLOCK_SIZE=0"):
        create_block_mask(causal, None, None, 8, 8, BLOCK_SIZE=0)
    with pytest.raises(ArgumentError, match="KV_BLOCK_SIZE must be at least 1"):
        create_block_mask(causal, None, None, 8, 8, KV_BLOCK_SIZE=-2)
    with pytest.raises(ArgumentTypeError, match=r"an integer or a pair \(queries, keys\), got \(1, 2, 3\)"):
        create_block_mask(causal, None, None, 8, 8, BLOCK_SIZE=(1, 2, 3))  # type: ignore[arg-type]


def test_faults_that_decide_a_pair_are_told() -> None:
    ids = torch.arange(6, device="cpu")
    with pytest.raises(IndexOutOfRangeError, match="ids"):
        create_block_mask(lambda b, h, q, k: ids[q] == ids[k], None, None, 8, 8, "cpu", 4)
    with pytest.raises(DivisionByZeroError, match="divisor other than 0"):
        create_mask(lambda b, h, q, k: q // k == 1, None, None, 8, 8, "cpu")


def test_use_with_other_sizes_is_refused() -> None:
    lengths = torch.tensor([4], device="cpu")
    shared = create_block_mask(causal, None, None, 8, 8, "cpu")
    shared.check_usable(16, 4, 8, 8)
    fixed = create_block_mask(causal, 2, 3, 8, 8, "cpu")
    fixed.check_usable(2, 3, 8, 8)
    with pytest.raises(
        MaskAxisError, match=r"for B=2, but the call has batch 4; create it with B=4, or with B=None"
    ):
        fixed.check_usable(4, 3, 8, 8)
    with pytest.raises(MaskAxisError, match="for H=3, but the call has query heads 1"):
        fixed.check_usable(2, 1, 8, 8)
    one = create_block_mask(masks.padding(lengths=lengths), 1, None, 8, 8, "cpu")
    one.check_usable(1, 7, 8, 8)
    with pytest.raises(
        MaskAxisError, match=r"reads 'b' and is for B=1, but the call has batch 2, which would all see"
    ):
        one.check_usable(2, 1, 8, 8)
    with pytest.raises(
        ValueError, match=r"q_len=8 and kv_len=8, but the query has 9 .* Q_LEN=9 and KV_LEN=8"
    ):
        shared.check_usable(1, 1, 9, 8)
    with pytest.raises(ValueError, match=r"block_mask.crop\(q=\(i, i \+ 1\), kv=\(j, j \+ 8\)\)"):
        shared.check_usable(1, 1, 1, 8)


def test_device_is_named_as_tensors_name_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_SINGLE", ())
    assert arguments.exact_device("meta") == torch.empty(0, device="meta").device
    assert arguments.exact_device("cuda:1") == torch.device("cuda", 1)
