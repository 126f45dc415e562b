"""`saccade diff`: where two masks part."""

from __future__ import annotations

from rich.console import Console

from saccade.cli import quantities
from saccade.cli.mod_argument import read_mod
from saccade.errors import ArgumentError
from saccade.ir.structure import ModKind
from saccade.signatures import MaskMod
from saccade.testing import MaskDifference, compare_masks

__all__ = ["print_difference"]


def print_difference(
    first: str,
    second: str,
    *,
    lengths: tuple[int, int],
    batch: int | None,
    heads: int | None,
    console: Console,
) -> bool:
    """Compare two masks, and print the verdict and, where they part, the neighbourhood.

    Args:
        first: A of the command line: an expression, or FILE.py:FUNCTION.
        second: B, likewise.
        lengths: Queries and keys.
        batch: Batch size; None for masks that are the same in all.
        heads: Query heads, likewise.
        console: Where to print.

    Returns:
        Whether they are the same.

    Raises:
        ArgumentError: A text names no mask.
        SaccadeError: A mask cannot be read, or not at these sizes.
    """
    q_len, kv_len = lengths
    found = compare_masks(_mask(first), _mask(second), q_len, kv_len, batch=batch, heads=heads)
    if found.is_equal:
        console.print(f"[green]✓[/] {found}", highlight=False)
        return True
    _print_parting(found, (first, second), console)
    return False


def _mask(text: str) -> MaskMod:
    mod, program = read_mod(text)
    if program.kind is not ModKind.MASK:
        raise ArgumentError(
            f"expected two masks, got the score {text!r}; `saccade verify` checks a score, and "
            "`saccade explain MASK --score` shows one"
        )
    return mod


def _print_parting(found: MaskDifference, texts: tuple[str, str], console: Console) -> None:
    assert found.first is not None, "masks that differ do so somewhere"
    share = quantities.percent(found.count / found.pairs)
    console.print(
        f"[red]✗[/] the masks differ in {found.count:,} of {found.pairs:,} pairs ({share})", highlight=False
    )
    for name, text, alone in zip("ab", texts, (found.only_a, found.only_b), strict=True):
        line = f"  {name}  {text}: alone in showing {quantities.counted(alone, 'pair')}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    b, h, q_idx, kv_idx = found.first
    console.print(
        f"\nfirst at b={b}, h={h}, q_idx={q_idx}, kv_idx={kv_idx}: only {found.first_seen_by} shows it",
        highlight=False,
    )
    console.print(found.picture, markup=False, highlight=False, soft_wrap=True)
