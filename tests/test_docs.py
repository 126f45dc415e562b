"""The documentation is true: its code runs and prints what it says, and no public name is missing."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree
from pathlib import Path
from types import ModuleType

import pytest

import pages
import saccade
from saccade import errors

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
WITH_CODE = sorted(page.name for page in DOCS.glob("*.md") if "```py" in page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_does_what_the_page_says(name: str) -> None:
    pages.run_page(DOCS / name)


@pytest.mark.parametrize("name", saccade.__all__)
def test_every_public_name_is_in_the_reference_once(name: str) -> None:
    if name in errors.__all__:
        # They are shown together, below the tree in the docstring of their module.
        entries = re.findall(r"^::: saccade\.errors$", REFERENCE, re.MULTILINE)
    else:
        # A mask that is an instance is shown by its class, under its own name; where a module has the name of
        # what it holds, the full path tells them apart.
        entries = re.findall(rf"^::: saccade(?:\.\w+)*\.{name}$|heading: {name}\b", REFERENCE, re.MULTILINE)
    assert len(entries) == 1, f"docs/reference shows {name} {len(entries)} times"


class TestPictures:
    def test_every_page_with_pictures_gets_them(self) -> None:
        pages_with_pictures = [
            page.name for page in DOCS.glob("*.md") if "(pictures/" in page.read_text("utf-8")
        ]
        assert sorted(pages_with_pictures) == sorted(_hook().PAGES)

    @pytest.mark.parametrize("page", ["tutorial.md"])
    def test_each_picture_is_drawn_once_and_is_svg(self, page: str) -> None:
        text = (DOCS / page).read_text(encoding="utf-8")
        drawn = dict(_hook().pictures_of(text, page))
        assert sorted(drawn) == sorted(re.findall(r"\((pictures/[^)]+)\)", text))
        for picture in drawn.values():
            assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")

    def test_a_picture_shows_the_pairs_and_the_kinds_of_their_blocks(self) -> None:
        hook = _hook()
        mask = saccade.create_block_mask(saccade.causal, None, None, 4, 4, device="cpu", BLOCK_SIZE=2)
        drawing = xml.etree.ElementTree.fromstring(hook.draw(mask))
        squares = {path.get("fill"): path.get("d", "").count("M") for path in drawing.iter() if path.get("d")}
        # Two blocks on the diagonal of three visible pairs each, one full block below, one empty above.
        assert squares[hook.VISIBLE[1]] == 6
        assert squares[hook.VISIBLE[2]] == 4
        assert squares[hook.HIDDEN[1]] == 2
        assert squares[hook.HIDDEN[0]] == 4


class TestPagesThatLie:
    @pytest.mark.parametrize(
        "page",
        [
            "```python\nprint(1)\n```\n\n```text\n2\n```\n",
            "```python\nprint(1)\n```\n",
            "```python\n1\n```\n\n```text\n1\n```\n",
            "```pycon\n>>> 1 + 1\n3\n```\n",
            "```python\nx = 1\n```\n\n```pycon\n>>> x\n2\n```\n",
        ],
    )
    def test_a_wrong_output_is_found(self, page: str, tmp_path: Path) -> None:
        path = tmp_path / "page.md"
        path.write_text(page, encoding="utf-8")
        with pytest.raises(AssertionError):
            pages.run_page(path)


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
