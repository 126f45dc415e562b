"""A text is one file: whole, under a name that tells its content, and never damaged for long."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.triton.kernels import run_script
from saccade.runtime.triton import source
from saccade.runtime.triton.atomic_file import write_atomically
from saccade.runtime.triton.fingerprint import fingerprint_of, generator_fingerprint
from saccade.runtime.triton.source import load_function, store_source

TEXT = "def twice(x):\n    return 2 * x\n"


def test_a_text_is_stored_under_its_content_and_its_generator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = store_source(TEXT, "twice")
    assert path.parent == tmp_path / "saccade" / "triton"
    assert path.read_text() == TEXT
    assert path.stat().st_mode & 0o777 == 0o600
    assert store_source(TEXT, "twice") == path
    assert store_source(TEXT + "\n", "twice") != path
    monkeypatch.setattr(source, "generator_fingerprint", lambda: "another")
    assert store_source(TEXT, "twice") != path


def test_a_stored_text_is_not_written_again() -> None:
    path = store_source(TEXT, "twice")
    os.utime(path, (1, 1))
    store_source(TEXT, "twice")
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("damaged", ["", TEXT[:-4], TEXT.replace("2", "3")])
def test_a_damaged_file_is_noticed_and_mended(damaged: str, caplog: pytest.LogCaptureFixture) -> None:
    path = store_source(TEXT, "twice")
    path.write_text(damaged)
    with caplog.at_level(logging.DEBUG, "saccade"):
        assert store_source(TEXT, "twice") == path
    assert path.read_text() == TEXT
    assert f"{path} does not hold what was written there" in caplog.text


def test_the_text_is_what_runs_and_leaves_no_bytecode(tmp_path: Path) -> None:
    path = store_source(TEXT, "twice")
    twice = load_function(path, TEXT, "twice")
    assert twice(21) == 42
    assert twice.__code__.co_filename == str(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.write_text(TEXT.replace("2", "3"))
    assert load_function(path, TEXT, "twice")(21) == 42


def test_modules_of_one_name_are_apart() -> None:
    other = TEXT.replace("2", "3")
    functions = [load_function(store_source(text, "twice"), text, "twice") for text in (TEXT, other)]
    assert [function(10) for function in functions] == [20, 30]
    assert functions[0].__module__ != functions[1].__module__


def test_a_text_without_the_function_is_told() -> None:
    with pytest.raises(AttributeError, match="thrice"):
        load_function(store_source(TEXT, "twice"), TEXT, "thrice")


def test_threads_may_store_one_text_at_once() -> None:
    text = TEXT + "# " + "x" * 200_000
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store_source(text, "twice"), range(32)))
    (path,) = paths
    assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == [path.name]


RACE = """
import os
from saccade.runtime.triton.source import store_source

text = "x = 1\\n# " + "y" * 100_000
path = store_source(text, "x")
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        for turn in range(20):
            path.write_text("damaged")
            store_source(text, "x")
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
store_source(text, "x")
print(codes, path.read_text() == text, len(list(path.parent.iterdir())))
"""


def test_a_failed_write_leaves_nothing_and_what_was_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_the_fingerprint_follows_every_byte_and_name(tmp_path: Path) -> None:
    (tmp_path / "codegen" / "__pycache__").mkdir(parents=True)
    file = tmp_path / "codegen" / "a.py"
    file.write_text("1")
    (tmp_path / "version.py").write_text("1.0")
    before = fingerprint_of(tmp_path, ("version.py", "codegen"))
    (tmp_path / "codegen" / "__pycache__" / "a.pyc").write_text("compiled")
    assert fingerprint_of(tmp_path, ("version.py", "codegen")) == before
    file.write_text("2")
    changed = fingerprint_of(tmp_path, ("version.py", "codegen"))
    file.rename(tmp_path / "codegen" / "b.py")
    renamed = fingerprint_of(tmp_path, ("version.py", "codegen"))
    (tmp_path / "version.py").write_text("1.1")
    assert len({before, changed, renamed, fingerprint_of(tmp_path, ("version.py", "codegen"))}) == 4


def test_the_generators_own_files_are_in_the_fingerprint() -> None:
    root = Path(source.__file__).resolve().parents[2]
    for part in ("__init__.py", "ir", "codegen", "runtime/triton"):
        assert (root / part).exists()
        assert fingerprint_of(root, (part,)) != fingerprint_of(root, ())
    assert generator_fingerprint() == generator_fingerprint()


def test_processes_may_store_one_text_at_once(tmp_path: Path) -> None:
    assert run_script(RACE, tmp_path) == "[0, 0, 0, 0] True 1\n"
