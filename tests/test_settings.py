"""Settings are read at use, refuse bad values by name, and list themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saccade import settings
from saccade.errors import SettingError
from saccade.settings import CACHE_DIR, CPU_ISA, EAGER_LIMIT, TRITON_INTERPRET, USER_CACHE


def test_an_unset_or_empty_variable_gives_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EAGER_LIMIT.name, raising=False)
    assert EAGER_LIMIT.read() == 2**24
    monkeypatch.setenv(EAGER_LIMIT.name, " ")
    assert EAGER_LIMIT.read() == 2**24


def test_a_change_counts_at_the_next_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EAGER_LIMIT.name, "4096")
    assert EAGER_LIMIT.read() == 4096
    monkeypatch.setenv(EAGER_LIMIT.name, "0")
    assert EAGER_LIMIT.read() == 0


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "2**24"])
def test_a_bad_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(EAGER_LIMIT.name, text)
    expected = (
        f"SACCADE_EAGER_LIMIT must be an integer of 0 or more, but SACCADE_EAGER_LIMIT={text!r}; "
        "correct it, or unset it for the default 16777216."
    )
    with pytest.raises(SettingError, match=re.escape(expected)):
        EAGER_LIMIT.read()


def test_the_report_shows_values_and_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EAGER_LIMIT.name, raising=False)
    row, *_ = settings.report()
    assert (row.name, row.value, row.is_default, row.problem) == (EAGER_LIMIT.name, "16777216", True, None)

    monkeypatch.setenv(EAGER_LIMIT.name, "4096")
    row, *_ = settings.report()
    assert (row.value, row.is_default, row.problem) == ("4096", False, None)

    monkeypatch.setenv(EAGER_LIMIT.name, "many")
    row, *_ = settings.report()
    assert (row.value, row.is_default) == ("many", False)
    assert row.problem is not None
    assert row.problem.startswith("SACCADE_EAGER_LIMIT must be an integer of 0 or more")


def test_a_setting_of_names_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CPU_ISA.name, "avx2")
    assert CPU_ISA.read() == "avx2"
    monkeypatch.setenv(CPU_ISA.name, "sse9")
    expected = (
        "SACCADE_CPU_ISA must be one of best, avx512_bf16, avx512, avx2, baseline, "
        "but SACCADE_CPU_ISA='sse9'; correct it, or unset it for the default 'best'."
    )
    with pytest.raises(SettingError, match=re.escape(expected)):
        CPU_ISA.read()


def test_every_setting_is_named_and_explained() -> None:
    for setting in settings.SETTINGS:
        assert setting.name.startswith("SACCADE_")
        assert setting.meaning.endswith(".")


class TestTheCacheDirectory:
    def test_it_is_the_users_own_unless_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(CACHE_DIR.name, raising=False)
        assert CACHE_DIR.read() == USER_CACHE

    def test_a_home_is_written_out(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv(CACHE_DIR.name, "~/kernels")
        assert CACHE_DIR.read() == str(tmp_path / "kernels")

    @pytest.mark.parametrize("text", ["kernels", "./kernels", "~nobody-has-this-name/kernels"])
    def test_it_must_be_absolute(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv(CACHE_DIR.name, text)
        expected = (
            f"SACCADE_CACHE_DIR must be an absolute path, or 'user', but SACCADE_CACHE_DIR={text!r}; "
            "correct it, or unset it for the default 'user'."
        )
        with pytest.raises(SettingError, match=re.escape(expected)):
            CACHE_DIR.read()

    def test_the_users_own_follows_xdg(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert settings.user_cache_directory() == tmp_path / "xdg" / "saccade"
        for ignored in ("", "relative/cache"):
            monkeypatch.setenv("XDG_CACHE_HOME", ignored)
            assert settings.user_cache_directory() == tmp_path / "home" / ".cache" / "saccade"

    @pytest.mark.parametrize("home", ["", ".", "relative/home"])
    def test_a_home_that_is_no_place_is_none(self, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", home)
        assert settings.user_cache_directory() is None

    def test_there_may_be_no_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless(_: object) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", classmethod(homeless))
        assert settings.user_cache_directory() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("0", False), ("off", False), ("t", False), ("1", True), ("ON", True), ("yes", True)],
)
def test_tritons_own_variable_is_read_as_triton_reads_it(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    monkeypatch.setenv(TRITON_INTERPRET.name, text)
    assert TRITON_INTERPRET.read() is expected
    assert TRITON_INTERPRET not in settings.SETTINGS
