"""The page that explains a mask: one HTML file that asks nothing of the network.

Owns how the template, the style sheet, the scripts and the mask's data become one text. What the data are is
said in `data`, how a file is written in `page_file`; what the page does stands in the files put together
here.
Invariant: a text from outside never becomes markup, style or script; the page's policy lets no other script
run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from saccade.block_mask import BlockMask
from saccade.block_mask.markup import KIND_COLOURS
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.explorer.data import page_data
from saccade.explorer.page_file import write_page
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["mask_html", "write_mask_html"]

# In the order in which they need each other.
_SCRIPTS = (
    "arithmetic.js", "program.js", "evaluate.js", "texts.js",
    "camera.js", "palette.js", "overview.js", "tiles.js", "view.js", "rulers.js",
    "verdict.js", "panel.js", "legend.js", "score_range.js", "place.js",
    "explorer.js", "controls.js", "options.js", "start.js",
)  # fmt: skip

_SURROGATE = re.compile("[\ud800-\udfff]")


def mask_html(
    block_mask: BlockMask,
    mask_mod: MaskMod | None = None,
    score_mod: ScoreMod | None = None,
    *,
    tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    title: str | None = None,
) -> str:
    """Return a page that explains a mask, pair by pair, in any browser and without a network.

    It zooms from the whole matrix to single pairs, and tells of each pair whether the query sees the key,
    which term of the mask decides, and what becomes of a score. The browser evaluates the mask's own program,
    so that the page stays small: it holds blocks, not pairs.

    Args:
        block_mask: The mask, of any length.
        mask_mod: A further mask; a pair is visible where both show it, as in `flex_attention`.
        score_mod: What becomes of a score; None for nothing.
        tokens: Q texts, one for each query, and for each key too where Q = K. None: positions.
        kv_tokens: K texts, one for each key. None: as `tokens` says.
        title: The heading. None: the mask, as it prints.

    Returns:
        The text of the HTML file; write it as UTF-8.

    Raises:
        ShapeError: There are not as many texts as positions.
        ArgumentError: The title holds half a pair of surrogates, which UTF-8 has no form for.
        SaccadeError: A mod cannot be read, the mask is stale, has no pairs, or is too large for a page.

    Example:
        >>> from saccade import causal, create_block_mask
        >>> page = mask_html(create_block_mask(causal, None, None, 4, 4, device="cpu"), title="causal")
        >>> page[:15], page.count("<script"), "http://" in page
        ('<!doctype html>', 2, False)
    """
    data = page_data(block_mask, mask_mod, score_mod, tokens=tokens, kv_tokens=kv_tokens, title=title)
    empty, partial, full = KIND_COLOURS
    style = Template(_asset("style.css")).substitute(empty=empty, partial=partial, full=full)
    script = "\n".join(map(_asset, _SCRIPTS))
    page = Template(_asset("page.html")).substitute(
        title=escape(str(data["title"])),
        facts=_facts(data),
        pairs=f"{data['q_len']:,} queries and {data['kv_len']:,} keys",
        score=escape("" if score_mod is None else getattr(score_mod, "__name__", repr(score_mod))),
        policy=_policy(style, script),
        style=style,
        script=script,
        # A text that holds </script> must not end the element.
        mask=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
    # Only in names: JSON writes half a pair of surrogates as it would any other character.
    if lone := _SURROGATE.search(page):
        raise ArgumentError(
            f"a page is UTF-8, which has no {lone[0]!r}, got title={data['title']!r}; leave it out"
        )
    return page


def write_mask_html(
    path: Path | str,
    block_mask: BlockMask,
    mask_mod: MaskMod | None = None,
    score_mod: ScoreMod | None = None,
    *,
    tokens: Sequence[str] | None = None,
    kv_tokens: Sequence[str] | None = None,
    title: str | None = None,
) -> Path:
    """Write the page that explains a mask; see `mask_html`.

    Args:
        path: The file, by custom with the ending .html. Missing directories are made. It is replaced in one
            step: nobody ever reads half a page. A symbolic link is followed.
        block_mask: The mask, of any length.
        mask_mod: A further mask; a pair is visible where both show it, as in `flex_attention`.
        score_mod: What becomes of a score; None for nothing.
        tokens: Q texts, one for each query, and for each key too where Q = K. None: positions.
        kv_tokens: K texts, one for each key. None: as `tokens` says.
        title: The heading. None: the mask, as it prints.

    Returns:
        The path written.

    Raises:
        ArgumentError: The file cannot be written, or is a directory, a pipe or a device.
        ArgumentTypeError: `path` is neither a text nor a Path.
        SaccadeError: As for `mask_html`.

    Example:
        >>> from saccade import causal, create_block_mask, document
        >>> mask = create_block_mask(causal & document(lengths=[3, 2]), None, None, 5, 5, device="cpu")
        >>> written = getfixture("tmp_path") / "mask.html"
        >>> write_mask_html(written, mask, tokens=["The", "cat", ".", "It", "sat"]) == written
        True
    """
    if not isinstance(path, (str, Path)):
        raise ArgumentTypeError(f"path must be a text or a Path, got path={path!r}; write str(...) of it")
    page = mask_html(block_mask, mask_mod, score_mod, tokens=tokens, kv_tokens=kv_tokens, title=title)
    path = Path(path)
    write_page(path, page, given=f"path={str(path)!r}")
    return path


def _asset(name: str) -> str:
    return files("saccade.explorer").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The Content-Security-Policy under which the page's own style and script work, and nothing else does."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _facts(data: Mapping[str, Any]) -> str:
    """The mask in numbers: shape, density, blocks."""
    blocks = data["blocks"]
    queries, keys = (
        f"<b>{data[name]:,}</b> {one if data[name] == 1 else many}"
        for name, one, many in (("q_len", "query", "queries"), ("kv_len", "key", "keys"))
    )
    facts = [f"{queries} × {keys}"]
    for axis, stored in zip(("batch", "heads"), blocks["shape"], strict=True):
        if data[axis] > 1:
            facts.append(f"{axis} <b>{data[axis]:,}</b>" + (", all alike" if stored == 1 else ""))
    # Not known of a mask with a great many partial blocks.
    if data["density"] is not None:
        facts.append(f"<b>{_percent(data['density'])}</b> of all pairs visible")
    kinds = zip(data["counts"], ("empty", "partial", "full"), strict=True)
    counts = ", ".join(f"<b>{count:,}</b> {kind}" for count, kind in kinds)
    facts.append(f"blocks of <b>{blocks['q_block']:,}×{blocks['kv_block']:,}</b>: {counts}")
    return "".join(f"<span>{fact}</span>" for fact in facts)


def _percent(share: float) -> str:
    """A share in per cent: two decimals, or three digits where it is small.

    Example:
        >>> _percent(0.50049), _percent(1.0), _percent(0.0000123)
        ('50.05 %', '100 %', '0.00123 %')
    """
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:.0f} %"
    # All but a few pairs is not all of them.
    return f"{min(percent, 99.99):.2f} %" if percent >= 0.1 else f"{percent:.3g} %"
