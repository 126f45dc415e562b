"""The short examples: each runs alone in a fresh process, in its minute, and what it prints is right."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import saccade

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("r[0-9]_*.py"))


def run(name: str, folder: Path) -> str:
    """Run an example where nothing else is, warnings being errors, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(saccade.__file__).parents[1]), "COLUMNS": "160"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / f"{name}.py"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Processor time: what a machine left alone takes at most, however busy this one is.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    return done.stdout


def table(printed: str, heading: str) -> dict[str, list[str]]:
    """The rows of a printed table below the line that holds a heading, by their first cell."""
    rows = printed[printed.index(heading) :].splitlines()[2:]
    found = {}
    for row in rows:
        if not row.startswith("│"):
            return found
        first, *others = (cell.strip() for cell in row.strip("│").split("│"))
        found[first] = others
    raise AssertionError("the table has no end")


def matrix(printed: str) -> list[list[int]]:
    """The numbers of one printed tensor of 0 and 1."""
    return [
        [int(entry) for entry in re.findall(r"[01]", row)] for row in re.findall(r"\[([01, ]+)\]", printed)
    ]


def require_picture(path: Path) -> None:
    """The file holds a picture that is more than one colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24) or []) > 3


def test_padding(tmp_path: Path) -> None:
    printed = run("r0_padding", tmp_path)
    pads, mask, *_ = printed.split("dtype=torch.int32)")
    ((*row,),) = matrix(pads)
    real = row.index(1)
    assert row == [0] * real + [1] * (10 - real)
    expected = np.zeros((10, 10), dtype=int)
    expected[:real, :real] = np.tril(np.ones((real, real)))
    assert matrix(mask) == expected.tolist()
    before, after = map(float, re.findall(r"\d\.\d{4}", printed))
    assert after < before
    for name in ("r0_padding", "r0_weights"):
        require_picture(tmp_path / "out" / f"{name}.png")


def test_patterns(tmp_path: Path) -> None:
    printed = run("r1_patterns", tmp_path)
    assert pairs_of_patterns() == {
        name: int(pairs.replace(",", "")) for name, (pairs, *_) in table(printed, "visible pairs").items()
    }
    for name, (_, *blocks) in table(printed, "visible pairs").items():
        assert sum(int(count.replace(",", "")) for count in blocks) == 128 * 128, name

    assert "[[0, 7], [1, 7], [7, 12]]" in printed
    flamingo = np.zeros((12, 9), dtype=int)
    flamingo[0:7, 0:3] = flamingo[1:7, 3:6] = flamingo[7:12, 6:9] = 1
    assert matrix(printed[printed.index("tensor(") :]) == flamingo.tolist()

    differences = table(printed, "largest difference")
    nested = "jagged, nested"
    assert {"causal", "NATTEN", "documents", "ALiBi", "softcap", "Flamingo", nested} <= set(differences)
    for (difference,) in differences.values():
        assert 0 < float(difference) < 1e-4

    assert "Results for sliding_window(256):" in printed
    assert "Correctness check passed ✅" in printed
    # Of 8 × 8 blocks a row of blocks sees its own and the two before.
    assert f"Density of the blocks: {21 / 64:.4f}" in printed
    for numbers in table(printed, "FW Time (ms)").values():
        assert all(float(number) >= 0 for number in numbers)
    require_picture(tmp_path / "out" / "r1_patterns.png")


def pairs_of_patterns() -> dict[str, int]:
    """How many pairs each pattern shows over 128 × 128 tokens, counted by hand."""
    tokens = 128 * 128

    def triangle(length: int) -> int:
        return length * (length + 1) // 2

    near = sum(min(place + 8, 127) - max(place - 8, 0) + 1 for place in range(128))
    return {
        "causal": triangle(tokens),
        "sliding window": triangle(1024) + (tokens - 1024) * 1024,
        "prefix LM": triangle(tokens) + triangle(2047),
        "documents": 2 * triangle(2048) + 3 * triangle(4096),
        "SASA": near**2,
        "NATTEN": tokens * 7 * 7,
    }


def test_flash(tmp_path: Path) -> None:
    printed = run("r2_flash", tmp_path)
    assert matrix(printed[printed.index("tensor(") :]) == np.triu(np.ones((3, 5), dtype=int), 3).tolist()
    (dropped,) = re.findall(r"dropped ([\d.]+)%", printed)
    assert float(dropped) == pytest.approx(25, abs=1)
    # No gradient where both batch entries hide: query 0 in one, the keys from 200 on in the other.
    assert f"gradients to {4 * (256 * 256 - 56):,} of {4 * 256 * 256:,} numbers" in printed
    differences = dict(re.findall(r"^ *(result|[a-z ]*of [a-z ]+): (\S+e-\d+)$", printed, re.MULTILINE))
    assert len(differences) == 5
    assert all(0 < float(difference) < 1e-5 for difference in differences.values())
    times = table(printed, "plain: forward")
    assert list(times) == ["128", "256", "512", "1024"]
    assert all(float(time) > 0 for row in times.values() for time in row)


DENSE = """
0 − − −
0 0 − −
0 0 0 −
0 0 0 0

0 0 0 − − −
0 0 0 0 − −
0 0 0 0 0 −
0 0 0 0 0 0

− − − −   0 − − −
− 0 − −   0 0 − −
− 0 0 −   0 0 0 −
− 0 0 0   0 0 0 0

− 0 0 0   0 0 0 0
− 0 0 0   0 0 0 0
− 0 0 0   0 0 0 0
− 0 0 0   0 0 0 0

− 0 0 − − −
− − 0 0 − −
− − − 0 0 −
− − − − 0 0
"""


def test_dense_masks(tmp_path: Path) -> None:
    printed = run("r3_dense_masks", tmp_path)
    assert printed.startswith(DENSE.lstrip())
    visible = {name: int(pairs) for name, (pairs, _) in table(printed, "visible pairs").items()}
    assert list(visible.values()) == [2 * 10, 2 * (3 + 4 + 5 + 6), 6 + 10, 3 + 4, 4 * (3 + 4), 6 + 8]
    rows = table(printed, "a padded query gets")
    assert rows["Saccade"] == rows["Saccade, from the table"] == ["yes", "no", "0.000"]
    assert rows["torch"][:2] == ["no", "yes"]
    require_picture(tmp_path / "out" / "r3_dense_masks.png")


def test_every_example_is_tested_and_in_the_readme() -> None:
    tested = re.findall(r'run\("(\w+)"', Path(__file__).read_text(encoding="utf-8"))
    assert tested == [path.stem for path in EXAMPLES]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES:
        assert f"`python examples/{path.name}`" in readme
    assert "make examples" in readme
