"""The page as a file: small, whole, closed to the network, and never half written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from explorer.browser import open_page
from explorer.reader import blocks
from saccade import and_masks
from saccade.errors import ArgumentError, SaccadeError
from saccade.explorer import block_data, mask_html, write_mask_html
from saccade.masks import causal, sliding_window


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of four over 24 tokens, in blocks of eight."""
    path = tmp_path_factory.mktemp("page") / "window.html"
    return write_mask_html(path, blocks(causal & sliding_window(4), 24, block=8))


class TestTheFile:
    def test_it_is_small(self) -> None:
        assert len(mask_html(blocks(causal, 1024)).encode()) < 600_000

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
        monkeypatch.setattr(block_data, "_ASKED_PAIRS", 0)
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

    def test_a_refused_mask_leaves_the_old_page(self, tmp_path: Path) -> None:
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 4))
        before = path.read_bytes()
        with pytest.raises(SaccadeError):
            write_mask_html(path, blocks(causal, 4), tokens=["one"])
        assert path.read_bytes() == before
