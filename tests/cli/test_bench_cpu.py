"""`saccade bench cpu` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from saccade.bench.cpu import measured_run, pauses, timed_case
from saccade.bench.cpu import run as bench_run
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.patterns import PATTERNS
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.timing import Timing
from saccade.cli.main import app

WIDTH = 130
SMALL = (
    "--length", "64", "--head-dim", "16", "--dtype", "float32", "--rounds", "1", "--no-compiled",
    "--backend", "eager",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(timed_case, "beyond_caches", lambda: 1)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, 2e12, 1e11))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner().invoke(app, ["bench", "cpu", *arguments])


def test_tables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, plot = tmp_path / "cpu.json", tmp_path / "cpu.png"
    result = run(
        monkeypatch,
        "--pattern",
        "causal",
        "--pattern",
        "softcap",
        *SMALL,
        "--out",
        str(out),
        "--plot",
        str(plot),
    )
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    assert "forward, float32" in lines
    assert "decode, float32" in lines
    heading = lines[lines.index("forward, float32") + 1]
    assert heading.split() == [
        "pattern", "tokens", "D", "saccade", "±", "GFLOP/s", "of", "peak", "SDPA", "SDPA", "+", "mask",
    ]  # fmt: skip
    text = " ".join(result.stdout.split())
    assert "SDPA + mask: not run in 2 cases: SDPA only adds to scores, and this score_mod does more." in text
    assert "float32 multiply-add 1,000 GFLOP/s, bfloat16 dot product 2,000 GFLOP/s, read 100 GB/s" in text
    assert plot.stat().st_size > 10_000
    content = json.loads(out.read_text())
    assert content["benchmark"] == "cpu"
    assert content["facts"]["float32_multiply_add_flop_s"] == 1e12
    assert {entry["labels"]["phase"] for entry in content["measurements"]} == {"forward", "decode"}
    assert {entry["contender"] for entry in content["refusals"]} == {"SDPA + mask"}


def test_where_ours_refuses_peers_show_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [*SMALL[:-1], "sdpa"]
    result = run(monkeypatch, "--pattern", "documents", "--only", "forward", *small)
    row = next(line for line in result.stdout.splitlines() if line.startswith("documents"))
    assert "not run" in row
    assert row.split()[-1] in ("µs", "ms", "s")
    assert "saccade: not run in forward documents float32 S=64 D=16: its only patterns are" in result.stdout


def test_the_other_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Timing(1.0, (1.0,))

    def overheads(dtype: str, **options: object) -> Outcome:
        facts = {"causal": {"per_pair_overhead": 0.0}, "alibi": {"per_pair_overhead": 0.125}}
        return Outcome(
            "overhead",
            "overhead",
            {},
            {"dtype": dtype, "phase": "forward"},
            {"causal": second, "alibi": second},
            facts=facts,
        )

    def memory(dtype: str, **options: object) -> Outcome:
        facts = {"saccade": {"growth_bytes": 10**6, "call_bytes": 2 * 10**6, "target_bytes": 3 * 10**6}}
        return Outcome(f"memory {dtype}", "memory", {}, {"dtype": dtype}, {"saccade": second}, facts=facts)

    monkeypatch.setattr(bench_run.Selection, "cases", lambda self: (None,))
    monkeypatch.setattr(
        bench_run, "time_case", lambda case, **options: Outcome("nobody", "none", {}, {}, {}, {"x": "tired"})
    )
    monkeypatch.setattr(bench_run, "time_overheads", overheads)
    monkeypatch.setattr(bench_run, "measure_memory", memory)
    monkeypatch.setattr(
        bench_run, "time_tiny_calls", lambda **options: Outcome("tiny", "tiny", {}, {}, {"saccade": second})
    )
    monkeypatch.setattr(bench_run, "time_first_calls", lambda **options: [])
    result = run(monkeypatch, "--memory", "--backend", "eager")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for expected in (
        "mods on top of causal attention",
        "+12.5 %",
        "what a call costs before it computes",
        "1.00 MB 2.00 MB 3.00 MB",
        "x: not run in nobody: tired.",
    ):
        assert expected in text


def test_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options, message in {
        ("--pattern", "causl"): "no pattern called 'causl'; did you mean causal?",
        ("--dtype", "float8"): "dtype must be one of float32, bfloat16, got 'float8'",
        ("--backend", "nothing"): "backend must be one of",
        ("--pattern", "natten", "--only", "decode"): "no case is left",
        ("--plot", "speeds.gif"): "expected a file ending in .png, .svg, .pdf, got path='speeds.gif'",
    }.items():
        result = run(monkeypatch, *options)
        assert result.exit_code == 2, options
        assert message in result.stderr
    assert run(monkeypatch, "--only", "backward").exit_code == 2
    result = run(monkeypatch, "--pattern", "full", *SMALL, "--out", str(tmp_path / "no directory" / "x.json"))
    assert result.exit_code == 2
    assert "expected a file that can be written" in result.stderr


def test_help_names_every_pattern_and_hides_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(monkeypatch, "--help").output
    assert all(name in output for name in PATTERNS)
    assert "--backend" not in output
