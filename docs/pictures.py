"""The pictures of the tutorial, drawn from the tutorial: a hook of mkdocs.

A picture `![...](pictures/NAME.svg)` shows the `block_mask` that the page's own code has just made. So the
hook runs the page's code from top to bottom and draws at every picture; a picture cannot differ from the text
above it. Owns the drawing of single pairs, for masks of a few dozen tokens.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade import BlockMask
from saccade.block_mask.markup import KIND_COLOURS

DOCS = Path(__file__).resolve().parent
PAGES = ("tutorial.md",)

_PARTS = re.compile(r"^```python\n(?P<code>.*?)^```$|\]\((?P<picture>pictures/\S+?\.svg)\)", re.M | re.S)

CELL = 12  # pixels a pair
_MARGIN = 18  # pixels for the words beside the matrix
# The library's own colours of EMPTY, PARTIAL and FULL, and paler ones for the hidden pairs of those blocks.
VISIBLE = KIND_COLOURS
HIDDEN = (KIND_COLOURS[0], "#fdf0d5", KIND_COLOURS[0])


def on_pre_build(config: Any) -> None:
    """Draw every picture before mkdocs looks for files."""
    for page in PAGES:
        for path, drawing in pictures_of((DOCS / page).read_text(encoding="utf-8"), page):
            target = DOCS / path
            target.parent.mkdir(exist_ok=True)
            # An unchanged file keeps its date, so that `mkdocs serve` does not build for ever.
            if not target.exists() or target.read_text(encoding="utf-8") != drawing:
                target.write_text(drawing, encoding="utf-8")


def pictures_of(text: str, page: str) -> Iterator[tuple[str, str]]:
    """Run a page's code and draw its pictures.

    Args:
        text: The page, in Markdown.
        page: Its name, for tracebacks.

    Yields:
        The path of each picture, as the page writes it, and the picture as SVG.
    """
    names: dict[str, Any] = {}
    for part in _PARTS.finditer(text):
        if part["code"] is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(part["code"], page, "exec"), names)
        else:
            yield part["picture"], draw(names["block_mask"])


def draw(mask: BlockMask) -> str:
    """Draw the pairs of a mask's first batch and head: queries downwards, keys to the right.

    Visible pairs are blue in FULL blocks and orange in PARTIAL ones, hidden pairs pale; lines are the borders
    of blocks.
    """
    q_len, kv_len = mask.seq_lengths
    cells = np.arange(q_len)[:, None], np.arange(kv_len)
    kinds = mask.runs.to_dense()[0, 0][cells[0] // mask.q_block, cells[1] // mask.kv_block]
    visible = mask.to_bool()[0, 0].numpy()
    width, height = _MARGIN + CELL * kv_len + 1, _MARGIN + CELL * q_len + 1
    # Borders of blocks run in the gaps between cells.
    columns = (f"M{CELL * kv_idx} 0V{CELL * q_len}" for kv_idx in range(0, kv_len + 1, mask.kv_block))
    rows = (f"M0 {CELL * q_idx}H{CELL * kv_len}" for q_idx in range(0, q_len + 1, mask.q_block))
    frame = f'viewBox="{-_MARGIN} {-_MARGIN} {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {frame} font-family="sans-serif" font-size="11">',
            f'<rect x="{-_MARGIN}" y="{-_MARGIN}" width="{width}" height="{height}" fill="white"/>',
            '<text y="-6">keys →</text>',
            '<text transform="translate(-12 0) rotate(90)">queries →</text>',
            *(
                f'<path fill="{colours[kind]}" d="{_squares((kinds == kind) & (visible == shown))}"/>'
                for shown, colours in ((False, HIDDEN), (True, VISIBLE))
                for kind in range(3)
            ),
            f'<path d="{"".join(columns)}{"".join(rows)}" stroke="#555555" fill="none"/>',
            "</svg>\n",
        ]
    )


def _squares(where: npt.NDArray[np.bool_]) -> str:
    """The path around each True cell, a pixel apart."""
    side = CELL - 1
    return "".join(
        f"M{CELL * x + 0.5} {CELL * y + 0.5}h{side}v{side}h-{side}z" for y, x in np.argwhere(where)
    )
