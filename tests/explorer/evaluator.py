"""The page's evaluator, run in a browser on the data of many masks at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from playwright.sync_api import Page
from torch import Tensor

from saccade.explorer.captured_data import encoded
from saccade.explorer.program_data import ProgramData
from saccade.explorer.terms import mod_terms, terms_data
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.ir.text import parse_structure

SCRIPTS = ("arithmetic.js", "program.js", "evaluate.js")

_EVERY_PAIR = """
function everyPair(model, answer) {
  const found = [];
  for (let b = 0; b < model.batch; b++)
    for (let h = 0; h < model.heads; h++)
      for (let q = 0; q < model.q_len; q++)
        for (let k = 0; k < model.kv_len; k++) found.push(answer(b, h, q, k));
  return found;
}
function everyRectangle(model) {
  const found = [];
  for (let b = 0; b < model.batch; b++)
    for (let h = 0; h < model.heads; h++) found.push(rectangle(model, b, h, 0, model.q_len, 0, model.kv_len));
  return found.join("");
}
function rectangle(model, b, h, q0, q1, k0, k1) {
  const out = new Uint8Array((q1 - q0) * (k1 - k0)).fill(9);
  model.fill(b, h, q0, q1, k0, k1, out);
  return out.join("");
}
const marked = (key, x) => (typeof x === "number" && !Number.isFinite(x) ? { number: String(x) } : x);
"""


def load_evaluator(page: Page) -> None:
    """Put the evaluator, and what runs over every pair, into a page."""
    for name in SCRIPTS:
        page.add_script_tag(content=(files("saccade.explorer") / name).read_text(encoding="utf-8"))
    page.add_script_tag(content=_EVERY_PAIR)


def ask(page: Page, pages: Sequence[dict[str, object]], answer: str) -> list[Any]:
    """Load each page's data as `model`, and return what the JavaScript expression `answer` gives for it."""
    each = f"(data) => {{ const model = Saccade.load(data); return {answer} }}"
    # As one text: the browser's protocol takes long over large values.
    script = f"(text) => JSON.stringify(JSON.parse(text).map({each}), marked)"
    found: list[Any] = json.loads(
        page.evaluate(script, json.dumps(pages, allow_nan=False)),
        object_hook=lambda value: float(value["number"]) if "number" in value else value,
    )
    return found


def digits(pairs: Tensor | np.ndarray) -> str:
    """What `everyRectangle` gives for pairs that are 0, 1 or 2."""
    return "".join(map(str, np.asarray(pairs).astype(int).flatten()))


def program_of(text: str, *captures: np.ndarray) -> Program:
    """A program from its text."""
    return Program(parse_structure(text), captures)


def bare_page(program: Program, batch: int, heads: int, q_len: int, kv_len: int) -> dict[str, object]:
    """The data of a program alone, as one partial block: nothing is analysed, so it may be poison anywhere.

    A score program comes with the mask that shows every pair.
    """
    programs = ProgramData((batch, heads, q_len, kv_len))
    number = programs.add(program)
    is_mask = program.kind is ModKind.MASK
    grid = {"indptr": encoded(np.array([0, 1], np.int32)), "kinds": encoded(np.array([1], np.uint8))}
    ends = {"starts": encoded(np.array([0], np.int32)), "stops": encoded(np.array([1], np.int32))}
    blocks = {"q_block": q_len, "kv_block": kv_len, "rows": 1, "columns": 1, "shape": [1, 1]}
    return {
        "title": "bare",
        "batch": batch,
        "heads": heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "blocks": {**blocks, "grids": [grid | ends]},
        "overview": {"rows": 1, "columns": 1, "shares": [encoded(np.array([128], np.uint8))]},
        "terms": terms_data(mod_terms(program), programs) if is_mask else {},
        "programs": programs.entries,
        "captures": programs.captured.entries,
        "mask": number,
        "score": None if is_mask else number,
        "tokens": None,
        "kv_tokens": None,
    }
