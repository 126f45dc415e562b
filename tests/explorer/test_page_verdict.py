"""Why a pair is visible or hidden: the sentence that the page says, and the tree of terms below it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page

from explorer.reader import blocks, opened, terms, told, visit
from saccade.explorer import write_mask_html
from saccade.masks import and_masks, causal, dense, document, prefix_lm, sliding_window


@pytest.fixture(scope="module")
def page(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page for all: each test visits a file of its own."""
    path = tmp_path_factory.mktemp("page") / "mask.html"
    with opened(chromium, write_mask_html(path, blocks(causal, 4))) as page:
        yield page


def rare(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx % 64 == 7) & (kv_idx % 64 == 7)


def by_place(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return torch.where(q_idx < 5, kv_idx <= q_idx, (q_idx - kv_idx).abs() < 3)


def neither(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return ~((kv_idx > q_idx) | (q_idx - kv_idx >= 4))


def near(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q - k) < 3


HALVES = document(lengths=[20, 20])
HALF = "document(lengths=[20, 20])"
VERDICTS = [
    (
        and_masks(lambda b, h, q, k: (q - k) < 3, causal),
        {
            (1, 20): "Hidden by causal: 20 <= 1 is false",
            (20, 1): "Hidden by q_idx - kv_idx < 3: 19 < 3 is false",
            (20, 19): "Visible: every term holds.",
        },
    ),
    (rare, {(14, 27): "Hidden by rare: 14 == 7 and 27 == 7 are false"}),
    (
        causal & ~(sliding_window(3) | HALVES),
        {
            (20, 19): "Hidden because sliding_window(3) holds",
            (3, 2): f"Hidden because sliding_window(3) and {HALF} hold",
            (1, 25): "Hidden by causal: 25 <= 1 is false",
            (25, 30): f"Hidden by causal: 30 <= 25 is false and because {HALF} holds",
        },
    ),
    (
        sliding_window(3) | HALVES,
        {
            (30, 1): f"Hidden because neither sliding_window(3) nor {HALF} shows it",
            (20, 19): "Visible through sliding_window(3)",
            (3, 2): f"Visible through sliding_window(3) and {HALF}",
        },
    ),
    (
        causal ^ HALVES,
        {
            (30, 25): f"Hidden because causal and {HALF} hold, not just one",
            (1, 20): f"Hidden because neither causal nor {HALF} holds",
            (20, 1): f"Visible: causal holds but {HALF} does not hold.",
        },
    ),
    (
        causal ^ HALVES ^ prefix_lm(3),
        {
            (1, 30): f"Hidden because none of causal, {HALF} and prefix_lm(3) holds, an even number",
            (
                1,
                2,
            ): f"Hidden because {HALF} and prefix_lm(3) hold but causal does not hold, an even number",
        },
    ),
    (
        ~HALVES,
        {(30, 1): f"Visible: {HALF} does not hold.", (2, 1): f"Hidden because {HALF} holds"},
    ),
    (
        by_place,
        {
            (3, 9): "Hidden by by_place: where q_idx < 5 holds, 9 <= 3 is false",
            (20, 1): "Hidden by by_place: where q_idx < 5 does not hold, 19 < 3 is false",
            (20, 19): "Visible: by_place holds.",
        },
    ),
    (neither, {(1, 20): "Hidden by neither: 1 < 20 is true"}),
    (
        lambda b, h, q, k: (k <= q) == (k % 2 == 0),
        {
            (20, 1): "Hidden because 1 <= 20 is true but 1 == 0 is false",
            (3, 9): "Visible: 9 <= 3 and 1 == 0 are false.",
        },
    ),
    (dense(torch.eye(40) > 0), {(3, 9): "Hidden by dense(bool[40, 40]): dense_table[3, 9] is false"}),
]


@pytest.mark.parametrize(("mod", "said"), VERDICTS, ids=[str(case) for case in range(len(VERDICTS))])
def test_a_verdict_names_the_terms_that_decide(
    page: Page, tmp_path: Path, mod: Any, said: dict[tuple[int, int], str]
) -> None:
    visit(page, write_mask_html(tmp_path / "mask.html", blocks(mod, 40)))
    assert {place: told(page, *place) for place in said} == said


def test_a_further_mask_is_named_too(page: Page, tmp_path: Path) -> None:
    visit(page, write_mask_html(tmp_path / "mask.html", blocks(causal, 40), mask_mod=near))
    assert told(page, 20, 1) == "Hidden by near: 19 < 3 is false"
    assert told(page, 1, 20) == "Hidden by causal: 20 <= 1 is false"


def test_the_branch_not_taken_is_idle(page: Page, tmp_path: Path) -> None:
    visit(page, write_mask_html(tmp_path / "mask.html", blocks(by_place, 12)))
    told(page, 3, 9)
    assert terms(page) == [
        "✗ by_place the first tells which of the others must hold",
        "✓ if q_idx < 5 3 < 5",
        "✗ then kv_idx <= q_idx 9 <= 3",
        "✗ else abs(q_idx - kv_idx) < 3 6 < 3",
    ]
    states = "(items) => items.map((item) => item.className)"
    assert page.locator("#terms li").evaluate_all(states) == [
        "fails blamed", "holds", "fails blamed", "fails idle"
    ]  # fmt: skip
    told(page, 7, 6)
    assert page.locator("#terms li").evaluate_all(states) == ["holds", "fails", "holds idle", "holds"]


def test_only_what_hides_a_pair_is_red(page: Page, tmp_path: Path) -> None:
    def red() -> list[str]:
        found: list[str] = page.locator("#terms .name").evaluate_all(
            """(names) => names
              .filter((name) => getComputedStyle(name).color === "rgb(163, 18, 63)")
              .map((name) => name.textContent)"""
        )
        return found

    visit(page, write_mask_html(tmp_path / "mask.html", blocks(causal ^ HALVES, 40)))
    told(page, 20, 1)
    assert red() == []
    told(page, 1, 20)
    assert red() == ["causal", HALF]
    visit(page, write_mask_html(tmp_path / "mask.html", blocks(causal & ~HALVES, 40)))
    told(page, 25, 24)
    assert red() == [HALF]
