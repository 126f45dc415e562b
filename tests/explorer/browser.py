"""A headless Chromium for the suites that look at the page, one a test process.

    from explorer.browser import open_page

    def test_something(chromium):
        with open_page(chromium) as page:
            assert page.evaluate("1 + 1") == 2

`conftest.py` beside this file makes the fixture known. Without a browser the tests are skipped, except where
the environment says CI=true: there they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_browser() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A running browser."""
    path = find_browser()
    if path is None:
        looked_for = ", ".join(_NAMES)
        reason = f"no browser found, looked for {looked_for}; install one: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, width: int = 1280, height: int = 800) -> Iterator[Page]:
    """A blank page without a network; what fails in it fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        yield page
        assert faults == []
    finally:
        context.close()
