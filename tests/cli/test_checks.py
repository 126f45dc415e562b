"""`saccade diff`, `saccade verify` and `saccade doctor --selftest` as a user types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from saccade.backends import dense
from saccade.backends.base import Results
from saccade.bench.selftest import SelftestCase, SelftestResult
from saccade.bench.verify import BLOCKS, Check, Part, Shape
from saccade.cli import doctor
from saccade.cli import verify as cli_verify
from saccade.cli.main import app
from saccade.masks import causal

WIDTH = 100
MODS = """
import torch

slope = torch.tensor(0.5, requires_grad=True)


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx <= 256)


def by_head(b, h, q_idx, kv_idx):
    return (q_idx + h) % 2 == kv_idx % 2


def by_value(b, h, q_idx, kv_idx):
    if q_idx > 3:
        return True
    return False


def misspelt(b, h, q_idx, kv_idx):
    return q_idx >= kv_index


def steep(score, b, h, q_idx, kv_idx):
    return score - slope * (q_idx - kv_idx)


def two_faced(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx if isinstance(q_idx, torch.Tensor) else q_idx > kv_idx


def short(b, h, q_idx, kv_idx):
    return torch.ones(3, dtype=torch.bool)[kv_idx]
"""
BACKEND = ("--backend", "eager")
SHAPES = ("--shape", "1,1,1,6,6", "--shape", "2,2,1,7,5")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def mods(tmp_path: Path) -> Path:
    path = tmp_path / "mods.py"
    path.write_text(MODS)
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


class TestDiff:
    def test_equal_masks(self) -> None:
        result = run("diff", "causal", "local(left=100, right=0)", "-q", "100")
        assert result.exit_code == 0
        assert result.stdout == "✓ the masks are equal in all 10,000 pairs\n"

    def test_masks_that_differ(self, mods: Path) -> None:
        result = run("diff", "causal & sliding_window(256)", f"{mods}:window", "-q", "300", "-k", "320")
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0] == "✗ the masks differ in 44 of 96,000 pairs (0.046 %)"
        assert lines[1] == "  a  causal & sliding_window(256): alone in showing 0 pairs"
        assert lines[2] == f"  b  {mods}:window: alone in showing 44 pairs"
        assert "first at b=0, h=0, q_idx=256, kv_idx=0: only b shows it" in lines
        assert "  q 256 > b████████████████" in lines
        assert lines[-1] == "  keys 0 to 16; █ both show, a or b alone shows, · both hide"

    def test_masks_that_differ_by_head(self, mods: Path) -> None:
        result = run("diff", f"{mods}:by_head", "causal", "-q", "8", "--heads", "2", "--batch", "3")
        assert result.exit_code == 1
        assert "of 384 pairs" in result.stdout

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            ("causl", "causal", "did you mean causal?"),
            ("causal", "softcap(2.0)", "expected two masks, got the score 'softcap(2.0)'"),
            ("causal", "{mods}:by_head", "b reads 'h'"),
            ("{mods}:by_value", "causal", "if q_idx > 3:"),
            ("{mods}:misspelt", "causal", "fails when it is read: NameError: name 'kv_index' is not defined"),
            ("{mods}:nothing", "causal", "has no function called nothing"),
            ("{mods}:short", "causal", "error: "),
        ],
    )
    def test_one_message_exit_code_2_and_no_traceback(
        self, mods: Path, first: str, second: str, message: str
    ) -> None:
        result = run("diff", first.format(mods=mods), second.format(mods=mods), "-q", "8")
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.output
        assert result.stdout == ""


class TestVerify:
    def test_a_mask(self) -> None:
        result = run("verify", "causal", "--backend", "sdpa", *BACKEND, *SHAPES)
        assert result.exit_code == 0, result.output
        text = result.stdout
        assert max(map(len, text.splitlines())) <= WIDTH
        assert text.startswith("mask: causal\nbackend ")
        assert re.search(r"^block mask +B1 H1 6×6 +0 pairs +– +✓$", text, re.MULTILINE)
        assert re.search(
            r"^sdpa +B1 H1 6×6 +\S+e-0\d +\S+e-0\d +\S+ +\S+ (query|key|value) ✓$", text, re.MULTILINE
        )
        assert re.search(r"^sdpa +B2 H2/1 7×5 +– +– +–$", text, re.MULTILINE)
        assert "– sdpa: its only patterns are no mask and causal with as many keys as queries or more" in text
        assert "(B2 H2/1 7×5)" in text
        assert text.endswith("All 5 checks passed.\n")

    def test_a_score_of_the_users_own_with_a_mask(self, mods: Path) -> None:
        result = run("verify", f"{mods}:steep", "--mask", "causal", *BACKEND, *SHAPES)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"score: {mods}:steep\n"[:20])
        assert "All 4 checks passed." in result.stdout

    def test_the_usual_shapes(self) -> None:
        text = run("verify", "softcap(2.0)", *BACKEND).stdout
        assert "B2 H4/2 19×37" in text
        assert "All 3 checks passed." in text

    def test_a_wrong_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = dense.DenseAttention.__call__
        monkeypatch.setattr(
            dense.DenseAttention,
            "__call__",
            lambda kernel, operands: Results(attend(kernel, operands).out * 1.001),
        )
        result = run("verify", "softcap(2.0)", *BACKEND, *SHAPES)
        assert result.exit_code == 1
        assert re.search(r"^eager +B1 H1 6×6 .* ✗$", result.stdout, re.MULTILINE)
        assert "✗ eager, B1 H1 6×6: the output is off by" in result.stdout
        assert result.stdout.endswith("2 of 2 checks failed.\n")

    def test_a_function_that_is_read_wrongly(self, mods: Path) -> None:
        result = run("verify", f"{mods}:two_faced", *BACKEND, *SHAPES)
        assert result.exit_code == 1
        assert "✗ block mask, B1 H1 6×6: the masks differ in 6 of 36 pairs" in result.stdout
        assert "4 of 4 checks failed." in result.stdout

    def test_a_function_that_fails_everywhere(self, mods: Path) -> None:
        result = run("verify", f"{mods}:short", *BACKEND, *SHAPES)
        assert result.exit_code == 1
        assert "! B1 H1 6×6: the function itself fails: IndexError" in result.stdout
        assert result.stdout.endswith("Nothing could be checked.\n")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["causal", "--shape", "1,2,3"], "--shape must be five whole numbers B,HQ,HKV,Q,K, got '1,2,3'"),
            (["causal", "--shape", "a,b,c,d,e"], "--shape must be five whole numbers"),
            (["causal", "--shape", "1,3,2,4,4"], "as many query heads as key heads or a multiple"),
            (["causal", "--backend", "gpu"], "backends must be among"),
            (["causal", "--mask", "causal"], "expected a mask beside a score_mod only"),
            (["softcap(1.0)", "--mask", "softcap(1.0)"], "expected a mask as MASK"),
            (["{mods}:by_value"], "if q_idx > 3:"),
        ],
    )
    def test_misuse(self, mods: Path, arguments: list[str], message: str) -> None:
        result = run("verify", *(argument.format(mods=mods) for argument in arguments))
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.output

    def test_the_worst_gradient_is_the_one_nearest_its_bound(self) -> None:
        parts = (Part("query", 1e-6, 1e-5), Part("key", 1e-7, 1e-7), Part("value", 0.0, 0.0))
        check = Check("eager", Shape(1, 1, 1, 1, 1), Part("output", 0.0, 1.0), parts)
        assert max(check.gradients, key=cli_verify._closeness).name == "key"
        assert cli_verify._closeness(Part("key", float("nan"), 1.0)) == float("inf")
        assert cli_verify._closeness(Part("key", 1.0, 0.0)) == 1.0
        assert cli_verify._cells(Check(BLOCKS, check.shape), Part("output", 1, 0)) == ("1 pair", "")


class TestSelftest:
    def test_it_stands_in_the_findings_and_in_the_text_to_paste(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(doctor, "selftest_cases", lambda: [SelftestCase("causal", causal)])
        result = run("doctor", "--selftest")
        assert result.exit_code == 0
        before, _, after = result.stdout.partition("Text to paste into a report:")
        assert "✓ The selftest passed: 1 mods, 6 results compared in " in before
        assert re.search(r"^selftest +passed, 1 mods, 6 results compared in", after, re.MULTILINE)

    def test_a_fault_is_a_finding_stands_in_the_text_and_ends_the_command_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(cases, *, progress):
            for case in cases:
                progress(case.name)
            return (
                SelftestResult("causal", 5, ("eager at B1: wrong", "also that"), 0.1),
                SelftestResult("fine", 5, (), 0.1),
            )

        monkeypatch.setattr(doctor, "run_selftest", broken)
        result = run("doctor", "--selftest")
        assert result.exit_code == 1
        assert "! The selftest failed for causal: eager at B1: wrong" in result.stdout
        assert re.search(r"^selftest +1 of 2 mods failed$", result.stdout, re.MULTILINE)
        assert re.search(r"^selftest causal +eager at B1: wrong; also that$", result.stdout, re.MULTILINE)

    def test_without_the_option_nothing_is_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "run_selftest", None)
        result = run("doctor")
        assert result.exit_code == 0
        assert "selftest" not in result.stdout
