"""`saccade bench gpu` as a user types it, on the host where no card is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from saccade.bench.contenders import Contender
from saccade.bench.gpu import run as bench_run
from saccade.bench.gpu import timed_case
from saccade.bench.gpu.ceilings import Ceilings
from saccade.bench.text_patterns import PATTERNS
from saccade.cli.main import app

WIDTH = 160
SMALL = (
    "--length", "32", "--head-dim", "16", "--tokens", "32", "--width", "32", "--rounds", "1",
    "--no-compiled", "--device", "cpu", "--backend", "eager",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "_measured_ceilings", lambda setup: Ceilings(8e14, 4e12))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return CliRunner().invoke(app, ["bench", "gpu", *arguments])


def test_tables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, plot = tmp_path / "gpu.json", tmp_path / "gpu.png"
    chosen = ("--pattern", "causal", "--out", str(out), "--plot", str(plot))
    result = run(monkeypatch, *chosen, *SMALL)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= WIDTH
    heading = lines[lines.index("forward, bfloat16, D=16") + 1]
    assert heading.split() == [
        "pattern", "B", "tokens", "saccade", "±", "TFLOP/s", "of", "peak", "floor", "auto",
        "SDPA", "flash", "mask", "torch's", "mask",
    ]  # fmt: skip
    assert "backward, bfloat16, D=16" in lines
    assert "GB/s of copy" in lines[lines.index("decode, bfloat16, D=16") + 1]
    text = " ".join(result.stdout.split())
    assert "auto: at most" in text
    assert "SDPA cuDNN: not run in 4 cases: cuDNN runs on CUDA devices, not on cpu." in text
    assert "bfloat16 matrix product 800 TFLOP/s, copy 4,000 GB/s." in text
    assert plot.stat().st_size > 10_000
    content = json.loads(out.read_text())
    assert content["benchmark"] == "gpu"
    assert {one["labels"]["phase"] for one in content["measurements"]} == {"forward", "backward", "decode"}


def test_flex_attention_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    small = [option for option in SMALL if option != "--no-compiled"]
    result = run(monkeypatch, "--pattern", "causal", "--only", "forward", *small)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "as long as saccade, least in forward causal S=32 D=16 B=1 H=2." in text
    assert "forward: flex takes" in text
    assert "flex FLASH: not run in forward causal S=32 D=16 B=1 H=2: flash_attn is not installed." in text


def test_what_there_was_no_time_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(
        monkeypatch,
        "--pattern",
        "causal",
        "--only",
        "forward",
        "--length",
        "16",
        "--minutes",
        "0.001",
        *SMALL,
    )
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "1 case left when 0.001 minutes were spent (give more with --minutes): causal S=32 D=16" in text


def test_a_wrong_result_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(query)

    def right(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    monkeypatch.setattr(
        timed_case,
        "participants",
        lambda case, work, **options: [
            Contender("saccade", 1.0, zeros),
            Contender("SDPA flash", 1.0, right),
            Contender("flex", 1.0, zeros),
        ],
    )
    result = run(monkeypatch, "--pattern", "causal", "--only", "forward", *SMALL)
    assert result.exit_code == 1
    row = next(line for line in result.stdout.splitlines() if line.startswith("causal"))
    assert "FAILED" in row
    # Where ours did not run, a peer shows its time.
    assert "µs" in row or "ms" in row
    text = " ".join(result.stdout.split())
    assert "FAILED in forward causal S=32 D=16 B=1 H=2: saccade: saccade: the output must be within" in text


def test_a_case_that_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(bench_run, "time_case", broken)
    result = run(monkeypatch, "--pattern", "causal", "--only", "forward", *SMALL)
    assert result.exit_code == 1
    assert "FAILED: causal S=32 D=16 B=1 H=2: OutOfMemoryError: no memory" in result.stdout


def test_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, message in {
        ("--pattern", "causl"): "no pattern called 'causl'; did you mean causal?",
        ("--pattern", "natten", "--only", "decode"): "no case is left: natten has no decoding step",
        ("--backend", "nothing", "--device", "cpu"): "backend must be one of",
        ("--backend", "eager"): "saccade bench gpu needs a CUDA device",
        (*SMALL, "--minutes", "0"): "minutes must be above 0",
        (*SMALL, "--plot", "speeds.gif"): "expected a file ending in .png, .svg, .pdf",
        (*SMALL, "--out", str(tmp_path / "none" / "x.json")): "expected a file that can be written",
    }.items():
        result = run(monkeypatch, *options)
        assert result.exit_code == 2, options
        assert message in result.stderr
    assert run(monkeypatch, "--only", "step").exit_code == 2


def test_help_names_every_pattern_and_hides_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    output = run(monkeypatch, "--help").output
    assert all(name in output for name in PATTERNS)
    assert "--backend" not in output
    assert "--device" not in output
