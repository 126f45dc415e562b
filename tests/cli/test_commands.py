"""The commands as a user types them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import saccade
from saccade.bench import demo as bench_demo
from saccade.bench.block_masks import bench_masks
from saccade.cli import bench as cli_bench
from saccade.cli import bench_commands, doctor
from saccade.cli import demo as cli_demo
from saccade.cli.main import app
from saccade.cli.plain_table import plain_table
from saccade.errors import SaccadeError
from saccade.runtime import host
from saccade.runtime.host import Host

WIDTH = 100


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def lines_of(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "Traceback" not in result.output
    return lines


class TestRoot:
    def test_version(self) -> None:
        assert re.fullmatch(r"saccade (\S+|\(not installed\))\n", run("--version").stdout)

    @pytest.mark.parametrize("arguments", [("--help",), ("bench", "--help"), ("explain", "-h")])
    def test_help_says_what_there_is(self, arguments: tuple[str, ...]) -> None:
        assert "Usage:" in run(*arguments).output

    def test_a_wrong_option_is_misuse(self) -> None:
        result = run("explain", "causal", "--colour", "red")
        assert result.exit_code == 2
        assert "No such option" in result.stderr

    def test_the_entry_point_in_a_process_of_its_own(self) -> None:
        source = Path(saccade.__file__).parents[1]
        done = subprocess.run(
            [sys.executable, "-c", "from saccade.cli import main; main()", "explain", "causl"],
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            "error: there is no mask or score called causl; did you mean causal?",
            "  causl",
            "  ^^^^^",
        ]


class TestExplain:
    def test_a_mask(self) -> None:
        lines = lines_of(run("explain", "causal & sliding_window(256)", "-q", "1000"))
        text = "\n".join(lines)
        assert lines[0] == "mask: causal & sliding_window(256)"
        assert "n0: i64 = 256" in text
        assert "blocks: 1,000 queries × 1,000 keys, 128×128 pairs each" in text
        assert "░░██░░" in text
        assert "43 empty, 14 partial, 7 full" in text
        assert "22.3 % of all pairs visible, 67.2 % of the work saved" in text
        assert "backend: cpu" in text
        assert any(line.startswith("sdpa") and "refuses" in line for line in lines)

    def test_a_score_and_other_shapes(self) -> None:
        text = "\n".join(
            lines_of(
                run(
                    "explain",
                    "shift(causal, q=7168)",
                    "-q",
                    "1024",
                    "-k",
                    "8192",
                    "--score",
                    "softcap(20.0)",
                    "--heads",
                    "2",
                )
            )
        )
        assert "score: softcap(20.0)" in text
        assert "tanh" in text
        assert "a cell stands for 1×2 blocks" in text
        assert "8,192 keys" in text

    def test_a_million_tokens(self) -> None:
        text = "\n".join(lines_of(run("explain", "sliding_window(4096)", "-q", "1048576")))
        assert "a cell stands for 256×256 blocks" in text
        assert "backend: cpu" in text

    def test_a_mask_of_the_users_own(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text("def by_head(b, h, q_idx, kv_idx):\n    return (q_idx + h) % 2 == kv_idx % 2\n")
        text = "\n".join(
            lines_of(run("explain", f"{path}:by_head", "--heads", "2", "--batch", "3", "-q", "200"))
        )
        assert "batch entry 0, head 0, of 1×2 that differ" in text
        assert "50.0 % of all pairs visible, 0 % of the work saved" in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["causal &"], "error: expected an expression"),
            (["softcap(2.0)"], "expected a mask as MASK, got the score 'softcap(2.0)'; give it as --score"),
            (
                ["causal", "--score", "causal"],
                "expected a score as --score, got the mask 'causal'; give it as MASK",
            ),
            (["nowhere.py:f"], "error: there is no file 'nowhere.py'"),
            (["causal", "--backend", "gpu"], "backend must be one of"),
            (["dense(tensor([[True, False]]))", "-q", "9"], "error: "),
        ],
    )
    def test_one_message_and_no_traceback(self, arguments: list[str], message: str) -> None:
        result = run("explain", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.output
        assert result.stdout == ""

    def test_what_a_mod_does_wrong_is_shown_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.py"
        path.write_text(
            "def branch(b, h, q_idx, kv_idx):\n    if q_idx > 3:\n        return True\n    return False\n"
        )
        result = run("explain", f"{path}:branch")
        assert result.exit_code == 2
        assert "if q_idx > 3:" in result.stderr
        assert "mine.py" in result.stderr

    def test_debug_shows_where_an_error_comes_from(self) -> None:
        result = run("--debug", "explain", "causl")
        assert isinstance(result.exception, SaccadeError)


class TestDemo:
    def test_the_small_demo(self) -> None:
        lines = lines_of(run("demo", "--size", "small"))
        rows = [line for line in lines if line.endswith("✓")]
        assert len(rows) == len(SMALL)
        assert lines[0].split()[:4] == ["pattern", "size", "visible", "empty"]
        assert lines[-1].startswith(f"All {len(SMALL)} patterns are right. Their masks took ")
        assert any("files of Python's standard library" in line for line in lines)

    def test_faults_are_told_and_end_the_command_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_demo, "same_blocks", lambda ours, theirs: False)
        monkeypatch.setattr(cli_demo, "demo_patterns", lambda size: SMALL[:2])
        result = run("demo", "--size", "small")
        assert result.exit_code == 1
        assert "✗ causal: its blocks differ from those of torch's create_block_mask" in result.stdout
        assert result.stdout.endswith("2 of 2 patterns failed.\n")

    def test_a_narrow_terminal_and_a_small_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(bench_demo, "fits_in_memory", lambda pairs: False)
        monkeypatch.setattr(bench_demo, "_ATTENTION_SCORES", 2**16)
        monkeypatch.setattr(cli_demo, "demo_patterns", lambda size: SMALL[:1])
        result = run("demo", "--size", "small")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert any(re.match(r"causal .* not run +– ✓", line) for line in lines)
        assert "  512" in (line.rstrip() for line in lines)
        text = " ".join(result.stdout.split())
        assert "torch was not run for causal: evaluating all pairs does not fit the free memory." in text
        assert "Attention of large patterns is checked on 64 or more query rows, against all keys." in text
        assert text.endswith("All 1 patterns are right.")


SMALL = cli_demo.demo_patterns(cli_demo.Size.SMALL)


class TestBench:
    def test_masks(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(
            bench_commands, "bench_masks", lambda **options: bench_masks(short=(256,), **options)
        )
        path = tmp_path / "masks.json"
        lines = lines_of(
            run("bench", "masks", "--no-compiled", "--long", "4096", "--rounds", "1", "--json", str(path))
        )
        assert lines[0].rstrip() == "create_block_mask, alone"
        assert any("beside torch's" in line for line in lines)
        content = json.loads(path.read_text())
        assert len(content["measurements"]) == 9
        assert {m["shape"]["q_len"] for m in content["measurements"]} == {256, 4096}

    def test_trace(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.json"
        lines = lines_of(run("bench", "trace", "--rounds", "1", "--json", str(path)))
        text = "\n".join(lines)
        assert "ten_ops" in text
        assert "torch make_fx" in text
        assert "table[kv_idx], +" in text
        assert json.loads(path.read_text())["benchmark"] == "trace"

    def test_a_file_that_cannot_be_written(self) -> None:
        result = run("bench", "trace", "--rounds", "1", "--json", "/nowhere/at/all.json")
        assert result.exit_code == 2
        assert "expected a file that can be written" in result.stderr

    def test_torch_left_out_leaves_dashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        report = bench_masks(long=256, short=(256,), rounds=1, compiled=False)
        ours = [m for m in report.measurements if m.contender == "saccade"]
        console = Console(record=True, width=WIDTH, file=io.StringIO())
        console.print(cli_bench._beside_table([[m] for m in ours[:1]]))
        assert "–" in console.export_text()


class TestDoctor:
    def test_it_ends_in_text_to_paste(self) -> None:
        result = run("doctor")
        assert result.exit_code == 0
        before, _, after = result.stdout.partition("Text to paste into a report:")
        assert "Plain attention on cpu: runs on cpu (also sdpa, eager" in before
        for name in (
            "python",
            "torch",
            "llvmlite",
            "instruction sets",
            "backend eager",
            "SACCADE_EAGER_LIMIT",
            "SACCADE_CPU_ISA",
            "CPU kernels",
            "GPU kernels",
        ):
            assert re.search(rf"^{name}  +\S", after, re.MULTILINE), name

    def test_a_bad_setting_is_a_finding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "many")
        result = run("doctor")
        assert result.exit_code == 1
        assert "! SACCADE_EAGER_LIMIT must be an integer of 0 or more" in result.stdout

    def test_an_instruction_set_that_the_processor_lacks_is_a_finding(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "this_host", lambda: Host(("avx2", "baseline"), 1, 1, 1, 1))
        monkeypatch.setenv("SACCADE_CPU_ISA", "avx512")
        result = run("doctor")
        assert result.exit_code == 1
        assert result.stdout.count("! SACCADE_CPU_ISA must name an instruction set") == 1

    def test_a_call_that_nobody_takes_is_a_finding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            doctor, "reasons_against", lambda problem, name, asked_by_name: [f"{name} is away"]
        )
        result = run("doctor")
        assert result.exit_code == 1
        assert "! No backend takes plain attention on cpu." in result.stdout
        assert re.search(r"backend eager +eager is away$", result.stdout, re.MULTILINE)

    def test_what_is_missing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        result = run("doctor")
        assert "No C++ compiler is on the path" in result.stdout
        assert "none of c++, g++, clang++ is on the PATH" in result.stdout


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert [column.justify for column in plain_table("a", "b|r").columns] == ["left", "right"]
