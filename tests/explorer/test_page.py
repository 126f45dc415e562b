"""What the page tells of pairs, tokens, heads and scores, held against the mods themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page

from explorer.reader import blocks, colours, hover, legend, opened, pair, settle, terms, told, verdict, visit
from saccade.block_mask.markup import KIND_COLOURS
from saccade.errors import ShapeError
from saccade.explorer import mask_html, write_mask_html
from saccade.masks import causal, document, sliding_window
from saccade.scores import alibi, softcap

WORDS = ["The", "cat", "sat", ".", "A", "dog", "ran"]
TABLE = torch.tensor([0, 1, 2, 0])


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of four over 24 tokens, in blocks of eight."""
    path = tmp_path_factory.mktemp("page") / "window.html"
    return write_mask_html(path, blocks(causal & sliding_window(4), 24, block=8))


@pytest.fixture(scope="module")
def page(chromium: Browser, window: Path) -> Iterator[Page]:
    with opened(chromium, window) as page:
        yield page


@pytest.fixture(scope="module")
def labelled(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Two documents, their words at the rulers."""
    path = tmp_path_factory.mktemp("labelled") / "mask.html"
    write_mask_html(path, blocks(causal & document(lengths=[4, 3]), 7), tokens=WORDS)
    with opened(chromium, path) as page:
        yield page


@pytest.fixture(scope="module")
def scored(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A mask and a score that differ by head."""

    def by_head(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return kv_idx <= q_idx + h

    path = tmp_path_factory.mktemp("scored") / "mask.html"
    write_mask_html(path, blocks(by_head, 12, heads=8), score_mod=alibi(n_heads=8))
    with opened(chromium, path) as page:
        yield page


@pytest.fixture(scope="module")
def gallery(chromium: Browser, window: Path) -> Iterator[Page]:
    """A page for tests that visit files of their own."""
    with opened(chromium, window) as page:
        yield page


def rare(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx % 64 == 7) & (kv_idx % 64 == 7)


class TestPairs:
    @pytest.mark.parametrize(
        ("q", "k", "said"),
        [
            (9, 7, "Visible: every term holds."),
            (9, 2, "Hidden by sliding_window(4): 7 < 4 is false"),
            (2, 9, "Hidden by causal and sliding_window(4): 9 <= 2 is false"),
            (23, 0, "Hidden by sliding_window(4): 23 < 4 is false"),
        ],
    )
    def test_the_pair_below_the_pointer(self, page: Page, q: int, k: int, said: str) -> None:
        hover(page, q, k)
        assert pair(page) == f"query {q} → key {k}"
        assert verdict(page) == said

    def test_every_term_with_its_mark_and_numbers(self, page: Page) -> None:
        hover(page, 9, 2)
        assert terms(page) == [
            "✗ all of these must hold",
            "✓ causal kv_idx <= q_idx 2 <= 9",
            "✗ sliding_window(4) all of these must hold",
            "✓ kv_idx <= q_idx 2 <= 9",
            "✗ q_idx - kv_idx < 4 7 < 4",
        ]
        assert page.locator("#terms > .fails > ul > .fails:not(.idle)").count() == 1

    def test_its_block(self, page: Page) -> None:
        hover(page, 9, 2)
        assert "row 1, column 0: partial" in page.locator("#facts").inner_text()
        hover(page, 2, 20)
        assert "row 0, column 2: empty" in page.locator("#facts").inner_text()

    def test_the_colour_of_every_pair(self, page: Page) -> None:
        page.mouse.move(1, 1)
        settle(page)
        assert page.locator("#matrix").get_attribute("data-level") == "pairs"
        hidden = {True: "#fdf0d5", False: KIND_COLOURS[0]}  # of a partial block, of an empty one
        for q, row in enumerate(colours(page, 24)):
            for k, colour in enumerate(row):
                in_partial = q // 8 in (k // 8, k // 8 + 1)
                assert colour == (KIND_COLOURS[1] if 0 <= q - k < 4 else hidden[in_partial]), (q, k)

    def test_a_full_block_has_its_own_colour(self, gallery: Page, tmp_path: Path) -> None:
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 16, block=8))
        visit(gallery, path)
        drawn = colours(gallery, 16)
        assert {colour for row in drawn[8:] for colour in row[:8]} == {KIND_COLOURS[2]}
        assert drawn[3][2] == KIND_COLOURS[1]
        hover(gallery, 12, 3)
        assert verdict(gallery) == "Visible, like every pair of this block."

    def test_a_term_without_a_value_is_told_as_such(self, gallery: Page, tmp_path: Path) -> None:
        def looked_up(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return (q_idx < 4) & (TABLE[q_idx] == kv_idx)

        path = write_mask_html(tmp_path / "mask.html", blocks(looked_up, 6))
        visit(gallery, path)
        hover(gallery, 5, 2)
        assert verdict(gallery) == "Hidden by looked_up: 5 < 4 is false"
        assert gallery.locator("#terms .poison").count() == 1
        assert terms(gallery)[2].startswith(
            "! TABLE[q_idx] == kv_idx TABLE has 4 entries in dimension 0, got index 5"
        )
        hover(gallery, 2, 2)
        assert "2 == 2 (TABLE[2] = 2)" in terms(gallery)[2]


class TestTokens:
    def test_stand_in_the_panel(self, labelled: Page) -> None:
        hover(labelled, 5, 1)
        assert pair(labelled) == "query 5 dog → key 1 cat"
        assert verdict(labelled) == "Hidden by document(lengths=[4, 3]): 1 == 0 is false"

    def test_stand_on_both_rulers(self, labelled: Page) -> None:
        written = labelled.evaluate(_WRITTEN)
        assert all(written.count(word) == 2 for word in WORDS)

    def test_are_texts_and_never_markup(self, gallery: Page, tmp_path: Path) -> None:
        attack = "</script><img src=x onerror=\"document.title='gone'\">"
        path = write_mask_html(
            tmp_path / "mask.html", blocks(causal, 2), tokens=[attack, "\n"], title=f"{attack}&amp;"
        )
        visit(gallery, path)
        hover(gallery, 1, 0)
        assert gallery.title() == f"{attack}&amp;"
        assert gallery.locator("h1").inner_text() == f"{attack}&amp;"
        assert gallery.locator("#pair q").all_text_contents() == ["⏎", attack]
        assert gallery.locator("img").count() == 0

    def test_what_would_not_be_seen_is_shown(self, gallery: Page, tmp_path: Path) -> None:
        tokens = {
            "": "∅",
            "  a ": "␣␣a␣",
            "a\tb\n": "a⇥b⏎",
            "\u200b": "⟨U+200B⟩",
            "\x07": "⟨U+0007⟩",
            "\u200d": "⟨U+200D⟩",
            "👩\u200d🚀": "👩\u200d🚀",
        }
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, len(tokens)), tokens=list(tokens))
        visit(gallery, path)
        written = gallery.evaluate(_WRITTEN)
        for index, shown in enumerate(tokens.values()):
            told(gallery, index, 0)
            assert gallery.locator("#pair q").first.text_content() == shown
            assert written.count(shown) == 2

    def test_a_long_one_is_cut_before_it_is_measured(self, gallery: Page, tmp_path: Path) -> None:
        family = "👨\u200d👩\u200d👧"
        path = write_mask_html(
            tmp_path / "mask.html", blocks(causal, 3), tokens=["a", "x" * 20_000, family * 100]
        )
        visit(gallery, path)
        written = gallery.evaluate(_WRITTEN)
        assert sum(re.fullmatch("x{4,}…", text) is not None for text in written) == 2
        assert sum(re.fullmatch(f"({family})+…", text) is not None for text in written) == 2
        first, second = gallery.evaluate(
            """() => {
              const context = explorer.canvas.getContext("2d");
              const count = () => {
                const texts = [];
                const measure = context.measureText;
                context.measureText = (text) => (texts.push(text), measure.call(context, text));
                explorer.draw(0);
                delete context.measureText;
                return texts.filter((text) => text.length > 8).map((text) => text.length);
              };
              for (const known of Object.values(explorer.rulers.fitted)) known.clear();
              return [count(), count()];
            }"""
        )
        assert 0 < max(first) <= 64 * 8 + 1  # UTF-16 units: a family has 8
        assert len(first) < 40
        assert second == []
        told(gallery, 2, 1)
        shown = gallery.locator("#pair q").all_text_contents()
        assert shown == [family * 100, "x" * 240 + "…"]
        box = gallery.locator("#pair").bounding_box()
        assert box is not None
        assert box["height"] < 260

    def test_as_many_as_positions(self) -> None:
        with pytest.raises(ShapeError, match="5"):
            mask_html(blocks(causal, 5), tokens=WORDS)


