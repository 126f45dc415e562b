"""The cache directory is the user's alone, or is refused; where it cannot be, a private one serves."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from runtime.triton.kernels import run_script
from saccade.errors import SettingError
from saccade.runtime.triton.directory import cache_directory, cache_room
from saccade.settings import CACHE_DIR


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_directory_named_is_made_for_its_owner_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_DIR.name, str(tmp_path / "a" / "b"))
    assert cache_directory() == tmp_path / "a" / "b"
    assert mode(cache_directory()) == 0o700
    assert cache_room("triton") == tmp_path / "a" / "b" / "triton"
    assert mode(cache_room("triton")) == 0o700


def test_unless_named_it_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_DIR.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "saccade"
    assert mode(cache_directory()) == 0o700


@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_one_that_others_can_write_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bits: int
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o700 | bits)
    monkeypatch.setenv(CACHE_DIR.name, str(open_to_all))
    expected = (
        f"{open_to_all} has mode {0o700 | bits:04o}; chmod go-w it, or set SACCADE_CACHE_DIR to another."
    )
    with pytest.raises(SettingError, match=re.escape(expected)):
        cache_directory()
    monkeypatch.delenv(CACHE_DIR.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "saccade").mkdir()
    (tmp_path / "saccade").chmod(0o700 | bits)
    with pytest.raises(
        SettingError, match="must be writable by its owner alone, for code is imported from it"
    ):
        cache_directory()


def test_a_room_that_others_can_write_is_refused(tmp_path: Path) -> None:
    cache_room("triton").chmod(0o777)
    with pytest.raises(SettingError, match=r"triton has mode 0777"):
        cache_room("triton")


def test_another_users_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    expected = (
        f"belongs to user {mine} and this is user {mine + 1}; set SACCADE_CACHE_DIR to a directory of your"
    )
    with pytest.raises(SettingError, match=re.escape(expected)):
        cache_directory()


def test_one_named_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_DIR.name, str(tmp_path / "file" / "cache"))
    with pytest.raises(
        SettingError, match="SACCADE_CACHE_DIR must name a directory that can be made and written"
    ):
        cache_directory()
    monkeypatch.setenv(CACHE_DIR.name, str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, wanted: False)
    with pytest.raises(SettingError, match="cannot be written; name another, or unset it"):
        cache_directory()


def test_without_a_home_that_can_be_written_a_private_one_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv(CACHE_DIR.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.DEBUG, "saccade"):
        private = cache_directory()
    assert private.name.startswith("saccade-")
    assert mode(private) == 0o700
    assert cache_directory() == private
    assert f"files are kept in {private} until this process ends" in caplog.text


def test_where_the_users_own_is_anothers_a_private_one_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(CACHE_DIR.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    theirs, mine = cache_directory(), os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with caplog.at_level(logging.DEBUG, "saccade"):
        private = cache_directory()
    assert theirs == tmp_path / "saccade"
    assert private.name.startswith("saccade-")
    assert mode(private) == 0o700
    assert cache_directory() == private


HOMELESS = """
import os
from saccade import settings
from saccade.runtime.triton import directory

directory.user_cache_directory = lambda: None
mine = directory.cache_directory()
child = os.fork()
if child == 0:
    theirs = directory.cache_directory()
    assert theirs != mine
    import sys
    print(theirs, flush=True)
    sys.exit()
os.waitpid(child, 0)
assert mine.is_dir()
print(mine)
"""


def test_a_private_one_goes_with_the_process_that_made_it(tmp_path: Path) -> None:
    printed = run_script(HOMELESS, tmp_path, SACCADE_CACHE_DIR="user").split()
    assert len(set(printed)) == 2
    assert not any(map(os.path.exists, printed))
