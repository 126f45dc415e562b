"""A comparison in print: the title, a grid of times and rates, what was left out, the density and the blocks.

Owns the look of the table and `test_mask`, the one function of the library that prints when called.
"""

# ruff: noqa: PT028 (test_mask is named by the text it comes from, and is no test)

from __future__ import annotations

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from saccade.bench.compare import BACKWARD, FORWARD, Comparison, Row, compare
from saccade.bench.sizes import AttentionSize
from saccade.bench.timing import Timing
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["print_comparison", "test_mask"]

_COLUMNS = ("FW Time (ms)", "FW FLOPS (TF/s)", "BW Time (ms)", "BW FLOPS (TF/s)")
_MISSING = "–"


def print_comparison(comparison: Comparison, console: Console, *, with_mask: bool = True) -> None:
    """Print a comparison.

    Args:
        comparison: What `compare` found.
        console: Where to print.
        with_mask: Whether to draw the block mask below the table.
    """
    console.print(f"Results for {comparison.name}:", style="bold", markup=False, highlight=False)
    for line in _before(comparison):
        console.print(line, markup=False, highlight=False)
    console.print(_grid(comparison))
    for line in _after(comparison):
        console.print(line, markup=False, highlight=False)
    if comparison.block_mask is not None and with_mask:
        # The first batch entry and head stand for all: they differ in detail, and a page is a page.
        console.print(comparison.block_mask.to_string(limit=1).strip("\n"), markup=False, highlight=False)


def test_mask(
    score_mod: ScoreMod | None = None,
    mask_mod: MaskMod | None = None,
    B: int = 16,
    H: int = 16,
    S: int = 8192,
    D: int = 64,
    skip_correctness: bool = False,
    print_mask: bool = True,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype | None = None,
    rounds: int = 5,
    compiled: bool = True,
) -> None:
    """Check and time a score_mod, a mask_mod or both beside their peers, and print the table.

    Args:
        score_mod: The change of the scores; None leaves them.
        mask_mod: The mask; None hides nothing. One of the two must be given.
        B: Batch size.
        H: Number of heads.
        S: Queries, and keys alike. What does not fit the free memory is scaled down, and the table says so.
        D: Width of a head.
        skip_correctness: Whether to time without checking first.
        print_mask: Whether to draw the block mask.
        device: Where to run. Default: the CUDA device where there is one, else the CPU.
        dtype: float32, float16 or bfloat16. Default: float32 on a CPU, float16 elsewhere.
        rounds: Samples of each time; the medians are shown.
        compiled: Whether torch's `flex_attention` takes part, which torch compiles for each pattern.

    Raises:
        ArgumentError: Neither mod is given, or a size or the dtype cannot be used.
        CheckError: A contender computes something else.

    Example:
        >>> from saccade.masks import causal
        >>> test_mask(mask_mod=causal, B=1, H=1, S=256, D=16, device="cpu", rounds=1, compiled=False)
        Results for causal:
        B=1 H=1 S=256 D=16, float32 on cpu
        Correctness check passed ✅
        ...
        Density of the blocks: 0.7500
        ...
    """
    comparison = compare(
        score_mod,
        mask_mod,
        AttentionSize(B, H, S, S, D),
        dtype=dtype,
        device=device,
        rounds=rounds,
        compiled=compiled,
        checked=not skip_correctness,
    )
    print_comparison(comparison, Console(), with_mask=print_mask)


# Its name is that of the text it comes from; pytest would take it for a test of its own.
test_mask.__test__ = False  # type: ignore[attr-defined]


def _before(comparison: Comparison) -> list[str]:
    dtype = str(comparison.dtype).removeprefix("torch.")
    lines = [f"{comparison.size}, {dtype} on {comparison.device}"]
    if comparison.scaling:
        lines.append(comparison.scaling)
    lines.append("Correctness check passed ✅" if comparison.is_checked else "Correctness was not checked.")
    return lines


def _grid(comparison: Comparison) -> Table:
    table = Table(box=box.SQUARE)
    table.add_column("Operation", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row in comparison.rows:
        table.add_row(
            row.contender,
            *_cells(comparison, row, row.forward, FORWARD),
            *_cells(comparison, row, row.backward, BACKWARD),
        )
    return table


def _cells(comparison: Comparison, row: Row, timing: Timing | None, multiplier: int) -> tuple[str, str]:
    """A time with four decimals and a rate with two."""
    if timing is None:
        return _MISSING, _MISSING
    return f"{timing.median_s * 1e3:.4f}", f"{comparison.tflops(row, timing, multiplier):.2f}"


def _after(comparison: Comparison) -> list[str]:
    """What is missing and why, then the density."""
    lines = []
    for row in comparison.rows:
        if row.reason:
            part = "not run" if row.forward is None else "no backward"
            lines.append(f"{row.contender}: {part}: {row.reason}.")
    blocks = "" if comparison.block_mask is not None else " (no block mask)"
    lines.append(f"Density of the blocks: {comparison.density:.4f}{blocks}")
    return lines
