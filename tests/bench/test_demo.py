"""What the demo checks: right patterns pass, and each kind of fault is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.analysis.runs import BlockKind, Runs
from saccade.attention import explain
from saccade.bench import demo
from saccade.bench.demo import PatternResult, run_pattern
from saccade.bench.patterns import Pattern, Size, demo_patterns
from saccade.bench.torch_masks import fits_in_memory, same_blocks, torch_block_mask
from saccade.block_mask import BlockMask, create_block_mask
from saccade.masks import causal, padding, sliding_window

SMALL = demo_patterns(Size.SMALL)
WINDOW = Pattern("window", sliding_window(100), 300, 300, "300")


def result_with(monkeypatch: pytest.MonkeyPatch, pattern: Pattern, **changes: object) -> PatternResult:
    """Run a pattern whose BlockMask has some fields changed behind its back."""
    mask = create_block_mask(pattern.mask, None, None, pattern.q_len, pattern.kv_len, device="cpu")
    wrong = replace(mask, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(demo, "_create", lambda pattern: wrong)
    return run_pattern(pattern)


def test_a_right_pattern_has_no_fault() -> None:
    result = run_pattern(WINDOW)
    assert result.faults == ()
    assert result.torch is not None
    assert result.density == pytest.approx((100 * 101 / 2 + 200 * 100) / 300**2)
    assert result.blocks == {BlockKind.EMPTY: 4, BlockKind.PARTIAL: 5, BlockKind.FULL: 0}
    assert result.attention.error <= result.attention.bound < 1e-4
    assert len(result.build.samples_s) >= 5


def test_the_full_patterns_have_the_sizes_the_demo_promises() -> None:
    full = demo_patterns(Size.FULL)
    assert {pattern.extent for pattern in full} >= {"8,192", "64×64 image", "128×128 image"}
    assert all(1024 <= pattern.q_len <= 128 * 128 for pattern in full)
    assert [pattern.name for pattern in full if pattern.inputs is not None] == ["causal & document(text)"]
    assert len({(pattern.name, pattern.extent) for pattern in full}) == len(full) == len(SMALL)


@pytest.mark.parametrize("pattern", demo_patterns(Size.FULL), ids=lambda pattern: pattern.name)
def test_no_pattern_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, pattern: Pattern) -> None:
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: False)
    mask = create_block_mask(pattern.mask, pattern.batch, None, pattern.q_len, pattern.kv_len, device="cpu")
    takers: list[str | None] = []

    def planned(*inputs: Tensor, **options: Any) -> Tensor:
        takers.append(explain(*inputs, **options).backend)
        return torch.zeros(1)

    monkeypatch.setattr(demo, "flex_attention", planned)
    monkeypatch.setattr(demo, "dense_attention", lambda *inputs, **options: torch.zeros(1))
    demo._check_attention(pattern, mask)
    assert takers == ["cpu"]


def test_a_wrong_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = create_block_mask(WINDOW.mask, None, None, 300, 300, device="cpu").runs.to_dense()
    kinds[0, 0, 1, 0] = BlockKind.EMPTY
    result = result_with(monkeypatch, WINDOW, runs=Runs.from_dense(kinds))
    assert len(result.faults) == 4
    assert "pairs differ from the mask evaluated pair by pair" in result.faults[0]
    assert result.faults[1] == "1 blocks are of another kind than their pairs say"
    assert result.faults[2] == "its blocks differ from those of torch's create_block_mask"
    assert "attention is off by" in result.faults[3]


def test_a_wrong_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    other = create_block_mask(sliding_window(101), None, None, 300, 300, device="cpu")
    result = result_with(monkeypatch, WINDOW, program=other.program)
    assert [fault.split(" ")[0] for fault in result.faults] == ["200", "attention"]


def test_a_large_pattern_is_checked_on_its_middle_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_ATTENTION_SCORES", WINDOW.heads * 300 * 64)
    result = run_pattern(WINDOW)
    assert result.attention.rows == range(118, 182)
    assert not result.attention.is_whole
    assert result.faults == ()


def test_what_does_not_fit_is_not_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "fits_in_memory", lambda pairs: False)
    result = run_pattern(WINDOW)
    assert result.torch is None
    assert result.faults == ()
    assert fits_in_memory(1)
    assert not fits_in_memory(2**60) or demo.peak_memory(lambda: 0)[1] is None


def test_blocks_are_compared_with_torchs() -> None:
    def ours(mask: object, batch: int | None = None) -> BlockMask:
        return create_block_mask(mask, batch, None, 300, 300, device="cpu")  # type: ignore[arg-type]

    theirs = torch_block_mask(causal, None, 300, 300)
    assert same_blocks(ours(causal), theirs)
    assert not same_blocks(ours(sliding_window(100)), theirs)
    by_length = padding(lengths=torch.tensor([300, 20]))
    assert same_blocks(ours(by_length, 2), torch_block_mask(by_length, 2, 300, 300))
