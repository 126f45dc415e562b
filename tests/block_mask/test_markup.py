"""Masks, programs and explanations in a notebook: well-formed, whole and escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from saccade.attention import explain
from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.markup import KIND_COLOURS, grid_svg
from saccade.masks import causal, sliding_window
from saccade.scores import softcap
from saccade.tracing import trace

SVG = "{http://www.w3.org/2000/svg}"


def drawn_kinds(svg: str) -> list[list[int]]:
    """Paint the picture again, from its paths."""
    root = ET.fromstring(svg)
    _, _, columns, rows = map(int, root.attrib["viewBox"].split())
    grid = np.zeros((rows, columns), dtype=int)
    for path in root.iter(f"{SVG}path"):
        kind = KIND_COLOURS.index(path.attrib["fill"])
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.attrib["d"]):
            assert not grid[int(y), int(x) : int(x) + int(length)].any()
            grid[int(y), int(x) : int(x) + int(length)] = kind
    return grid.tolist()


def parsed(html: str) -> ET.Element:
    return ET.fromstring(html.replace("<br>", "<br/>"))


@pytest.mark.parametrize(
    "kinds", [[[0]], [[2, 2, 2]], [[1, 0, 0, 1], [2, 1, 1, 0]], [[0, 2], [2, 0], [1, 1]]]
)
def test_a_grid_is_drawn_cell_by_cell(kinds: list[list[int]]) -> None:
    assert drawn_kinds(grid_svg(kinds, "grid")) == kinds


def test_a_picture_has_its_proportions_and_an_escaped_title() -> None:
    root = ET.fromstring(grid_svg([[1, 2, 0, 0]] * 2, "a < b & <script>", size=100))
    assert (root.attrib["width"], root.attrib["height"]) == ("100", "50")
    assert root.findtext(f"{SVG}title") == "a < b & <script>"


def test_an_empty_grid_is_a_picture_all_the_same() -> None:
    assert ET.fromstring(grid_svg([], "nothing")).attrib["viewBox"] == "0 0 0 0"


class TestBlockMask:
    def html(self, mask: BlockMask) -> str:
        return mask._repr_html_()

    def test_blocks_and_legend(self) -> None:
        html = self.html(create_block_mask(sliding_window(200), None, None, 512, 512, device="cpu"))
        svg = html[html.index("<svg") : html.index("</svg>") + 6]
        assert drawn_kinds(svg) == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]
        text = "".join(parsed(html).itertext())
        assert "BlockMask(sliding_window(200), shape=(1, 1, 512, 512)" in text
        assert "emptypartialfull" in text

    def test_a_million_tokens_are_a_small_picture(self) -> None:
        html = self.html(create_block_mask(causal, None, None, 1 << 20, 1 << 20, device="cpu"))
        assert "a cell stands for 128×128 blocks" in html
        assert len(html) < 8_000

    def test_masks_that_differ_say_which_is_drawn(self) -> None:
        def by_head(
            b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor
        ) -> torch.Tensor:
            return kv_idx < 128 * (h + 1)

        html = self.html(create_block_mask(by_head, 2, 3, 128, 512, device="cpu"))
        assert "batch 0, head 0, of 1×3 that differ" in html
        assert drawn_kinds(html[html.index("<svg") : html.index("</svg>") + 6]) == [[2, 0, 0, 0]]

    def test_names_are_escaped(self) -> None:
        def mod(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
            return q_idx >= kv_idx

        mod.__name__ = "<img src=x>"
        html = self.html(create_block_mask(mod, None, None, 8, 8, device="cpu"))
        assert "<img" not in html
        assert "&lt;img src=x&gt;" in html
        parsed(html)

    def test_a_mask_of_nothing(self) -> None:
        parsed(self.html(create_block_mask(causal, None, None, 0, 0, device="cpu")))


def test_a_program_shows_its_escaped_text() -> None:
    program = trace(causal)
    assert "".join(parsed(program._repr_html_()).itertext()) == repr(program)


class TestExplanation:
    def test_it_holds_all_that_its_text_holds(self) -> None:
        query = torch.empty(1, 2, 256, 16)
        explanation = explain(query, query, query, softcap(2.0), mask_mod=causal)
        text = " ".join("".join(parsed(explanation._repr_html_()).itertext()).split())
        for part in ("score_mod", "tanh", "mask", "visible pairs: 50.2%", "backend: cpu", "taken"):
            assert part in text
        assert "<svg" in explanation._repr_html_()
        for reasons in explanation.reasons.values():
            for reason in reasons:
                assert " ".join(reason.split()) in text

    def test_without_mods_there_is_no_picture(self) -> None:
        query = torch.empty(1, 1, 4, 8)
        html = explain(query, query, query)._repr_html_()
        parsed(html)
        assert "<svg" not in html
        assert "blocks to compute: 100.0%" in html

    def test_blocks_that_cannot_be_counted_are_left_out(self) -> None:
        query = torch.empty(1, 1, 128, 8)
        given = BlockMask.from_kv_blocks(torch.ones(1, 1, 1).int(), torch.zeros(1, 1, 1, 1).int())
        html = explain(query, query, query, block_mask=given, mask_mod=causal)._repr_html_()
        parsed(html)
        assert "visible pairs" not in html
