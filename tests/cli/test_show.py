"""`saccade show` as a user types it, its page, and the sheet of `saccade demo`."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from saccade.bench import gallery
from saccade.bench.patterns import Size, demo_patterns
from saccade.cli import demo as cli_demo
from saccade.cli.main import app

SMALL = demo_patterns(Size.SMALL)


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def lines_of(*arguments: str) -> list[str]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def picture(lines: list[str]) -> list[str]:
    return [line[1:-1] for line in lines if line.startswith("│")]


def test_a_short_mask_pair_by_pair() -> None:
    lines = lines_of("show", "causal & sliding_window(2)", "-q", "4")
    assert lines[:2] == ["causal & sliding_window(2)", "4 queries down, 4 keys to the right"]
    assert picture(lines) == ["██      ", "████    ", "  ████  ", "    ████"]
    assert lines[-2] == "██ all pairs visible   ▓▓▒▒░░ some   blank: none"
    assert lines[-1] == "43.8 % of all pairs visible; blocks of 128×128: 0 empty, 1 partial, 0 full"


def test_a_long_mask_by_cells_that_keep_its_proportions() -> None:
    lines = lines_of("show", "shift(causal, q=6144)", "-q", "2048", "-k", "8192")
    drawn = picture(lines)
    assert len(drawn) == 10
    assert {len(row) for row in drawn} == {80}
    assert drawn[0].startswith("█" * 60)
    assert drawn[0][60] in "▓▒░"
    assert drawn[0].endswith(" " * 18)
    assert max(map(len, lines)) <= 100


def test_a_narrow_terminal_and_more_queries_than_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = lines_of("show", "noop_mask", "-q", "4096", "-k", "128")
    drawn = picture(lines)
    assert len(drawn) == 40
    assert set(drawn) == {"██"}
    assert set(picture(lines_of("show", "noop_mask", "-q", "64"))) == {"█" * 28}


def test_a_score_shades_what_is_visible() -> None:
    lines = lines_of("show", "causal", "-q", "4", "--score", "alibi(n_heads=8)")
    assert lines[0] == "causal + alibi(n_heads=8)"
    assert picture(lines) == ["██      ", "▓▓██    ", "▒▒▓▓██  ", "░░▒▒▓▓██"]
    assert lines[-2] == "░░ -0.5   ▒▒ ▓▓   ██ 1: what becomes of a score of 1   blank: hidden"


def test_a_score_where_nothing_is_visible() -> None:
    lines = lines_of("show", "~noop_mask", "-q", "4", "--score", "softcap(2.0)")
    assert set("".join(picture(lines))) == {" "}


def test_masks_that_differ_by_head(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def by_head(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + h\n")
    lines = lines_of("show", f"{path}:by_head", "-q", "3", "--heads", "2")
    assert picture(lines) == ["██    ", "████  ", "██████"]
    assert lines[-1] == "batch 0, head 0, of 1×2 that differ"


class TestFiles:
    def test_an_svg_needs_no_matplotlib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "saccade.viz", None)
        path = tmp_path / "new" / "mask.svg"
        lines = lines_of("show", "causal & local(1, 1)", "-q", "8", "--out", str(path))
        assert "".join(lines) == f"drawn in {path}"
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.findtext("{http://www.w3.org/2000/svg}title") == "causal & local(1, 1)"

    @pytest.mark.parametrize(
        ("name", "score", "start"),
        [
            ("mask.png", (), b"\x89PNG"),
            ("mask.pdf", (), b"%PDF"),
            ("scored.png", ("--score", "alibi(n_heads=8)"), b"\x89PNG"),
            ("scored.svg", ("--score", "softcap(2.0)"), b"<?xml"),
        ],
    )
    def test_pictures(self, tmp_path: Path, name: str, score: tuple[str, ...], start: bytes) -> None:
        lines_of("show", "causal", "-q", "300", *score, "-o", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(start)


def data_of(path: Path) -> dict[str, Any]:
    """What a page knows."""
    found = re.search(r'id="mask">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


class TestPage:
    def test_it_is_written_and_nothing_is_drawn(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "mask.html"
        lines = lines_of("show", "causal", "--html", str(path), "--score", "alibi(n_heads=2)", "--heads", "2")
        assert lines == [f"explained in {path}: open it in a browser"]
        data = data_of(path)
        assert data["title"] == "causal + alibi(n_heads=2)"
        assert (data["q_len"], data["kv_len"], data["heads"], data["tokens"]) == (1024, 1024, 2, None)
        assert data["score"] is not None

    def test_a_picture_beside_it(self, tmp_path: Path) -> None:
        page, picture = tmp_path / "mask.html", tmp_path / "mask.svg"
        lines_of("show", "causal", "-q", "8", "--html", str(page), "--out", str(picture))
        assert page.exists()
        assert picture.exists()

    def test_words_set_the_lengths(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.html"
        lines_of("show", "causal", "--html", str(path), "--text", "The  cat\nsat")
        data = data_of(path)
        assert data["tokens"] == data["kv_tokens"] == ["The", "cat", "sat"]
        assert (data["q_len"], data["kv_len"]) == (3, 3)

    def test_words_of_a_file(self, tmp_path: Path) -> None:
        words = tmp_path / "words.txt"
        words.write_text("Ein Käfer\nkriecht\n", encoding="utf-8")
        path = tmp_path / "mask.html"
        lines_of("show", "causal", "-q", "3", "--html", str(path), "--text", f"@{words}")
        assert data_of(path)["tokens"] == ["Ein", "Käfer", "kriecht"]

    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("The cat\n sat\n", ["The cat", " sat"]),
            ('["The", " cat\\n"]', ["The", " cat\n"]),
            ("[CLS]\nThe\n[SEP]\n", ["[CLS]", "The", "[SEP]"]),
            ("The\r\ncat\r\n", ["The", "cat"]),
            ("The\n\ncat", ["The", "", "cat"]),
            ("a\x0bb\nc\x1cd\ne\x85f\ng\u2028h\ni\rj", ["a\x0bb", "c\x1cd", "e\x85f", "g\u2028h", "i\rj"]),
            ("\ufeffThe\ncat\n", ["The", "cat"]),
            ('\ufeff["The", "cat"]', ["The", "cat"]),
        ],
    )
    def test_a_file_of_tokens(self, tmp_path: Path, text: str, tokens: list[str]) -> None:
        listed = tmp_path / "tokens"
        listed.write_bytes(text.encode())
        path = tmp_path / "mask.html"
        lines_of("show", "causal", "--html", str(path), "--tokens", str(listed))
        assert data_of(path)["tokens"] == tokens

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                b'["The", 3]',
                "expected a JSON list of texts, got --tokens {path}, which holds 3; put it into quotes",
            ),
            (b'["The", ', "got --tokens {path}, which is no JSON"),
            (b"", "expected one token at least, got --tokens {path}, which holds none"),
            (
                b"\xff",
                "expected a text in UTF-8, got --tokens {path} (invalid start byte at byte 0); convert it",
            ),
        ],
    )
    def test_a_file_that_holds_none(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "tokens"
        path.write_bytes(content)
        result = run("show", "causal", "--html", str(tmp_path / "mask.html"), "--tokens", str(path))
        assert result.exit_code == 2
        assert message.format(path=path) in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["causl"], "did you mean causal?"),
        (
            ["alibi(n_heads=8)"],
            "expected a mask as MASK, got the score 'alibi(n_heads=8)'; give it as --score",
        ),
        (
            ["causal", "--score", "causal"],
            "expected a score as --score, got the mask 'causal'; give it as MASK",
        ),
        (
            ["causal", "-o", "mask.gif"],
            "expected a file ending in .png, .svg, .pdf, got --out mask.gif; rename it",
        ),
        (
            ["causal", "-o", "/dev/null/mask.svg"],
            "expected a file that can be written, got --out /dev/null/mask.svg",
        ),
        (["causal", "-o", "/dev/null/mask.png"], "expected a file that can be written"),
        (
            ["causal", "-q", "8192", "--score", "softcap(2.0)", "-o", "a.png"],
            "slice query and key, or draw the mask",
        ),
        (
            ["causal", "--html", "/dev/null/mask.html"],
            "expected a file that can be written, got --html /dev/null/mask.html (Not a directory)",
        ),
        (["causal", "--html", "/dev/null"], "got --html /dev/null (not a regular file); choose another"),
        (["causal", "--html", ""], "got --html . (not a regular file); choose another"),
        (["causal", "--text", "a b"], "a text labels the page that --html FILE writes, got none; add it"),
        (
            ["causal", "--html", "m.html", "--text", "a b", "-q", "3"],
            "has 2 tokens, got --q-len 3; leave --q-len out",
        ),
        (["causal", "--html", "m.html", "--text", "a b", "-k", "9"], "has 2 tokens, got --kv-len 9"),
        (
            ["causal", "--html", "m.html", "--text", "a b", "--tokens", "t"],
            "expected --text or --tokens, got both",
        ),
        (["causal", "--html", "m.html", "--text", " "], "expected one token at least, got --text ' '"),
        (
            ["causal", "--html", "m.html", "--text", "@/no/such"],
            "got --text /no/such (No such file or directory); check the path",
        ),
    ],
)
def test_one_message_and_no_traceback(arguments: list[str], message: str) -> None:
    result = run("show", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


class TestSheet:
    def test_the_demo_draws_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_demo, "demo_patterns", lambda size: SMALL[:1])
        monkeypatch.setattr(gallery, "demo_patterns", lambda size: SMALL[:3])
        path = tmp_path / "out" / "gallery.png"
        lines = lines_of("demo", "--size", "small", "--out", str(path))
        assert "The gallery is drawn in" in lines[0]
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_a_wrong_ending_is_told_before_the_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_demo, "demo_patterns", lambda size: pytest.fail("it went on"))
        monkeypatch.setattr(gallery, "demo_patterns", lambda size: SMALL[:1])
        result = run("demo", "--out", "gallery.bmp")
        assert result.exit_code == 2
        assert "expected a file ending in .png, .svg, .pdf, got path='gallery.bmp'" in result.stderr
