"""`saccade bench compare` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from saccade.bench.text_patterns import pattern_names
from saccade.cli import bench as cli_bench
from saccade.cli.main import app

WIDTH = 110
SMALL = ("--batch", "1", "--heads", "1", "--seq", "64", "--head-dim", "8", "--rounds", "1", "--no-compiled")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner().invoke(app, ["bench", "compare", *arguments])


def test_one_pattern(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    result = run(
        monkeypatch, "--pattern", "sliding_window", *SMALL, "--dtype", "bfloat16", "--json", str(path)
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Results for sliding_window:"
    assert max(map(len, lines)) <= WIDTH
    assert "bfloat16" in lines[1]
    content = json.loads(path.read_text())
    assert content["benchmark"] == "compare"
    assert {entry["case"] for entry in content["measurements"]} == {
        "sliding_window, forward",
        "sliding_window, backward",
    }


def test_all_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_bench, "pattern_names", lambda: ("noop", "causal"))
    result = run(monkeypatch, "--pattern", "all", *SMALL)
    titles = [line for line in result.stdout.splitlines() if line.startswith("Results for")]
    assert titles == ["Results for noop:", "Results for causal:"]


def test_wrong_names(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "--pattern", "naten", *SMALL)
    assert result.exit_code == 2
    assert "there is no pattern called 'naten'; did you mean natten?" in result.stderr
    result = run(monkeypatch, *SMALL, "--dtype", "float8")
    assert result.exit_code == 2
    assert "--dtype must be one of float32, float16, bfloat16, got 'float8'" in result.stderr


def test_help_names_every_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(monkeypatch, "--help").output
    assert all(name in output for name in pattern_names())
