"""`saccade bench train` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from saccade.bench.cpu import measured_run, pauses
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.timing import Timing
from saccade.bench.train import run as bench_run
from saccade.bench.train.patterns import PATTERNS
from saccade.cli.main import app

WIDTH = 130
SMALL = (
    "--length", "64", "--head-dim", "16", "--dtype", "float32", "--rounds", "1", "--backend", "eager",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, 2e12, 1e11))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner().invoke(app, ["bench", "train", *arguments])


def test_tables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, plot = tmp_path / "train.json", tmp_path / "train.png"
    chosen = ("--pattern", "causal", "--pattern", "alibi", "--out", str(out), "--plot", str(plot))
    result = run(monkeypatch, *chosen, *SMALL)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    for title in ("backward, float32", "forward and backward, float32"):
        heading = lines[lines.index(title) + 1]
        assert heading.split() == [
            "pattern", "tokens", "D", "saccade", "±", "GFLOP/s", "of", "peak",
            "SDPA", "SDPA", "+", "mask", "SDPA", "+", "bias",
        ]  # fmt: skip
    text = " ".join(result.stdout.split())
    assert "torch's flex_attention has no gradients on a CPU, so it has no column" in text
    assert "float32 multiply-add 1,000 GFLOP/s, bfloat16 dot product 2,000 GFLOP/s" in text
    assert plot.stat().st_size > 10_000
    content = json.loads(out.read_text())
    assert content["benchmark"] == "train"
    assert {entry["labels"]["phase"] for entry in content["measurements"]} == {"backward", "step"}
    assert {entry["contender"] for entry in content["measurements"]} == {
        "saccade", "SDPA", "SDPA + mask", "SDPA + bias",
    }  # fmt: skip


def test_where_ours_refuses_peers_show_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [*SMALL[:-1], "sdpa"]
    result = run(monkeypatch, "--pattern", "documents", "--only", "backward", *small)
    row = next(line for line in result.stdout.splitlines() if line.startswith("documents"))
    assert "not run" in row
    assert row.split()[-1] in ("µs", "ms", "s")
    assert "saccade: not run in backward documents float32 S=64 D=16: its only patterns are" in result.stdout


def test_the_other_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Timing(1.0, (1.0,))

    def dropout(dtype: str, **options: object) -> list[Outcome]:
        facts = {"causal": {"per_pair_overhead": 0.0}, "dropout": {"per_pair_overhead": 0.25}}
        labels, timings = {"dtype": dtype, "phase": "backward"}, {"causal": second, "dropout": second}
        return [Outcome("overhead", "overhead", {}, labels, timings, facts=facts)]

    def memory(dtype: str, **options: object) -> Outcome:
        facts = {"saccade": {"growth_bytes": 10**6, "call_bytes": 2 * 10**6, "target_bytes": 3 * 10**6}}
        return Outcome(f"memory {dtype}", "memory", {}, {"dtype": dtype}, {"saccade": second}, facts=facts)

    tiny = Outcome("tiny backward", "tiny", {}, {}, {"saccade": second})
    monkeypatch.setattr(bench_run.Selection, "cases", lambda self: ())
    monkeypatch.setattr(bench_run, "time_dropout", dropout)
    monkeypatch.setattr(bench_run, "measure_step_memory", memory)
    monkeypatch.setattr(bench_run, "time_tiny_steps", lambda **options: [tiny])
    result = run(monkeypatch, "--memory", "--backend", "eager")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for expected in (
        "dropout on top of causal attention",
        "dropout backward float32 1.00 s – +25.0 %",
        "what a call costs before it computes",
        "tiny backward saccade",
        "3·(q + k + v + out + their gradients) + 64 MB",
        "1.00 MB 2.00 MB 3.00 MB",
    ):
        assert expected in text


def test_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in {
        ("--pattern", "causl"): "no pattern called 'causl'; did you mean causal?",
        ("--pattern", "natten"): "no pattern called 'natten'; choose one of full",
        ("--dtype", "float8"): "dtype must be one of float32, bfloat16, got 'float8'",
        ("--backend", "nothing"): "backend must be one of",
        ("--plot", "speeds.gif"): "expected a file ending in .png, .svg, .pdf, got path='speeds.gif'",
    }.items():
        result = run(monkeypatch, *options)
        assert result.exit_code == 2, options
        assert message in result.stderr
    assert run(monkeypatch, "--only", "forward").exit_code == 2


def test_help_names_every_pattern_and_hides_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(monkeypatch, "--help").output
    assert all(name in output for name in PATTERNS)
    assert "--backend" not in output
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert "train" in CliRunner().invoke(app, ["bench", "--help"]).output


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_token_has_gradients_of_0_and_agrees(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    result = run(monkeypatch, "--length", "1", "--head-dim", "64", "--dtype", dtype, "--rounds", "1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/x.json", "No such file or directory"),
        ("", "Is a directory"),
        ("file/x.json", "Not a direct"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: pytest.fail("it ran"))
    result = run(monkeypatch, "--out", str(tmp_path / name), *SMALL)
    assert result.exit_code != 0
    message = " ".join(result.output.split())
    assert "expected a file that can be written" in message
    assert reason in message


def test_no_spread_is_shown_of_a_single_round(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "--pattern", "causal", "--only", "step", *SMALL)
    row = next(line for line in result.stdout.splitlines() if line.startswith("causal"))
    assert row.split()[5] == "–"
