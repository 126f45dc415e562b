"""`saccade bench jagged` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from saccade.bench.cpu import measured_run, pauses
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.jagged.batches import BATCHES, Batch
from saccade.cli.main import app

WIDTH = 130
SMALL = ("--batch", "short", "--dtype", "float32", "--rounds", "1", "--backend", "eager")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATCHES, "short", Batch(6, 9, heads=2, head_dim=8))
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, 2e12, 1e11))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner().invoke(app, ["bench", "jagged", *arguments])


def test_tables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, plot = tmp_path / "jagged.json", tmp_path / "jagged.png"
    result = run(monkeypatch, *SMALL, "--out", str(out), "--plot", str(plot))
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    for phase in ("forward", "backward", "forward and backward"):
        heading = " ".join(lines[lines.index(f"{phase}, float32") + 1].split())
        assert heading == (
            "pattern tokens D saccade ± GFLOP/s of peak SDPA nested padded + mask padded, no mask SDPA each"
        )
    causal = next(line for line in lines if line.startswith("short, causal"))
    assert "not run" in causal
    assert causal.count("×") == 3
    text = " ".join(result.stdout.split())
    assert "SDPA nested: not run in 3 cases: RuntimeError: No viable backend" in text
    assert "torch's flex_attention has no gradients on a CPU, so it has no column" in text
    assert plot.stat().st_size > 10_000
    content = json.loads(out.read_text())
    assert content["benchmark"] == "jagged"
    assert {entry["labels"]["pattern"] for entry in content["measurements"]} == {
        "short, full", "short, causal",
    }  # fmt: skip
    assert {entry["contender"] for entry in content["measurements"]} == {
        "saccade", "SDPA nested", "padded + mask", "padded, no mask", "SDPA each",
    }  # fmt: skip


def test_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in {
        ("--batch", "long"): "batch must be one of text, short, got 'long'",
        ("--pattern", "casual"): "no pattern called 'casual'; did you mean causal?",
        ("--dtype", "float8"): "dtype must be one of float32, bfloat16, got 'float8'",
        ("--backend", "nothing"): "backend must be one of",
    }.items():
        result = run(monkeypatch, *options)
        assert result.exit_code == 2, options
        assert message in result.stderr


def test_files_are_tried_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: pytest.fail("it ran"))
    for option, name, message in (
        ("--out", tmp_path / "missing" / "x.json", "expected a file that can be written"),
        ("--plot", tmp_path / "x.gif", "expected a file ending in .png, .svg, .pdf"),
    ):
        result = run(monkeypatch, *SMALL, option, str(name))
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