class TestHeadsAndScores:
    def test_another_head(self, scored: Page) -> None:
        hover(scored, 3, 5)
        assert verdict(scored) == "Hidden by by_head: 5 <= 3 is false"
        scored.locator("#choose-h").select_option("2")
        hover(scored, 3, 5)
        assert verdict(scored) == "Visible: by_head holds."
        assert colours(scored, 12)[4][6] == KIND_COLOURS[1]
        scored.locator("#choose-h").select_option("0")
        settle(scored)
        assert colours(scored, 12)[4][6] != KIND_COLOURS[1]

    def test_what_becomes_of_a_score(self, scored: Page) -> None:
        scored.locator("#choose-h").select_option("1")
        hover(scored, 7, 3)
        # ALiBi's second slope of eight is 1/4.
        assert "1 → 0\n" in scored.locator("#facts").inner_text() + "\n"
        scored.locator("#score-value").fill("2.5")
        hover(scored, 7, 5)
        assert "2.5 → 2" in scored.locator("#facts").inner_text()
        hover(scored, 7, 11)
        assert "2.5 → takes no part" in scored.locator("#facts").inner_text()
        scored.locator("#score-value").fill("1")
        scored.locator("#choose-h").select_option("0")

    def test_pairs_coloured_by_it(self, scored: Page) -> None:
        scored.locator("#coloured").check()
        scored.mouse.move(1, 1)
        settle(scored)
        # Head 0 has slope 1/2: the farthest of twelve loses 5.5.
        assert legend(scored) == "−4.5 1 what becomes of 1 hidden"
        drawn = colours(scored, 12)
        assert drawn[11][0] == "#00224e"
        assert {drawn[place][place] for place in range(12)} == {"#fee838"}
        assert len({drawn[11][k] for k in range(12)}) == 12
        assert drawn[0][5] == KIND_COLOURS[0]
        assert scored.locator("#legend .poison").count() == 0
        scored.locator("#coloured").uncheck()

    def test_a_score_that_is_one_everywhere(self, gallery: Page, tmp_path: Path) -> None:
        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 6), score_mod=softcap(2.0))
        visit(gallery, path)
        gallery.locator("#coloured").check()
        settle(gallery)
        one = f"{2 * math.tanh(0.5):.5g} what becomes of 1"
        assert legend(gallery) == f"{one} hidden"
        assert colours(gallery, 6)[4][2] == "#fee838"

    def test_a_score_that_hides_and_one_that_fails(self, gallery: Page, tmp_path: Path) -> None:
        def looked_up(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return torch.where(kv_idx < 2, score - float("inf"), score + TABLE[q_idx])

        path = write_mask_html(tmp_path / "mask.html", blocks(causal, 6), score_mod=looked_up)
        visit(gallery, path)
        hover(gallery, 3, 1)
        assert "1 → −∞: takes no part" in gallery.locator("#facts").inner_text()
        hover(gallery, 2, 2)
        assert "1 → 3" in gallery.locator("#facts").inner_text()
        hover(gallery, 5, 3)
        assert (
            "1 → fails: TABLE has 4 entries in dimension 0, got index 5"
            in gallery.locator("#facts").inner_text()
        )

    def test_the_legend_ends_where_the_scores_do(self, gallery: Page, tmp_path: Path) -> None:
        bias = torch.randn(40, 40, generator=torch.Generator().manual_seed(1))

        def learned(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return score + bias[q_idx, kv_idx]

        visit(gallery, write_mask_html(tmp_path / "mask.html", blocks(causal, 40), score_mod=learned))
        gallery.locator("#coloured").check()
        settle(gallery)
        seen = 1 + bias[torch.ones(40, 40).tril().bool()].double()
        ends = [f"{float(end):.5g}".replace("-", "−") for end in (seen.min(), seen.max())]
        assert legend(gallery) == f"{ends[0]} {ends[1]} what becomes of 1 hidden"

    def test_the_legend_of_a_larger_mask_grows_with_what_is_seen(self, gallery: Page, tmp_path: Path) -> None:
        def peak(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
            return score + 7 * ((q_idx == 201) & (kv_idx == 101))

        visit(
            gallery, write_mask_html(tmp_path / "mask.html", blocks(causal, 400), score_mod=peak), "#q=10&k=5"
        )
        gallery.locator("#coloured").check()
        settle(gallery)
        assert legend(gallery) == "about 1 what becomes of 1 hidden"
        gallery.evaluate("explorer.goTo({ q: 201, k: 100 })")
        settle(gallery)
        assert legend(gallery) == "about 1 8 what becomes of 1 hidden"

    def test_scores_that_a_sample_misses(self, gallery: Page, tmp_path: Path) -> None:
        visit(gallery, write_mask_html(tmp_path / "mask.html", blocks(rare, 2048), score_mod=softcap(3.0)))
        said = gallery.locator("#no-scores")
        gallery.locator("#coloured").check()
        settle(gallery)
        assert said.inner_text().startswith("No visible pair with a score was found so far: zoom in")
        gallery.evaluate("explorer.goTo({ q: 71, k: 71 })")
        settle(gallery)
        assert said.is_hidden()
        assert legend(gallery) == f"about {3 * math.tanh(1 / 3):.5g} what becomes of 1 hidden"
        gallery.locator("#coloured").uncheck()
        gallery.evaluate("explorer.whole()")
        settle(gallery)
        assert said.is_hidden()


_WRITTEN = """() => {
  const context = explorer.canvas.getContext("2d");
  const texts = [];
  context.fillText = (text) => texts.push(text);
  explorer.draw(0);
  delete context.fillText;
  return texts;
}"""
