"""What README.md shows is run, so that it stays true; what is said in several places is the same in all."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import pages
import saccade
from saccade.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for page in ("README.md", "docs/tutorial.md")
    for line in pages.commands_of(ROOT / page)
    if line.strip()
]
# Their exit codes answer a question: `diff` finds a difference, as the text beside it says.
ANSWERS = {"diff": 1}


def test_the_examples_run_and_gradients_arrive() -> None:
    names = pages.run_page(ROOT / "README.md")
    for name in ("query", "key", "value", "bias"):
        tensor = names[name]
        assert isinstance(tensor, torch.Tensor)
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_the_first_example_is_a_mask_of_torch_that_shows_the_right_pairs() -> None:
    (example, *_) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    # The same mask at a length whose pairs can be counted: a thousandth of the tokens.
    for shown, small in (("30_000", "30"), ("70_000", "70"), ("31_072", "31"), ("131_072", "131")):
        example, count = re.subn(rf"\b{shown}\b", small, example)
        assert count >= 1
    names: dict[str, object] = {}
    exec(compile(example.replace(".to_torch()", ""), "README.md", "exec"), names)
    mask = names["block_mask"]
    assert isinstance(mask, saccade.BlockMask)
    assert mask.visible_pairs() == sum(n * (n + 1) // 2 for n in (30, 70, 31))


def test_there_are_commands_to_run() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} >= {"-m", "show", "explain", "diff"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    if program == "python":
        source = {"PYTHONPATH": str(Path(saccade.__file__).parents[1])}
        subprocess.run([sys.executable, *arguments], env=os.environ | source, check=True, capture_output=True)
        return
    assert program == "saccade"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == ANSWERS.get(arguments[0], 0), done.output
    if "--out" in arguments:
        assert (tmp_path / arguments[arguments.index("--out") + 1]).stat().st_size > 0


def test_what_the_text_says_of_diff_is_true() -> None:
    (command,) = (command for command in COMMANDS if shlex.split(command)[1] == "diff")
    _, _, first, second, *_ = shlex.split(command)
    assert "one keeps 256 keys, the other 257" in README
    for mask, keys in ((first, 256), (second, 257)):
        names = {"causal": saccade.causal, "local": saccade.local, "sliding_window": saccade.sliding_window}
        last_row = saccade.create_mask(eval(mask, names), None, None, 512, 512, device="cpu")[0, 0, -1]
        assert last_row.sum() == keys


def test_every_make_target_that_the_pages_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^)make ([a-z]+)(?:`|$)", text, re.MULTILINE))
        assert named <= targets, f"{page} names a target that Makefile lacks"
    assert {"demo", "test", "docs"} <= set(re.findall(r"\bmake ([a-z]+)", README))


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).is_file(), f"{target} does not exist"


def test_version_and_date_are_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (version,) = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    (date,) = re.findall(r'^date-released: "(\d{4}-\d\d-\d\d)"$', citation, re.MULTILINE)
    assert version == saccade.__version__
    assert f"## {version} ({date}, tag `v{version}`)" in changelog
    assert f"Version {version}:" in README
