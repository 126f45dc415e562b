"""The benchmarks at tiny sizes: they measure, and a wrong result stops them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saccade.analysis.runs import BlockKind, Runs
from saccade.bench import block_masks, tracing
from saccade.bench.block_masks import bench_masks, check_mask, mask_cases
from saccade.bench.torch_masks import torch_block_mask
from saccade.bench.tracing import bench_trace, ten_ops
from saccade.block_mask import create_block_mask
from saccade.errors import CheckError
from saccade.masks import causal, sliding_window
from saccade.tracing import trace


def test_masks_are_timed_alone_and_beside_torch() -> None:
    steps: list[str] = []
    report = bench_masks(long=5000, short=(256,), rounds=2, compiled=False, progress=steps.append)
    names = [case.name for case in mask_cases(256)]
    assert [(m.case, m.contender) for m in report.measurements] == [
        *((name, "saccade") for name in names),
        *((name, contender) for name in names for contender in ("saccade", "torch")),
    ]
    assert all(len(m.timing.samples_s) == 2 for m in report.measurements)
    assert all(m.facts["mask_bytes"] for m in report.measurements if m.contender == "saccade")
    assert len(steps) == 6


def test_the_compiled_form_is_a_contender_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def uncompiled(
        mod: object, batch: int | None, q_len: int, kv_len: int, *, compiled: bool = False
    ) -> object:
        asked.append(compiled)
        return torch_block_mask(mod, batch, q_len, kv_len)  # type: ignore[arg-type]

    monkeypatch.setattr(block_masks, "torch_block_mask", uncompiled)
    report = bench_masks(long=256, short=(256,), rounds=1)
    assert [m.contender for m in report.measurements[3:6]] == ["saccade", "torch", "torch, compiled"]
    assert asked.count(True) == 3 * 2  # the first call and one round, for each mask


def test_torch_is_left_out_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_masks, "fits_in_memory", lambda pairs: False)
    report = bench_masks(long=256, short=(256,), rounds=1)
    assert {m.contender for m in report.measurements} == {"saccade"}


@pytest.mark.parametrize("length", [200, 5000])
def test_the_closed_forms_are_right(length: int) -> None:
    for case in mask_cases(length):
        for seed in (0, 1):
            check_mask(
                case, create_block_mask(case.make(seed), None, None, length, length, device="cpu"), seed
            )
        assert case.shape == {"q_len": length, "kv_len": length}


def test_a_wrong_mask_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = mask_cases(1000)[0]
    other = create_block_mask(sliding_window(100), None, None, 1000, 1000, device="cpu")
    with pytest.raises(CheckError, match="causal has 500,500 visible pairs, but its mask has 95,050"):
        check_mask(case, other, 0)
    right = create_block_mask(causal, None, None, 1000, 1000, device="cpu")
    kinds = right.runs.to_dense()
    kinds[0, 0, 3, 0] = BlockKind.PARTIAL  # still every pair visible there
    with pytest.raises(CheckError, match=r"block \(3, 0\) is FULL, but its mask says PARTIAL"):
        check_mask(case, replace(right, runs=Runs.from_dense(kinds)), 0)
    monkeypatch.setattr(block_masks, "same_blocks", lambda ours, theirs: False)
    with pytest.raises(
        CheckError, match="causal at 256 tokens must have the blocks of torch, but has others"
    ):
        bench_masks(long=256, short=(256,), rounds=1, compiled=False)


def test_tracing_is_timed() -> None:
    steps: list[str] = []
    report = bench_trace(rounds=1, progress=steps.append)
    cases = [m.case for m in report.measurements]
    assert cases[0] == cases[-1] == "mod: ten_ops"
    assert report.measurements[-1].contender == "torch make_fx"
    assert sum(case.startswith("op: ") for case in cases) == 6
    assert steps == ["mods", "single operations", "torch's make_fx"]
    assert all(m.timing.median_s > 0 for m in report.measurements if m.case.startswith("mod: "))


def test_ten_ops_are_ten() -> None:
    assert len(str(trace(ten_ops)).splitlines()) > 1


def test_a_wrong_program_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "trace", lambda mod: trace(sliding_window(7)))
    with pytest.raises(CheckError, match="the program of ten_ops must give what the mod gives, but does not"):
        bench_trace(rounds=1, orientation=False)
