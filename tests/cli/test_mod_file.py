"""FILE.py:FUNCTION: what is loaded, and every way it can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saccade.cli.mod_file import is_file_reference, load_mod
from saccade.errors import ArgumentError

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from neighbour import WIDTH

@dataclass
class Settings:
    width: int = WIDTH

def band(b, h, q_idx, kv_idx):
    return abs(q_idx - kv_idx) < Settings().width

table = [1, 2]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    path = tmp_path / "mods.py"
    path.write_text(SOURCE)
    return path


def test_a_function_is_loaded_with_its_neighbours(file: Path) -> None:
    before = list(sys.path)
    assert load_mod(f"{file}:band")(0, 0, 5, 3) is True
    assert sys.path == before


def test_references_are_told_from_expressions() -> None:
    assert is_file_reference("a/b.py:f")
    assert is_file_reference(" b.py ")
    assert not is_file_reference("causal & document(lengths=[1, 2])")


def test_a_function_must_be_named(file: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"expected FILE.py:FUNCTION, got .*name the function after a colon"
    ):
        load_mod(str(file))
    with pytest.raises(ArgumentError, match=r"expected FILE.py:FUNCTION, got 'causal'"):
        load_mod("causal")


def test_the_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"there is no file .*missing.py' \(looked in .*\); correct the path"
    ):
        load_mod(f"{tmp_path}/missing.py:f")


def test_the_function_must_exist(file: Path) -> None:
    with pytest.raises(ArgumentError, match=r"mods.py has no function called bend; did you mean band\?"):
        load_mod(f"{file}:bend")
    with pytest.raises(ArgumentError, match="no function called xyzzy; it has dataclass, Settings, band"):
        load_mod(f"{file}:xyzzy")
    file.write_text("")
    with pytest.raises(ArgumentError, match="no function called f; it has no function at all"):
        load_mod(f"{file}:f")


def test_the_name_must_be_a_function(file: Path) -> None:
    with pytest.raises(ArgumentError, match=r"mods.py:table must be a function, got the list \[1, 2\]"):
        load_mod(f"{file}:table")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("exit(3)", "SystemExit: 3"),
    ],
)
def test_the_file_must_run(file: Path, source: str, fault: str) -> None:
    file.write_text(source)
    with pytest.raises(ArgumentError, match=rf"mods.py fails when it is run: {fault}.*correct the file"):
        load_mod(f"{file}:f")
