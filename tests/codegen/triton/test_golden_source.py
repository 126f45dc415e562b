"""The text of a few kernels, whole: what a change of the generator changes, and that nothing else does.

After a change that is meant, `pytest tests/codegen/triton/test_golden_source.py --update-golden` writes the
texts anew; read them before they are committed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade
from backends.triton.presence import require_triton
from codegen.triton.offline import record
from saccade import create_block_mask
from saccade.masks import causal, document, shift, sliding_window
from saccade.scores import alibi

GOLDEN = Path(__file__).parent / "golden"
TARGET = "cuda:80"
# Given, so that another choice of tiles changes no text.
TILES = {
    "BLOCK_M": 128,
    "BLOCK_N": 64,
    "BLOCK_M1": 64,
    "BLOCK_N1": 128,
    "BLOCK_M2": 128,
    "BLOCK_N2": 64,
    "SPLIT_KV": 1,
}


def draw(q_len: int = 512, kv_len: int = 512, kv_heads: int = 4) -> list[Tensor]:
    shapes = ((2, 4, q_len, 64), (2, kv_heads, kv_len, 64), (2, kv_heads, kv_len, 64))
    return [torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def kernel(name: str, leaves: list[Tensor], **options: Any) -> str:
    tiles = TILES | options.pop("kernel_options", {})
    found = record(TARGET, leaves, kernel_options=tiles, **options)
    (text,) = [each.text for each in found if each.name == name]
    return text


def causal_forward() -> str:
    return kernel("attend", draw(), block_mask=create_block_mask(causal, None, None, 512, 512, device="cpu"))


def alibi_with_captured_slopes() -> str:
    slopes = torch.rand(4, requires_grad=True)
    return kernel("attend", draw(), score_mod=alibi(slopes=slopes), mask_mod=causal)


def sliding_window_decode_split() -> str:
    window = shift(sliding_window(1024), q=8191)
    blocks = create_block_mask(window, None, None, 1, 8192, device="cpu")
    options = {"BLOCK_M": 16, "SPLIT_KV": 8}
    return kernel("attend_split", draw(1, 8192, 1), block_mask=blocks, kernel_options=options)


def document_key_gradient() -> str:
    ids = torch.arange(512) // 100
    blocks = create_block_mask(document(ids), None, None, 512, 512, device="cpu")
    return kernel("key_gradient", draw(), block_mask=blocks)


def bias_query_gradient() -> str:
    bias = torch.zeros(4, 512, 512, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + bias[h, q_idx, kv_idx]

    leaves = [
        each.detach()[:1].requires_grad_() for each in draw()
    ]  # of one batch, each element is read once
    return kernel("query_gradient", leaves, score_mod=score)


PATTERNS: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        causal_forward,
        alibi_with_captured_slopes,
        sliding_window_decode_split,
        document_key_gradient,
        bias_query_gradient,
    )
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_text_is_as_it_was(pattern: str, request: pytest.FixtureRequest) -> None:
    require_triton()
    text, path = PATTERNS[pattern](), GOLDEN / f"{pattern}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; --update-golden writes it"
    assert text == path.read_text()


def test_the_text_is_the_same_in_every_process() -> None:
    """Whatever the seed of Python's hashes, by which sets are ordered."""
    require_triton()
    script = (
        "from codegen.triton.test_golden_source import PATTERNS\n"
        "for pattern in reversed(PATTERNS.values()): print(pattern(), end='')"
    )
    roots = [Path(saccade.__file__).parents[1], Path(__file__).parents[2]]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, roots)), "PYTHONHASHSEED": "123"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join((GOLDEN / f"{pattern}.txt").read_text() for pattern in reversed(PATTERNS))
