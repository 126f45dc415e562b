"""The page as a file: small, whole, closed to the network, and never half written."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from explorer.browser import open_page
from explorer.reader import blocks
from saccade import and_masks
from saccade.errors import ArgumentError, ArgumentTypeError, SaccadeError
from saccade.explorer import block_data, mask_html, write_mask_html
from saccade.masks import causal, sliding_window


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of four over 24 tokens, in blocks of eight."""
    path = tmp_path_factory.mktemp("page") / "window.html"
    return write_mask_html(path, blocks(causal & sliding_window(4), 24, block=8))


class TestTheFile:
    @pytest.mark.parametrize("heads", [1, 64])
    def test_it_is_small(self, heads: int) -> None:
        def window_of_its_own(b, h, q_idx, kv_idx):
            return (q_idx >= kv_idx) & (q_idx - kv_idx <= 16 * h)

        assert len(mask_html(blocks(window_of_its_own, 1024, heads)).encode()) < 200_000

    def test_a_further_mask(self) -> None:
        page = mask_html(blocks(causal, 8), mask_mod=sliding_window(2))
        both = blocks(and_masks(causal, sliding_window(2)), 8)
        assert f"<b>{100 * both.density():.2f} %</b> of all pairs visible" in page
        found = re.search(r'id="mask">(.*?)</script>', page, re.S)
        assert found is not None
        assert json.loads(found[1])["title"] == "causal & sliding_window(2)"

    def test_a_density_that_would_take_long_to_find_is_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(block_data, "MOST_COUNTED", 0)
        page = mask_html(blocks(causal, 8))
        assert "of all pairs visible" not in page
        assert "blocks of <b>128×128</b>" in page

    @pytest.mark.parametrize(
        ("attempt", "directive"),
        [
            ("fetch('https://example.org/').catch(() => {})", "connect-src"),
            (
                "document.body.append(Object.assign(new Image(), { src: 'https://example.org/a.png' }))",
                "img-src",
            ),
            ("document.body.setAttribute('onclick', 'document.title = 1')", "script-src-attr"),
        ],
    )
    def test_its_policy_refuses(self, chromium: Browser, window: Path, attempt: str, directive: str) -> None:
        with open_page(chromium) as page:
            page.goto(window.as_uri())
            refused = page.evaluate(
                f"""() => new Promise((done) => {{
                  addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
                  {attempt};
                  setTimeout(() => done(null), 500);
                }})"""
            )
            assert refused == directive

    def test_a_reader_without_scripts_is_told(self, chromium: Browser, window: Path) -> None:
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(window.as_uri())
        expect(page.locator(".notice")).to_contain_text("switched off here")
        context.close()

    def test_directories_are_made_and_nothing_is_left_beside_it(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "mask.html"
        assert write_mask_html(str(path), blocks(causal, 4)) == path
        assert [one.name for one in path.parent.iterdir()] == ["mask.html"]

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        for path in (tmp_path / "taken", Path("/dev/null/mask.html")):
            with pytest.raises(
                ArgumentError, match=r"a file that can be written, got path='.*; choose another"
            ):
                write_mask_html(path, blocks(causal, 4))
        assert [one.name for one in tmp_path.iterdir()] == ["taken"]

    def test_a_pipe_and_a_device_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(pipe := tmp_path / "pipe")
        for path in (pipe, Path("/dev/null")):
            with pytest.raises(
                ArgumentError, match=rf"got path='{path}' \(not a regular file\); choose another"
            ):
                write_mask_html(path, blocks(causal, 4))
        assert pipe.is_fifo()

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_symbolic_link_is_followed(self, tmp_path: Path, exists: bool) -> None:
        (tmp_path / "pages").mkdir()
        page, link = tmp_path / "pages" / "mask.html", tmp_path / "link.html"
        if exists:
            page.write_text("old")
        link.symlink_to(page)
        assert write_mask_html(link, blocks(causal, 4)) == link
        assert link.readlink() == page
        assert not page.is_symlink()
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")

    def test_links_in_a_ring_are_refused(self, tmp_path: Path) -> None:
        ring = tmp_path / "ring.html"
        ring.symlink_to(ring)
        with pytest.raises(ArgumentError, match="Too many levels of symbolic links"):
            write_mask_html(ring, blocks(causal, 4))

    def test_its_mode_is_that_of_other_files_here(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.html"
        before = os.umask(0o077)
        try:
            write_mask_html(path, blocks(causal, 4))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            path.chmod(0o664)
            write_mask_html(path, blocks(causal, 4))
            assert stat.S_IMODE(path.stat().st_mode) == 0o664
        finally:
            os.umask(before)

    def test_what_is_stopped_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def stopped(path: Path, target: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_mask_html(tmp_path / "mask.html", blocks(causal, 4))
        assert list(tmp_path.iterdir()) == []

    def test_a_title_that_no_file_can_hold(self, tmp_path: Path) -> None:
        with pytest.raises(
            ArgumentError, match=r"UTF-8, which has no '\\ud800', got title='x\\ud800'; leave it out"
        ):
            write_mask_html(tmp_path / "mask.html", blocks(causal, 4), title="x\ud800")
        assert list(tmp_path.iterdir()) == []
        # A token may hold it: it travels as JSON.
        assert "\\ud800" in mask_html(blocks(causal, 1), tokens=["x\ud800"])

    def test_what_is_no_path(self) -> None:
        with pytest.raises(ArgumentTypeError, match=r"path must be a text or a Path, got path=5; write str"):
            write_mask_html(5, blocks(causal, 4))  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"got path='a\\x00b' \(embedded null byte\); choose another"):
            write_mask_html("a\0b", blocks(causal, 4))

    def test_a_refused_mask_leaves_the_old_page(self, tmp_path: Path) -> None:
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 4))
        before = path.read_bytes()
        with pytest.raises(SaccadeError):
            write_mask_html(path, blocks(causal, 4), tokens=["one"])
        assert path.read_bytes() == before
