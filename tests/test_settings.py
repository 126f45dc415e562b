"""Settings are read at use, refuse bad values by name, and list themselves."""

from __future__ import annotations

import re

import pytest

from saccade import settings
from saccade.errors import SettingError
from saccade.settings import CPU_ISA, EAGER_LIMIT


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
    row, _ = settings.report()
    assert (row.name, row.value, row.is_default, row.problem) == (EAGER_LIMIT.name, "16777216", True, None)

    monkeypatch.setenv(EAGER_LIMIT.name, "4096")
    row, _ = settings.report()
    assert (row.value, row.is_default, row.problem) == ("4096", False, None)

    monkeypatch.setenv(EAGER_LIMIT.name, "many")
    row, _ = settings.report()
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
