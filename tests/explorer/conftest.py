"""What the suites of the page share: the browser, and the evaluator running in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from explorer.browser import chromium, open_page
from explorer.evaluator import load_evaluator

__all__ = ["chromium", "evaluator"]


@pytest.fixture(scope="module")
def evaluator(chromium: Browser) -> Iterator[Page]:
    """A page with the evaluator in it and nothing else."""
    with open_page(chromium) as page:
        load_evaluator(page)
        yield page
