"""What a comparison prints: the words, the columns and the decimals of the text it comes from."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from saccade import bench
from saccade.bench import sizes
from saccade.bench.compare import compare
from saccade.bench.comparison_table import print_comparison
from saccade.bench.sizes import AttentionSize
from saccade.errors import ArgumentError
from saccade.masks import causal
from saccade.scores import softcap

WIDTH = 110


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **options: object) -> str:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    bench.test_mask(B=1, H=2, S=256, D=16, device="cpu", rounds=1, compiled=False, **options)  # type: ignore[arg-type]
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= WIDTH
    return text


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(capsys, monkeypatch, mask_mod=causal)
    lines = text.splitlines()
    assert lines[:3] == [
        "Results for causal:",
        "B=1 H=2 S=256 D=16, float32 on cpu",
        "Correctness check passed ✅",
    ]
    heading = [cell.strip() for cell in lines[4].split("│")[1:-1]]
    assert heading == ["Operation", "FW Time (ms)", "FW FLOPS (TF/s)", "BW Time (ms)", "BW FLOPS (TF/s)"]
    time, rate = r"\d+\.\d{4}", r"\d+\.\d\d"
    for line in lines[6:10]:
        _, *cells = [cell.strip() for cell in line.split("│")[1:-1]]
        assert all(
            re.fullmatch(pattern, cell) for pattern, cell in zip((time, rate) * 2, cells, strict=True)
        ), line
    assert "Density of the blocks: 0.7500\n" in text
    assert text.endswith("(0, 0)\n░░  \n██░░\n")


def test_what_is_missing_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(capsys, monkeypatch, score_mod=softcap(2.0))
    assert re.search(r"│ SDPA \+ mask +│ +– │ +– │ +– │ +– │", text)
    assert "SDPA + mask: not run: SDPA only adds to scores, and this score_mod does more." in text
    assert "Density of the blocks: 1.0000 (no block mask)" in text


def test_check_and_drawing_can_be_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(capsys, monkeypatch, mask_mod=causal, skip_correctness=True, print_mask=False)
    assert "Correctness was not checked." in text
    assert "✅" not in text
    assert "░░" not in text


def test_a_missing_backward_and_a_scaled_size_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 2 * AttentionSize(1, 1, 200, 200, 16).peak_bytes)
    comparison = compare(
        mask_mod=causal, size=AttentionSize(2, 2, 200, 200, 16), device="cpu", rounds=1, compiled=False
    )
    object.__setattr__(comparison.rows[2], "backward", None)
    object.__setattr__(comparison.rows[2], "reason", "it is tired")
    out = io.StringIO()
    print_comparison(comparison, Console(file=out, width=WIDTH))
    assert "Scaled down from B=2 H=2 S=200 D=16 to B=1 H=1 S=200 D=16: it would take" in out.getvalue()
    assert "saccade (cpu): no backward: it is tired." in out.getvalue()


def test_no_mod_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="got neither; for plain attention give mask_mod=noop_mask"):
        bench.test_mask()


def test_pytest_leaves_it_alone() -> None:
    assert bench.test_mask.__test__ is False  # type: ignore[attr-defined]
