"""R1, the comparison table (`test_mask` in the text): words, columns, decimals, and how work is counted."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex

from saccade import bench, causal, softcap
from saccade.bench.compare import BACKWARD, FORWARD, Comparison, compare
from saccade.bench.sizes import AttentionSize

TINY = AttentionSize(1, 2, 256, 256, 16)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(mask_mod=causal, size=TINY, device="cpu", rounds=1, compiled=False, checked=False)


def test_the_default_sizes_are_the_texts() -> None:
    """'for a pattern and B, H, S, D (default 16, 16, 8192, 64)'"""
    defaults = {name: one.default for name, one in inspect.signature(bench.test_mask).parameters.items()}
    assert [defaults[name] for name in "BHSD"] == [16, 16, 8192, 64]
    assert (defaults["score_mod"], defaults["mask_mod"]) == (None, None)


def test_the_printed_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """'a title "Results for NAME:", columns ... with 4 and 2 decimals, "Correctness check passed ✅"'"""
    monkeypatch.setenv("COLUMNS", "120")
    bench.test_mask(mask_mod=causal, B=1, H=2, S=256, D=16, device="cpu", rounds=1, compiled=False)
    text = capsys.readouterr().out
    assert text.startswith("Results for causal:\n")
    assert "Correctness check passed ✅" in text.splitlines()
    rows = [[cell.strip() for cell in re.split("[│┃|]", line)[1:-1]] for line in text.splitlines()]
    rows = [row for row in rows if row]
    assert rows[0] == ["Operation", "FW Time (ms)", "FW FLOPS (TF/s)", "BW Time (ms)", "BW FLOPS (TF/s)"]
    assert len(rows) >= 4  # the heading and three rows
    for name, *cells in rows[1:]:
        assert [bool(re.fullmatch(r"\d+\.\d{4}", cells[place])) for place in (0, 2)] == [True] * 2, name
        assert [bool(re.fullmatch(r"\d+\.\d{2}", cells[place])) for place in (1, 3)] == [True] * 2, name
    assert re.search(r"[Dd]ensity.*0\.75", text)
    assert "░░  \n██░░" in text  # the block mask


def test_the_contenders(comparison: Comparison) -> None:
    """'causal flash attention (SDPA `is_causal`), SDPA with a dense mask, and this library'

    Its second half: 'FLOPs = density·4·B·H·S²·D forward, ·10 backward; the causal flash row always uses
    density 0.5, the others the block mask's (1 without one)'.
    """
    (flash, dense, *ours) = comparison.rows
    assert flash.contender.startswith("causal flash")
    assert "SDPA" in dense.contender
    assert "mask" in dense.contender
    assert all("saccade" in row.contender for row in ours)
    assert ours
    assert flash.density == 0.5
    assert [row.density for row in (dense, *ours)] == [0.75] * (1 + len(ours))  # 3 of 4 blocks
    scored = compare(softcap(2.0), size=TINY, device="cpu", rounds=1, compiled=False, checked=False)
    assert scored.density == 1
    assert [row.density for row in scored.rows] == [0.5] + [1.0] * (len(scored.rows) - 1)


def test_torchs_flex_attention_stands_beside_it_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """'(with torch's flex_attention beside it where it runs)'; uncompiled here"""
    monkeypatch.setattr("saccade.backends.flex._compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: True)
    rows = compare(mask_mod=causal, size=TINY, device="cpu", rounds=1, checked=False).rows
    assert rows[-1].contender == "torch flex_attention"
    assert rows[-1].forward is not None
    assert rows[-1].density == 0.75
    assert rows[-1].backward is not None or rows[-1].reason


def test_work_is_counted_as_two_and_five_products(comparison: Comparison) -> None:
    """'(2 and 5 products of 2 FLOPs)'"""
    assert (FORWARD, BACKWARD) == (2 * 2, 5 * 2)
    for row in comparison.rows:
        for timing, multiplier in ((row.forward, 4), (row.backward, 10)):
            assert timing is not None
            flops = row.density * multiplier * 1 * 2 * 256**2 * 16
            rate = comparison.tflops(row, timing, multiplier)
            assert rate == pytest.approx(flops / timing.median_s / 1e12)


def test_neither_mod_is_an_error() -> None:
    """'an error when neither mod is given'"""
    with pytest.raises(ValueError, match="score_mod or a mask_mod, got neither"):
        bench.test_mask(B=1, H=1, S=128, D=16)


def test_sizes_that_do_not_fit_are_scaled_down_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """'Sizes that do not fit a machine are scaled down and said so.'"""
    monkeypatch.setattr("saccade.bench.sizes.free_bytes", lambda device: 10_000_000)
    size = AttentionSize(16, 16, 128, 128, 16)
    found = compare(mask_mod=causal, size=size, device="cpu", rounds=1, compiled=False, checked=False)
    assert found.size.scores < size.scores
    assert str(size) in found.scaling
    assert str(found.size) in found.scaling
    assert found.device == torch.device("cpu")
