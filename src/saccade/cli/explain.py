"""`saccade explain`: a mask as a program, as a picture, in numbers, and who would compute it."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console
from rich.text import Text

from saccade.analysis.runs import BlockKind
from saccade.attention import explain
from saccade.block_mask import BlockMask, create_block_mask
from saccade.cli import quantities
from saccade.cli.mod_argument import read_kind
from saccade.cli.plain_table import plain_table
from saccade.explanation import Explanation
from saccade.ir.program import Program
from saccade.ir.rewrite import simplify
from saccade.ir.structure import ModKind

__all__ = ["explain_mask"]

_MOST_CELLS = 32  # rows and columns of the picture


def explain_mask(
    mask: str,
    score: str | None,
    *,
    shape: tuple[int, int, int, int],
    head_dim: int,
    backend: str,
    console: Console,
) -> None:
    """Read a mask and perhaps a score, and print all there is to know about attention with them.

    Args:
        mask: MASK of the command line.
        score: SCORE of the command line, or None.
        shape: B, H, Q and K.
        head_dim: D.
        backend: Who is asked to run it: a name, or "auto".
        console: Where to print.

    Raises:
        ArgumentError: A text is no expression or names no function, or one kind of mod is given as the other.
        SaccadeError: The mod cannot be read, or not with this shape.
    """
    mask_mod, mask_program = read_kind(mask, ModKind.MASK)
    score_mod, score_program = (None, None) if score is None else read_kind(score, ModKind.SCORE)
    batch, heads, q_len, kv_len = shape
    blocks = create_block_mask(mask_mod, batch, heads, q_len, kv_len, device="cpu")
    # One number seen as whole tensors: an explanation reads shapes alone.
    query = torch.zeros(()).expand(batch, heads, q_len, head_dim)
    key = torch.zeros(()).expand(batch, heads, kv_len, head_dim)
    explanation = explain(query, key, key, score_mod, blocks, backend=backend)
    _print_program("mask", mask, mask_program, console)
    if score is not None and score_program is not None:
        _print_program("score", score, score_program, console)
    _print_blocks(blocks, console)
    _print_backends(explanation, console)


def _print_program(kind: str, text: str, program: Program, console: Console) -> None:
    _heading(f"{kind}: {text}", console)
    structure = replace(program.structure, root=simplify(program.root))
    console.print(repr(replace(program, structure=structure)), markup=False, highlight=False, soft_wrap=True)
    console.print()


def _print_blocks(mask: BlockMask, console: Console) -> None:
    """Print the block map and its numbers."""
    counts = mask.runs.counts()
    total = sum(counts.values())
    saved = counts[BlockKind.EMPTY] / max(total, 1)
    _heading(
        f"blocks: {mask.q_len:,} queries × {mask.kv_len:,} keys, {mask.q_block}×{mask.kv_block} pairs each",
        console,
    )
    stored_batch, stored_heads, rows, columns = mask.runs.shape
    # The first line names the batch entry and head.
    _, picture = mask[0, 0].to_string(grid_size=_MOST_CELLS, limit=1).split("\n", 1)
    for line in picture.splitlines():
        console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    cell = f"{-(-rows // _MOST_CELLS)}×{-(-columns // _MOST_CELLS)}"
    legend = "██ full   ░░ partial   blank: empty"
    if cell != "1×1":
        legend += f"   (a cell stands for {cell} blocks)"
    if (stored_batch, stored_heads) != (1, 1):
        legend += f"   (batch entry 0, head 0, of {stored_batch}×{stored_heads} that differ)"
    console.print(legend, style="dim", highlight=False)
    console.print(
        ", ".join(f"{count:,} {kind.name.lower()}" for kind, count in counts.items()),
        highlight=False,
    )
    console.print(
        f"{quantities.percent(mask.density())} of all pairs visible, {quantities.percent(saved)} of the work "
        f"saved; the mask takes {quantities.memory(mask.runs.nbytes)}",
        highlight=False,
    )
    console.print()


def _print_backends(explanation: Explanation, console: Console) -> None:
    """Print who would compute it, and every reason of the others."""
    _heading(f"backend: {explanation.backend or 'none takes this call'}", console)
    table = plain_table("", "", "")
    table.show_header = False
    for name, reasons in explanation.reasons.items():
        if name != explanation.backend:
            table.add_row(name, "refuses" if reasons else "could take it", Text("\n".join(reasons)))
    console.print(table)


def _heading(text: str, console: Console) -> None:
    console.print(text, style="bold", markup=False, highlight=False)
