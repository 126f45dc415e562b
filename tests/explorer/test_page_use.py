"""The page in use: scrolled, dragged, pinched, driven by keys alone, on screens of several kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from explorer.reader import blocks, hover, opened, pair, point_of, settle, verdict, wheel
from saccade import create_block_mask
from saccade.explorer import write_mask_html
from saccade.masks import causal, sliding_window


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of four over 24 tokens, in blocks of eight."""
    path = tmp_path_factory.mktemp("page") / "window.html"
    return write_mask_html(path, blocks(causal & sliding_window(4), 24, block=8))


@pytest.fixture(scope="module")
def page(chromium: Browser, window: Path) -> Iterator[Page]:
    with opened(chromium, window) as page:
        yield page


class TestMoving:
    def test_a_million_tokens_from_the_whole_to_single_pairs(self, chromium: Browser, tmp_path: Path) -> None:
        length = 1_048_576
        path = write_mask_html(tmp_path / "mask.html", blocks(causal & sliding_window(4096), length))
        assert path.stat().st_size < 1_000_000
        with opened(chromium, path) as page:
            matrix = page.locator("#matrix")
            expect(matrix).to_have_attribute("data-level", "overview")
            x, y = map(round, point_of(page, 500_000, 500_000))
            page.mouse.move(x, y)
            settle(page)
            below = pair(page)
            levels = [matrix.get_attribute("data-level")]
            for _ in range(9):
                wheel(page, 4)
                levels.append(matrix.get_attribute("data-level"))
            assert [level for level, _ in groupby(levels)] == ["overview", "blocks", "pairs"]
            assert page.evaluate("explorer.camera.pairSize") == 56
            # The pair below the pointer stayed there, and the next one is a pair away.
            page.mouse.move(x + 1, y)
            page.mouse.move(x, y)
            settle(page)
            assert pair(page) == below
            q, k = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", below))
            page.mouse.move(x + 56, y + 112)
            settle(page)
            assert pair(page) == f"query {q + 2:,} → key {k + 1:,}"
            assert verdict(page).startswith("Visible" if 0 <= q + 1 - k < 4096 else "Hidden")

    def test_a_drag_moves_the_matrix_with_the_pointer(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window) as page:
            hover(page, 12, 12)
            wheel(page, 4)
            x, y = point_of(page, 12, 12)
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x - 60, y - 45, steps=4)
            page.mouse.up()
            settle(page)
            assert point_of(page, 12, 12) == pytest.approx((x - 60, y - 45), abs=0.01)
            hover(page, 12, 12)
            assert pair(page) == "query 12 → key 12"

    def test_a_click_pins_the_pair(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window) as page:
            page.mouse.click(*point_of(page, 9, 2))
            hover(page, 20, 20)
            assert pair(page) == "query 9 → key 2"
            page.mouse.click(*point_of(page, 9, 2))
            hover(page, 20, 20)
            assert pair(page) == "query 20 → key 20"

    def test_two_fingers_zoom_and_a_tap_chooses(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window) as page:
            touch = page.context.new_cdp_session(page)
            x, y = point_of(page, 9, 2)

            def fingers(kind: str, *places: float) -> None:
                points = [{"x": place, "y": y, "id": number} for number, place in enumerate(places)]
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

            fingers("touchStart", x)
            fingers("touchEnd")
            settle(page)
            assert pair(page) == "query 9 → key 2"
            size = page.evaluate("explorer.camera.pairSize")
            fingers("touchStart", x, x + 60)
            for distance in (70, 80, 90):
                fingers("touchMove", x, x + distance)
            fingers("touchEnd")
            settle(page)
            assert page.evaluate("explorer.camera.pairSize") == pytest.approx(1.5 * size, rel=0.01)
            assert point_of(page, 9, 2) == pytest.approx((x, y), abs=1)

    def test_the_address_is_a_place(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window, "#q=9&k=2&zoom=40") as page:
            assert pair(page) == "query 9 → key 2"
            assert page.evaluate("explorer.camera.pairSize") == pytest.approx(40)
            page.locator("#matrix").press("ArrowDown")
            expect(page).to_have_url(re.compile("#q=10&k=2&zoom=40$"))

    @pytest.mark.parametrize("place", ["#q=24&k=2", "#q=1.5&k=2", "#section", "#q=1"])
    def test_an_address_that_is_none_is_passed_over(
        self, chromium: Browser, window: Path, place: str
    ) -> None:
        with opened(chromium, window, place) as page:
            expect(page.locator("#hint")).to_be_visible()


