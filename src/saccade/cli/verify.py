"""`saccade verify`: a mod through every backend, beside the oracle, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.bench.verify import BLOCKS, SHAPES, Check, Part, Shape, Verification, verify_mod
from saccade.cli import quantities
from saccade.cli.mod_argument import read_kind, read_mod
from saccade.cli.plain_table import plain_table
from saccade.errors import ArgumentError
from saccade.ir.structure import ModKind

__all__ = ["print_verification", "read_shape"]


def read_shape(text: str) -> Shape:
    """Read `B,HQ,HKV,Q,K`.

    Raises:
        ArgumentError: It is not five whole numbers that fit together.

    Example:
        >>> print(read_shape("2,4,2,19,37"))
        B2 H4/2 19×37
    """
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) != 5:
        raise ArgumentError(
            f"--shape must be five whole numbers B,HQ,HKV,Q,K, got {text!r}; write for example 2,4,2,19,37"
        )
    return Shape(*sizes)


def print_verification(
    mod: str,
    *,
    mask: str | None,
    shapes: Sequence[str],
    backends: Sequence[str],
    device: str,
    console: Console,
) -> bool:
    """Run a mod through backends, and print errors beside their bounds, what was refused and what failed.

    Args:
        mod: MOD of the command line: an expression, or FILE.py:FUNCTION.
        mask: The mask beside a score, or None.
        shapes: Sizes as text; none for the usual ones.
        backends: Names of backends; none for all.
        device: Where the function's tensors lie.
        console: Where to print.

    Returns:
        Whether something was checked and everything that was is right.

    Raises:
        ArgumentError: A text names no mod, or an option cannot be used.
        SaccadeError: The mod cannot be read.
    """
    function, _ = read_mod(mod)
    mask_mod = None if mask is None else read_kind(mask, ModKind.MASK)[0]
    sizes = tuple(map(read_shape, shapes)) or SHAPES
    with console.status("starting") as status:
        found = verify_mod(
            function,
            mask_mod=mask_mod,
            shapes=sizes,
            backends=backends or None,
            device=device,
            progress=status.update,
        )
    console.print(f"{found.kind.value}: {mod}", style="bold", markup=False, highlight=False)
    if found.checks:
        console.print(_table(found.checks))
        console.print()
        _print_notes(found, console)
    return _print_verdict(found, console)


def _table(checks: Sequence[Check]) -> Table:
    """One row a backend and shape: the errors of the output and of the worst gradient, and the verdict."""
    table = plain_table(
        "backend", "shape", "output|r", "allowed|r", "worst gradient|r", "allowed|r", "of", "|r"
    )
    for check in checks:
        worst = max(check.gradients, key=_closeness, default=None)
        table.add_row(
            check.backend,
            str(check.shape),
            *_cells(check, check.output),
            *_cells(check, worst),
            "" if worst is None else escape(worst.name),
            _mark(check),
        )
    return table


def _cells(check: Check, part: Part | None) -> tuple[str, str]:
    if part is None:
        return "–", ""
    if check.backend == BLOCKS:
        return quantities.counted(int(part.error), "pair"), ""
    return f"{part.error:.1e}", f"{part.bound:.1e}"


def _closeness(part: Part) -> float:
    """How much of its bound an error takes; a NaN is beyond any."""
    if part.error != part.error:
        return float("inf")
    return part.error / part.bound if part.bound else float(part.error > 0)


def _mark(check: Check) -> str:
    if not check.was_run:
        return "[dim]–[/]"
    return "[green]✓[/]" if check.is_right else "[red]✗[/]"


def _print_notes(found: Verification, console: Console) -> None:
    """Print every refusal once, with the shapes where it does not hold for all."""
    shapes = len({check.shape for check in found.checks})
    refusals: dict[tuple[str, str], list[str]] = {}
    for check in found.checks:
        for reason in check.refusals:
            refusals.setdefault((check.backend, reason), []).append(str(check.shape))
    for (backend, reason), where in refusals.items():
        places = "" if len(where) == shapes else f" ({', '.join(where)})"
        console.print(f"– {backend}: {reason}{places}", style="dim", markup=False, highlight=False)


def _print_verdict(found: Verification, console: Console) -> bool:
    """Print remarks and faults, then the verdict."""
    for remark in found.remarks:
        console.print("[yellow]![/] ", end="")
        console.print(remark, markup=False, highlight=False)
    run = [check for check in found.checks if check.was_run]
    wrong = [check for check in run if not check.is_right]
    for check in wrong:
        console.print(f"[red]✗[/] {check.backend}, {check.shape}: ", end="", highlight=False)
        console.print(check.told(), markup=False, highlight=False, soft_wrap=True)
    if not run:
        console.print("[bold red]Nothing could be checked.[/]")
    elif wrong:
        console.print(f"[bold red]{len(wrong)} of {len(run)} checks failed.[/]", highlight=False)
    else:
        console.print(f"[bold green]All {len(run)} checks passed.[/]", highlight=False)
    return found.passed
