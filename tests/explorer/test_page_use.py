"""The page in use: scrolled, dragged, pinched, driven by keys alone, on screens of several kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from explorer.reader import blocks, hover, legend, opened, pair, point_of, settle, told, verdict, visit, wheel
from saccade import create_block_mask
from saccade.explorer import write_mask_html
from saccade.masks import causal, sliding_window


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of four over 24 tokens, in blocks of eight."""
    path = tmp_path_factory.mktemp("page") / "window.html"
    return write_mask_html(path, blocks(causal & sliding_window(4), 24, block=8))


@pytest.fixture(scope="module")
def anywhere(chromium: Browser, window: Path) -> Iterator[Page]:
    """One page for all tests, which visit what they need."""
    with opened(chromium, window) as page:
        yield page


@pytest.fixture
def page(anywhere: Page, window: Path) -> Iterator[Page]:
    """The window of four, afresh; what a test changes of the reader's screen is put back."""
    visit(anywhere, window)
    yield anywhere
    anywhere.set_viewport_size({"width": 1280, "height": 800})
    anywhere.emulate_media(color_scheme="light", contrast="no-preference", forced_colors="none")


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask that differs by batch and head."""

    def by_both(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return kv_idx <= q_idx + b + h

    path = tmp_path_factory.mktemp("heads") / "mask.html"
    return write_mask_html(path, create_block_mask(by_both, 2, 3, 6, 6, device="cpu"))


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

    def test_a_drag_moves_the_matrix_with_the_pointer(self, page: Page) -> None:
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

    def test_a_click_pins_the_pair(self, page: Page) -> None:
        page.mouse.click(*point_of(page, 9, 2))
        hover(page, 20, 20)
        assert pair(page) == "query 9 → key 2"
        page.mouse.click(*point_of(page, 9, 2))
        hover(page, 20, 20)
        assert pair(page) == "query 20 → key 20"

    def test_two_fingers_zoom_and_a_tap_chooses(self, page: Page) -> None:
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

    def test_the_address_is_a_place(self, anywhere: Page, window: Path) -> None:
        visit(anywhere, window, "#q=9&k=2&zoom=40")
        assert pair(anywhere) == "query 9 → key 2"
        assert anywhere.evaluate("explorer.camera.pairSize") == pytest.approx(40)
        anywhere.locator("#matrix").press("ArrowDown")
        expect(anywhere).to_have_url(re.compile("#q=10&k=2&zoom=40$"))
        # Only a pair that was pinned is pinned again.
        visit(anywhere, window, anywhere.evaluate("location.hash"))
        expect(anywhere.locator("#pin")).to_be_hidden()
        anywhere.locator("#matrix").press("Enter")
        expect(anywhere).to_have_url(re.compile("#q=10&k=2&zoom=40&pin=1$"))
        visit(anywhere, window, anywhere.evaluate("location.hash"))
        expect(anywhere.locator("#pin")).to_be_visible()
        assert pair(anywhere) == "query 10 → key 2"

    def test_a_head_has_an_address_without_a_pair(self, anywhere: Page, heads: Path) -> None:
        visit(anywhere, heads)
        anywhere.locator("#choose-h").select_option("1")
        expect(anywhere).to_have_url(re.compile("#h=1$"))
        visit(anywhere, heads, "#b=1&h=2")
        assert anywhere.evaluate("[explorer.state.b, explorer.state.h, explorer.state.cursor]") == [
            1,
            2,
            None,
        ]
        assert anywhere.locator("#choose-h").input_value() == "2"

    def test_a_pair_left_leaves_the_address(self, page: Page) -> None:
        hover(page, 9, 2)
        expect(page).to_have_url(re.compile("#q=9&k=2"))
        page.mouse.move(1, 1)
        expect(page).to_have_url(re.compile(r"\.html$"))

    @pytest.mark.parametrize("place", ["#q=24&k=2", "#q=1.5&k=2", "#section", "#q=1"])
    def test_an_address_that_is_none_is_passed_over(self, anywhere: Page, window: Path, place: str) -> None:
        visit(anywhere, window, place)
        expect(anywhere.locator("#hint")).to_be_visible()


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

    def test_every_control_is_reached_by_tab(self, page: Page) -> None:
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        assert reached == [
            "matrix", "zoom-out", "zoom-in", "zoom-whole", "show-keys", "go-q", "go-k", "submit"
        ]  # fmt: skip

    def test_go_to_a_pair(self, page: Page) -> None:
        page.locator("#go-q").fill("21")
        page.locator("#go-k").fill("19")
        page.keyboard.press("Enter")
        settle(page)
        assert pair(page) == "query 21 → key 19"
        expect(page.locator("#pin")).to_be_visible()

    def test_a_pair_and_its_verdict_are_announced_together(self, page: Page) -> None:
        live = page.locator("[aria-live=polite][aria-atomic=true]")
        said = []
        for k in (7, 8):
            told(page, 9, k)
            said.append(" ".join(live.inner_text().split()))
        assert said == [f"query 9 → key {k} Visible: every term holds." for k in (7, 8)]
        matrix = page.locator("#matrix")
        assert matrix.get_attribute("aria-describedby") == live.get_attribute("id")
        label = matrix.get_attribute("aria-label") or ""
        assert label.startswith("Matrix of 24 queries and 24 keys")


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_texts_stand_out(self, page: Page, scheme: Any) -> None:
        """By WCAG's measure, 4.5 to 1 at least."""
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
            ".blamed .name",
            ".pair-facts dt",
        ):
            assert page.locator(text).first.evaluate(_CONTRAST) >= 4.5, text

    def test_a_reader_who_asks_for_contrast_has_more(self, page: Page) -> None:
        before = page.locator(".facts").evaluate(_CONTRAST)
        page.emulate_media(contrast="more")
        settle(page)
        assert page.locator(".facts").evaluate(_CONTRAST) > 2 * before
        ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink')"
        assert page.evaluate(f"explorer.palette.line === {ink}")

    def test_the_legend_keeps_its_colours_where_others_are_forced(self, page: Page) -> None:
        grounds = """(swatches) => swatches.map((swatch) => getComputedStyle(swatch).backgroundColor)"""
        before = page.locator(".swatch").evaluate_all(grounds)
        page.emulate_media(forced_colors="active")
        assert page.locator(".swatch").evaluate_all(grounds) == before
        assert len(set(before)) == 4

    def test_the_legend_says_what_is_meant(self, page: Page) -> None:
        assert legend(page) == "visible, in a full partial block hidden, in a partial empty block"

    def test_values_are_no_placeholders(self, page: Page) -> None:
        colour = "(one) => getComputedStyle(one).color"
        ink = page.locator("body").evaluate(colour)
        assert [page.locator(one).evaluate(colour) for one in ("#go-q", "#choose-h")] == [ink, ink]

    @pytest.mark.parametrize("touch", [False, True])
    def test_a_touch_screen_has_a_hint_of_its_own(self, chromium: Browser, window: Path, touch: bool) -> None:
        context = chromium.new_context(has_touch=touch, offline=True)
        page = context.new_page()
        page.goto(window.as_uri())
        hint = page.locator("#hint").inner_text()
        context.close()
        assert hint.startswith("Tap a pair" if touch else "Point at a pair")
        assert ("Pinch to zoom" in hint) is touch

    @pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 740)])
    def test_nothing_is_cut_off(self, page: Page, width: int, height: int) -> None:
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        hover(page, 9, 2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        box = page.locator("#matrix").bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 300

    def test_a_small_mask_stands_in_the_middle(self, anywhere: Page, tmp_path: Path) -> None:
        mask = create_block_mask(causal, None, None, 7, 3, device="cpu")
        visit(anywhere, write_mask_html(tmp_path / "mask.html", mask))
        before, after, above, below = anywhere.evaluate(
            """() => {
              const { camera } = explorer;
              const beside = (axis, count) =>
                [camera.pointOf(axis, 0), camera.size[axis] - camera.pointOf(axis, count)];
              return [...beside("x", 3), ...beside("y", 7)];
            }"""
        )
        assert before > 200
        assert before == pytest.approx(after, abs=15)
        assert above > 50
        assert above == pytest.approx(below, abs=15)
        # Its rulers stand at its edges: the corner between them is as far away as it is wide.
        corner, wanted = anywhere.evaluate(
            """() => {
              const context = explorer.canvas.getContext("2d");
              let corner = null;
              context.fillText = (text, x, y) => {
                const { e, f } = context.getTransform();
                if (text === "keys →") corner = [x + e / explorer.pixels, y + f / explorer.pixels];
              };
              explorer.draw(0);
              delete context.fillText;
              return [corner, [9 + explorer.camera.pointOf("x", 0), 14 + explorer.camera.pointOf("y", 0)]];
            }"""
        )
        assert corner == pytest.approx(wanted, abs=1)

    def test_batch_and_head_stand_before_the_block_where_they_differ(
        self, anywhere: Page, heads: Path, tmp_path: Path
    ) -> None:
        names = "(facts) => facts.map((fact) => fact.textContent)"
        visit(anywhere, heads, "#q=3&k=1&b=1&h=2")
        facts = anywhere.locator("#facts dt").evaluate_all(names)
        assert facts == ["batch", "head", "block"]
        alike = create_block_mask(causal, 2, 3, 6, 6, device="cpu")
        visit(anywhere, write_mask_html(tmp_path / "mask.html", alike), "#q=3&k=1&b=1&h=2")
        assert anywhere.locator("#facts dt").evaluate_all(names) == ["block"]

    def test_the_shares_of_a_small_mask_are_counted_in_the_page(self, anywhere: Page, tmp_path: Path) -> None:
        visit(anywhere, write_mask_html(tmp_path / "mask.html", blocks(causal, 2048)))
        assert anywhere.locator("#matrix").get_attribute("data-level") == "overview"
        assert legend(anywhere) == "0 % 100 % visible pairs"
        drawn, wanted = anywhere.evaluate(
            """() => {
              const { palette, view } = explorer;
              const picture = view.overview.picture({ b: 0, h: 0 });
              const { width, height } = picture;
              const { data } = picture.getContext("2d").getImageData(0, 0, width, height);
              const colour = ([x, y]) => Array.from(data.slice(4 * (y * width + x), 4 * (y * width + x) + 3));
              // Of four queries and keys, ten pairs of sixteen are causal.
              return [
                [[7, 7], [2, 500], [500, 2]].map(colour), [10 / 16, 1, 0].map((share) => palette.share(share))
              ];
            }"""
        )
        assert drawn == wanted

    def test_cells_that_were_not_counted_are_none_some_or_all(self, anywhere: Page, tmp_path: Path) -> None:
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 4096))
        page = path.read_text(encoding="utf-8")
        assert '"counted":true' in page
        path.write_text(page.replace('"counted":true', '"counted":false'), encoding="utf-8")
        visit(anywhere, path)
        assert legend(anywhere) == "visible pairs: none some all"

    def test_tiles_in_view_are_kept_however_many(self, page: Page) -> None:
        """Pairs of half a pixel on a very large screen."""
        made, kept = page.evaluate(
            """() => {
              const tiles = new Tiles(explorer.model, explorer.mask, explorer.palette);
              let made = 0;
              tiles.make = () => (made++, null);
              for (let frame = 0; frame < 2; frame++) {
                tiles.draw(explorer.state, { x: [2900, 9110], y: [4100, 7880] }, () => {});
              }
              return [made, tiles.bitmaps.size];
            }"""
        )
        assert made == kept == 98 * 60

    def test_tiles_are_made_however_long_the_others_take_to_draw(self, page: Page) -> None:
        frames = page.evaluate(
            """() => {
              const tiles = new Tiles(explorer.model, explorer.mask, explorer.palette);
              const spend = (end) => { while (performance.now() < end); };
              tiles.make = () => (spend(performance.now() + 0.2), document.createElement("canvas"));
              const place = () => spend(performance.now() + 0.1);
              const spans = { x: [0, 1280], y: [0, 1280] };
              let frames = 1;
              while (!tiles.draw(explorer.state, spans, place) && frames < 60) frames++;
              return frames;
            }"""
        )
        assert frames < 60

    def test_the_page_adds_nothing_to_the_window(self, page: Page, tmp_path: Path) -> None:
        names = """() => Object.getOwnPropertyNames(window).filter((name) => isNaN(name))"""
        mine = page.evaluate(names)
        empty = tmp_path / "empty.html"
        empty.write_text("<!doctype html><link rel='icon' href='data:,'>", encoding="utf-8")
        page.goto(empty.as_uri())
        assert set(mine) - set(page.evaluate(names)) == set()

    def test_the_head_tells_the_mask_in_numbers(self, page: Page) -> None:
        assert page.locator("h1").inner_text() == "causal & sliding_window(4)"
        facts = " ".join(page.locator(".facts").inner_text().split())
        assert facts == (
            "24 queries × 24 keys 15.62 % of all pairs visible blocks of 8×8: 4 empty, 5 partial, 0 full"
        )

    def test_one_query_of_many_keys_is_seen(self, anywhere: Page, tmp_path: Path) -> None:
        mask = create_block_mask(causal, None, None, 1, 100_000, device="cpu")
        visit(anywhere, write_mask_html(tmp_path / "mask.html", mask))
        assert anywhere.evaluate("explorer.camera.scale('y')") > 20
        assert "1 query × 100,000 keys" in anywhere.locator(".facts").inner_text()


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
