"""The GPU engine's way of a call, interpreted: descriptors, analysis, kernels, trials, checks, operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backends.triton.calls import SMALL_TILES, assert_as_the_oracle, attend, draw, gradients
from backends.triton.interpreted import interpreted
from saccade import create_block_mask, explain, flex_attention
from saccade.backends.triton import backward, blocks, call, specialise, tile_trials
from saccade.backends.triton.kernels import KERNELS
from saccade.codegen.triton.spec import KernelKind, Tile
from saccade.errors import BackendError, DivisionByZeroError, IndexOutOfRangeError
from saccade.masks import and_masks, causal, document, sliding_window

LENGTHS = (24, 56)


def drawn(**sizes: Any) -> list[Tensor]:
    """A query, a key and a value without gradients."""
    return [leaf.detach() for leaf in draw(*LENGTHS, **sizes)]


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


class TestDescriptors:
    @interpreted
    def test_of_keys_and_values(self) -> None:
        leaves = draw(*LENGTHS, batch=2, dim=24, value_dim=40, dtype=torch.float16)
        mask = create_block_mask(causal, None, None, *LENGTHS, device="cpu", BLOCK_SIZE=16)
        options = {"USE_TMA": True}
        forms = [
            {"mask_mod": causal, "kernel_options": options},
            {"block_mask": mask, "kernel_options": options},
        ]
        before = set(KERNELS._entries)
        assert_as_the_oracle(leaves, forms, mask=causal)
        assert any(spec.descriptors for spec in set(KERNELS._entries) - before)

    @interpreted
    def test_of_full_float32_there_are_none(self) -> None:
        """Neither forward nor backward, and precision may change between calls."""
        leaves, options = draw(*LENGTHS, dim=16, value_dim=40), {"USE_TMA": True}
        before = set(KERNELS._entries)
        gradients(attend(leaves, kernel_options=options), leaves)
        added = set(KERNELS._entries) - before
        assert {KernelKind.FORWARD, KernelKind.QUERY_GRADIENT} <= {spec.kind for spec in added}
        assert not any(spec.descriptors for spec in added)

    @interpreted
    def test_of_keys_that_repeat_themselves_there_are_none(self) -> None:
        query, key, value = drawn(batch=2, kv_batch=1, dtype=torch.float16)
        tensors = (query, key.expand(2, -1, -1, -1), value.expand(2, -1, -1, -1))
        assert_same(attend(tensors, kernel_options={"USE_TMA": True}), attend(tensors))


@interpreted
def test_captures_that_hold_nothing_are_read_nowhere() -> None:
    nothing = torch.empty(0, 3)

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (kv_idx <= q_idx) | ((kv_idx < 0) & (nothing[q_idx, kv_idx] > 0))

    leaves = drawn()
    assert_same(attend(leaves, mask_mod=mask), attend(leaves, mask_mod=causal))


@interpreted
def test_a_mask_alone_is_analysed_first_and_a_changed_tensor_seen() -> None:
    ids = torch.arange(56) // 14
    leaves = draw(*LENGTHS)
    found: list[object] = []

    def noted(*arguments: Any, **options: Any) -> object:
        found.append(create_block_mask(*arguments, **options, BLOCK_SIZE=8))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specialise, "_ANALYSED_EACH_TIME", 0)
        patch.setattr(specialise, "_MOST_PACKED_QUERIES", 16)
        patch.setattr(blocks, "create_block_mask", noted)
        for _ in range(2):
            mask = and_masks(causal, document(ids))
            assert_as_the_oracle(leaves, [{"mask_mod": mask}], mask=mask)
            ids[7:] += 1
    assert len(found) == 2  # once for a forward and its backward


class TestKernels:
    @interpreted
    def test_one_serves_all_lengths_and_windows(self) -> None:
        def run(length: int) -> None:
            leaves = [leaf.detach() for leaf in draw(length, length + 9, dim=16, value_dim=16)]
            attend(leaves, mask_mod=sliding_window(length // 3))

        run(40)
        before = KERNELS.builds
        run(57)
        assert KERNELS.builds == before

    @interpreted
    def test_results_that_nobody_wants_are_not_given(self) -> None:
        leaves = drawn()
        out = flex_attention(*leaves, enable_gqa=True, backend="triton", kernel_options=SMALL_TILES)
        assert torch.equal(out, attend(leaves)[0])

    @interpreted
    def test_explain_tells_what_would_run(self) -> None:
        told = str(explain(*drawn(), enable_gqa=True, backend="triton", kernel_options=SMALL_TILES))
        assert "backend: triton" in told
        assert "q_tile 16, kv_tile 32" in told
        assert "kernel forward" in told
        assert "target interpreter:0" in told


@interpreted
def test_trials_change_no_result() -> None:
    """Nor a gradient: what trials add up is thrown away, as are the tables of all tiles but those taken."""
    table = torch.randn(5, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[(q_idx - kv_idx) % 5]

    leaves = draw(70, 40, heads=2, kv_heads=1)
    every = [*leaves, table]
    mask = create_block_mask(causal, None, None, 70, 40, device="cpu", BLOCK_SIZE=16)
    form: dict[str, Any] = {"score_mod": score, "block_mask": mask, "enable_gqa": True, "return_lse": True}
    tried: list[int] = []

    def median_seconds(work: Any, device: torch.device) -> float:
        work()
        tried.append(1)
        return -float(len(tried))  # the last is the fastest

    with pytest.MonkeyPatch.context() as patch:
        for module in (call, backward):
            patch.setattr(module, "tile_choices", lambda *_: (Tile(16, 32), Tile(32, 16)))
        patch.setattr(tile_trials, "median_seconds", median_seconds)
        results = flex_attention(*leaves, **form, backend="triton", kernel_options={"max_autotune": True})
        found = gradients(results, every)
    assert len(tried) == 9  # of the forward, and of each kernel of gradients: the default and two more
    tables = [key for key in mask._memo if isinstance(key, tuple) and key[0] == "device_tables"]
    assert len(tables) == 2  # by query, for two kernels, and by key
    expected = gradients(flex_attention(*leaves, **form, backend="eager"), every)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


class TestChecks:
    table = torch.arange(1, 21)

    def out_of_range(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.table[kv_idx] > 0

    def raising(self, **form: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SACCADE_GPU_CHECKS", "1")
            attend(drawn(), **form)

    @interpreted
    def test_an_index_out_of_range_raises_where_one_asks_for_it(self) -> None:
        with pytest.raises(IndexOutOfRangeError, match="has 20 entries in dimension 0, got index 20"):
            self.raising(mask_mod=self.out_of_range)
        attend(drawn(), mask_mod=self.out_of_range)

    @interpreted
    def test_so_does_a_division_by_zero(self) -> None:
        with pytest.raises(DivisionByZeroError, match="kv_idx"):
            self.raising(score_mod=lambda s, b, h, q, k: s * (q // (k - 3)))

    @interpreted
    def test_hidden_pairs_raise_nothing(self) -> None:
        def seen(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return (kv_idx < 20) & self.out_of_range(b, h, q_idx, kv_idx)

        self.raising(mask_mod=seen, score_mod=lambda s, b, h, q, k: s * self.table[k])
        self.raising(mask_mod=seen, kernel_options={"SPLIT_KV": 2})


class _Watching(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@interpreted
def test_the_operator_computes_with_it() -> None:
    ids = torch.arange(56) // 14
    table = torch.randn(4, requires_grad=True)
    leaves = draw(*LENGTHS)
    every = [*leaves, table]
    mask = and_masks(causal, document(ids))
    watched = create_block_mask(mask, None, None, *LENGTHS, device="cpu", BLOCK_SIZE=16)
    form: dict[str, Any] = {
        "score_mod": lambda s, b, h, q, k: s + table[h] * (q - k),
        "block_mask": watched,
        "enable_gqa": True,
        "return_lse": True,
    }
    with _Watching() as mode:
        found = gradients(flex_attention(*leaves, **form, backend="triton"), every)
    assert {"saccade::attention", "saccade::attention_backward"} <= set(mode.seen)
    expected = gradients(flex_attention(*leaves, **form, backend="eager"), every)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", ["CUDA", "CPU", "XPU"])
def test_the_operator_is_there_for_tensors_of_any_device(device: str) -> None:
    for name in ("saccade::attention", "saccade::attention_backward"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, device)


def test_without_the_interpreter_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="only in triton's interpreter: set TRITON_INTERPRET=1"):
        flex_attention(*drawn(), enable_gqa=True, backend="triton")