class TestKeyboard:
    def test_a_session_without_a_pointer(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window, motion="no-preference") as page:
            press = page.keyboard.press
            press("Tab")
            assert page.evaluate("document.activeElement.id") == "matrix"
            assert (
                page.locator(".frame").evaluate("(frame) => getComputedStyle(frame).outlineStyle") == "solid"
            )
            press("ArrowDown")
            assert pair(page) == "query 12 → key 12"
            press("ArrowDown")
            press("ArrowLeft")
            assert pair(page) == "query 13 → key 11"
            press("Shift+ArrowLeft")
            assert pair(page) == "query 13 → key 3"
            assert verdict(page) == "Hidden by sliding_window(4): 10 < 4 is false"
            press("Shift+ArrowLeft")
            assert pair(page) == "query 13 → key 0"
            size = page.evaluate("explorer.camera.pairSize")
            press("+")
            settle(page)
            assert page.evaluate("explorer.camera.pairSize") == pytest.approx(1.5 * size)
            press("0")
            settle(page)
            assert page.evaluate("explorer.camera.pairSize") == pytest.approx(size)
            press("Enter")
            expect(page.locator("#pin")).to_be_visible()
            press("Escape")
            expect(page.locator("#pin")).to_be_hidden()
            press("?")
            expect(page.locator("#keys")).to_be_visible()
            press("Escape")
            expect(page.locator("#keys")).to_be_hidden()

    def test_every_control_is_reached_by_tab(self, chromium: Browser, window: Path) -> None:
        reached = []
        with opened(chromium, window) as page:
            for _ in range(8):
                page.keyboard.press("Tab")
                reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        assert reached == [
            "matrix", "zoom-out", "zoom-in", "zoom-whole", "show-keys", "go-q", "go-k", "submit"
        ]  # fmt: skip

    def test_go_to_a_pair(self, chromium: Browser, window: Path) -> None:
        with opened(chromium, window) as page:
            page.locator("#go-q").fill("21")
            page.locator("#go-k").fill("19")
            page.keyboard.press("Enter")
            settle(page)
            assert pair(page) == "query 21 → key 19"
            expect(page.locator("#pin")).to_be_visible()

    def test_what_is_told_is_announced(self, page: Page) -> None:
        assert page.locator("#verdict").get_attribute("aria-live") == "polite"
        label = page.locator("#matrix").get_attribute("aria-label") or ""
        assert label.startswith("Matrix of 24 queries and 24 keys")


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_stand_out(self, chromium: Browser, window: Path, scheme: Any) -> None:
        """By WCAG's measure, 4.5 to 1 at least."""
        with opened(chromium, window) as page:
            page.emulate_media(color_scheme=scheme)
            hover(page, 9, 2)
            for text in (
                "h1",
                ".facts",
                ".legend",
                ".pair .axis",
                "#verdict",
                ".term .text",
                ".idle .values",
                ".pair-facts dt",
            ):
                assert page.locator(text).first.evaluate(_CONTRAST) >= 4.5, text

    @pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 740)])
    def test_nothing_is_cut_off(self, chromium: Browser, window: Path, width: int, height: int) -> None:
        with opened(chromium, window, width=width, height=height) as page:
            hover(page, 9, 2)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            box = page.locator("#matrix").bounding_box()
            assert box is not None
            assert box["width"] > 300
            assert box["height"] > 300

    def test_the_head_tells_the_mask_in_numbers(self, page: Page) -> None:
        assert page.locator("h1").inner_text() == "causal & sliding_window(4)"
        facts = " ".join(page.locator(".facts").inner_text().split())
        assert facts == (
            "24 queries × 24 keys 15.62 % of all pairs visible blocks of 8×8: 4 empty, 5 partial, 0 full"
        )

    def test_one_query_of_many_keys_is_seen(self, chromium: Browser, tmp_path: Path) -> None:
        path = write_mask_html(
            tmp_path / "mask.html", create_block_mask(causal, None, None, 1, 100_000, device="cpu")
        )
        with opened(chromium, path) as page:
            assert page.evaluate("explorer.camera.scale('y')") > 20
            assert "1 query × 100,000 keys" in page.locator(".facts").inner_text()


_CONTRAST = """(element) => {
  const light = (colour) => {
    const part = (byte) => (byte <= 10 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = colour.match(/\\d+/g).map((digits) => part(Number(digits)));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  let ground = element;
  while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
  const both = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(light);
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""
