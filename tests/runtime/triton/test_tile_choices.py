"""A choice of tile outlives the process, a damaged file and a new version; the fastest that fits is taken."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'saccade[gpu]'")

from saccade.errors import CompilationError, OutOfResourcesError
from saccade.runtime.triton import fastest, remember, remembered, tile_choices


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: what is known is what is in the files."""
    monkeypatch.setattr(tile_choices, "_memory", tile_choices._Memory())


def file_of(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "saccade" / "tiles").glob("*.json")
    return file


class TestMemory:
    def test_what_was_not_asked_is_not_known(self) -> None:
        assert remembered("cuda:90", "forward bf16 D=64") is None

    def test_a_choice_is_known_here_and_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remember("cuda:90", "forward", [128, 64, 8, 3])
        remember("cuda:90", "backward", (64, 64, 4, 2))
        assert remembered("cuda:90", "forward") == (128, 64, 8, 3)
        forget(monkeypatch)
        assert remembered("cuda:90", "forward") == (128, 64, 8, 3)
        assert remembered("cuda:90", "backward") == (64, 64, 4, 2)
        assert remembered("cuda:80", "forward") is None

    def test_the_file_is_one_an_architecture(self, tmp_path: Path) -> None:
        remember("cuda:90/../x", "forward", (1,))
        assert re.fullmatch(r"cuda-90-\.\.-x-[0-9a-f]{16}\.json", file_of(tmp_path).name)
        assert json.loads(file_of(tmp_path).read_text())["choices"] == {"forward": [1]}

    @pytest.mark.parametrize(
        "damage",
        ["", "{", "[]", "null", '{"choices": {}}', '{"writer": 1, "choices": {}}', "\x00\xff"],
    )
    def test_a_damaged_file_is_an_empty_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        remember("cuda:90", "forward", (1,))
        file_of(tmp_path).write_bytes(damage.encode("latin-1"))
        forget(monkeypatch)
        with caplog.at_level(logging.DEBUG, "saccade"):
            assert remembered("cuda:90", "forward") is None
        assert "tiles are chosen anew" in caplog.text
        remember("cuda:90", "backward", (2,))
        forget(monkeypatch)
        assert remembered("cuda:90", "backward") == (2,)

    @pytest.mark.parametrize("choices", [[1], {"forward": None}, {"forward": ["a"]}, {"forward": 3}])
    def test_choices_that_are_none_are_not_taken(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choices: object
    ) -> None:
        remember("cuda:90", "forward", (1,))
        content = json.loads(file_of(tmp_path).read_text())
        file_of(tmp_path).write_text(json.dumps(content | {"choices": choices}))
        forget(monkeypatch)
        assert remembered("cuda:90", "forward") is None

    def test_two_versions_that_share_a_directory_know_their_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember("cuda:90", "forward", (1,))
        with monkeypatch.context() as newer:
            forget(newer)
            newer.setattr(tile_choices, "generator_fingerprint", lambda: "newer")
            assert remembered("cuda:90", "forward") is None
            remember("cuda:90", "forward", (2,))
        forget(monkeypatch)
        assert remembered("cuda:90", "forward") == (1,)

    def test_a_file_that_another_version_wrote_is_an_empty_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        remember("cuda:90", "forward", (1,))
        content = json.loads(file_of(tmp_path).read_text())
        file_of(tmp_path).write_text(json.dumps(content | {"writer": "copied from elsewhere"}))
        forget(monkeypatch)
        assert remembered("cuda:90", "forward") is None

    def test_what_another_process_chose_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert remembered("cuda:90", "backward") is None
        with monkeypatch.context() as elsewhere:
            forget(elsewhere)
            remember("cuda:90", "backward", (7,))
        assert remembered("cuda:90", "backward") is None
        remember("cuda:90", "forward", (1,))
        assert remembered("cuda:90", "backward") == (7,)
        forget(monkeypatch)
        assert remembered("cuda:90", "backward") == (7,)
        assert remembered("cuda:90", "forward") == (1,)

    def test_a_child_forked_while_another_thread_chose_can_choose(self) -> None:
        tile_choices._memory._lock.acquire()
        tile_choices._memory.renew()
        remember("cuda:90", "forward", (5,))
        assert remembered("cuda:90", "forward") == (5,)


class TestFastest:
    def test_the_least_time_wins_and_the_first_of_equals(self) -> None:
        times = {"a": 3.0, "b": 1.0, "c": 1.0, "d": 2.0}
        assert fastest(list(times), times.__getitem__) == "b"

    def test_what_does_not_fit_is_passed_over(self, caplog: pytest.LogCaptureFixture) -> None:
        def measure(rows: int) -> float:
            if rows > 64:
                raise OutOfResourcesError(f"{rows} rows are too many")
            return 1 / rows

        with caplog.at_level(logging.DEBUG, "saccade"):
            assert fastest([256, 128, 64, 32], measure) == 64
        assert "256 is passed over: 256 rows are too many" in caplog.text

    def test_if_none_can_be_used_every_reason_is_told(self) -> None:
        def measure(rows: int) -> float:
            raise (OutOfResourcesError if rows > 64 else CompilationError)(f"no {rows}")

        with pytest.raises(
            CompilationError, match="none of 2 tiles can be used:\n  128: no 128\n  64: no 64"
        ) as caught:
            fastest([128, 64], measure)
        assert not isinstance(caught.value, OutOfResourcesError)
        with pytest.raises(OutOfResourcesError, match="none of 1 tiles can be used:\n  128: no 128"):
            fastest([128], measure)

    def test_other_faults_are_not_passed_over(self) -> None:
        with pytest.raises(ZeroDivisionError, match="division by zero"):
            fastest([0], lambda rows: 1 / rows)
