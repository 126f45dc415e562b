"""What a reader of the page does and sees, for the tests: point, scroll, read the panel, see colours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from explorer.browser import open_page
from saccade import create_block_mask
from saccade.block_mask import BlockMask


def blocks(mod: Any, length: int, heads: int | None = None, block: int = 128) -> BlockMask:
    return create_block_mask(mod, None, heads, length, length, device="cpu", BLOCK_SIZE=block)


@contextmanager
def opened(
    chromium: Browser, path: Path, place: str = "", *, motion: Any = "reduce", **size: int
) -> Iterator[Page]:
    """A page from a file; a message on its console or a request for anything else fails the test."""
    with open_page(chromium, **size) as page:
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: request.is_navigation_request() or asked.append(request.url))
        page.emulate_media(reduced_motion=motion)
        visit(page, path, place)
        yield page
        assert said == [], said
        assert set(asked) <= {"data:,"}


def visit(page: Page, path: Path, place: str = "") -> None:
    """Open a file in a page that has one open: afresh, also where it is the same."""
    page.goto("about:blank")
    page.goto(path.as_uri() + place)
    settle(page)


def settle(page: Page) -> None:
    """Wait until what was done is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_selector("#matrix[data-busy=false]")


def point_of(page: Page, q: int, k: int) -> tuple[float, float]:
    """Where a pair's middle is on the screen."""
    x, y = page.evaluate(
        """([q, k]) => {
          const box = explorer.canvas.getBoundingClientRect();
          const { origin, camera } = explorer;
          const at = (axis, index) => box[axis] + origin[axis] + camera.pointOf(axis, index + 0.5);
          return [at("x", k), at("y", q)];
        }""",
        [q, k],
    )
    return x, y


def hover(page: Page, q: int, k: int) -> None:
    page.mouse.move(*point_of(page, q, k))
    settle(page)


def told(page: Page, q: int, k: int) -> str:
    """The verdict of a pair, wherever the pointer is."""
    page.evaluate("([q, k]) => explorer.point({ q, k })", [q, k])
    return verdict(page)


def legend(page: Page) -> str:
    return " ".join(page.locator("#legend").inner_text().split())


def wheel(page: Page, times: int, pixels: int = -240) -> None:
    for _ in range(times):
        page.mouse.wheel(0, pixels)
    settle(page)


def verdict(page: Page) -> str:
    return page.locator("#verdict").inner_text()


def pair(page: Page) -> str:
    return " ".join(page.locator("#pair").inner_text().split())


def terms(page: Page) -> list[str]:
    """The tree's lines, each with its mark."""
    return [" ".join(line.split()) for line in page.locator("#terms .term").all_inner_texts()]


def colours(page: Page, length: int) -> list[list[str]]:
    """The colour drawn at a pair, for every pair of a small mask, off the lines between pairs."""
    found: list[list[str]] = page.evaluate(
        """(length) => {
          const { canvas, camera, origin, pixels } = explorer;
          const copy = new OffscreenCanvas(canvas.width, canvas.height);
          const context = copy.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const at = (axis, place) => Math.round((origin[axis] + camera.pointOf(axis, place + 0.4)) * pixels);
          const hex = (byte) => byte.toString(16).padStart(2, "0");
          const colour = (q, k) => Array.from(context.getImageData(at("x", k), at("y", q), 1, 1).data);
          return Array.from({ length }, (_, q) => Array.from({ length }, (_, k) =>
            "#" + colour(q, k).slice(0, 3).map(hex).join("")));
        }""",
        length,
    )
    return found
