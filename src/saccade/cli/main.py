"""The commands, their options and their one way to fail.

A command reads its options, calls one function and prints. Whatever Saccade raises on purpose becomes one
message on the error stream and exit code 2; `--debug` shows where it came from instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

from saccade.bench.machine import package_version
from saccade.bench.patterns import Size
from saccade.cli.bench_commands import bench_app
from saccade.cli.demo import run_demo
from saccade.cli.diff import print_difference
from saccade.cli.doctor import print_diagnosis
from saccade.cli.explain import explain_mask
from saccade.cli.show import show_mask
from saccade.cli.tokens import lengths, read_tokens
from saccade.cli.verify import print_verification
from saccade.errors import SaccadeError

__all__ = ["app", "main"]

_FAILED = 1  # a check failed
_MISUSED = 2  # the command was wrong


class _Commands(typer.core.TyperGroup):
    """The group of all commands; turns Saccade's errors into messages."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; see the module's text for what happens to errors."""
        try:
            return super().invoke(ctx)
        except SaccadeError as fault:
            if ctx.params.get("debug"):
                raise
            console = Console(stderr=True)
            console.print("error: ", style="bold red", end="")
            # Unwrapped, so that a marker below a text stays below it.
            console.print(str(fault), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(_MISUSED) from fault


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Programmable attention: exact block masks and fused attention from two Python functions.",
)
app.add_typer(bench_app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saccade {package_version('saccade') or '(not installed)'}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Read the options that all commands share."""


@app.command()
def demo(
    size: Annotated[
        Size, typer.Option(help="Lengths: as used in practice, or a sixteenth of them.")
    ] = Size.FULL,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Draw them all: a .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Check and time the ready-made masks, beside torch's, on real sizes."""
    if not run_demo(size, Console(), out):
        raise typer.Exit(_FAILED)


@app.command()
def explain(
    mask: Annotated[
        str, typer.Argument(metavar="MASK", help="`causal & sliding_window(256)`, or FILE.py:FUNCTION.")
    ],
    q_len: Annotated[int, typer.Option("--q-len", "-q", min=1, help="Queries.")] = 1024,
    kv_len: Annotated[
        int | None, typer.Option("--kv-len", "-k", min=1, help="Keys.", show_default="the queries")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Batch size.")] = 1,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Query heads.")] = 1,
    head_dim: Annotated[int, typer.Option("--head-dim", min=1, help="Width of a query and a key.")] = 64,
    score: Annotated[
        str | None, typer.Option("--score", help="A score: `softcap(30.0)`, or FILE.py:FUNCTION.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="Ask one backend by name.")] = "auto",
) -> None:
    """Show what a mask means, where it matters, and who would compute it."""
    explain_mask(
        mask,
        score,
        shape=(batch, heads, q_len, q_len if kv_len is None else kv_len),
        head_dim=head_dim,
        backend=backend,
        console=Console(),
    )


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A mask, as for `explain`, or FILE.py:FUNCTION.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    q_len: Annotated[int, typer.Option("--q-len", "-q", min=0, help="Queries.")] = 1024,
    kv_len: Annotated[
        int | None, typer.Option("--kv-len", "-k", min=0, help="Keys.", show_default="the queries")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", "-b", min=1, help="Batch size.")] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Query heads.")] = None,
) -> None:
    """Tell whether two masks are the same, and where they part.

    Exit code 0: they are; 1: they are not; 2: one of them cannot be read.
    """
    lengths = (q_len, q_len if kv_len is None else kv_len)
    if not print_difference(first, second, lengths=lengths, batch=batch, heads=heads, console=Console()):
        raise typer.Exit(_FAILED)


@app.command()
def verify(
    mod: Annotated[
        str, typer.Argument(metavar="MOD", help="A mask or a score: FILE.py:FUNCTION, or `softcap(30.0)`.")
    ],
    mask: Annotated[str | None, typer.Option("--mask", help="The mask beside a score.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", help="A backend; may be repeated.", show_default="all of the device"),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="B,HQ,HKV,Q,K", help="Sizes to check at; may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where the function's tensors lie.")] = "cpu",
) -> None:
    """Run a mod through every backend here, forward and gradients, beside the function itself in float64."""
    right = print_verification(
        mod, mask=mask, shapes=shape or [], backends=backend or [], device=device, console=Console()
    )
    if not right:
        raise typer.Exit(_FAILED)


@app.command()
def show(
    mask: Annotated[
        str, typer.Argument(metavar="MASK", help="`causal & sliding_window(256)`, or FILE.py:FUNCTION.")
    ],
    q_len: Annotated[
        int | None,
        typer.Option("--q-len", "-q", min=1, help="Queries.", show_default="1024, or the text's words"),
    ] = None,
    kv_len: Annotated[
        int | None, typer.Option("--kv-len", "-k", min=1, help="Keys.", show_default="the queries")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Batch size; the first is drawn.")] = 1,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Query heads; the first is drawn.")] = 1,
    score: Annotated[
        str | None, typer.Option("--score", help="A score to colour it by: `alibi(n_heads=8)`, or a file's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Draw into a .svg, or a .png or .pdf (matplotlib)."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write a page that explains it, pair by pair; all heads."
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="WORDS", help="Label the page's tokens with words; @FILE reads them."),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="Label them from a file: a line each, or a JSON list."),
    ] = None,
) -> None:
    """Draw a mask: in the terminal, into a file, or as a page to explore in a browser."""
    labels = read_tokens(text, tokens)
    show_mask(
        mask,
        score,
        shape=(batch, heads, *lengths(q_len, kv_len, labels)),
        out=out,
        html=html,
        tokens=labels,
        console=Console(),
    )


@app.command()
def doctor(
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Check results too: some thirty mods, in a few seconds.")
    ] = False,
) -> None:
    """Show what this installation can do, and facts to paste into a report."""
    if not print_diagnosis(Console(), selftest=selftest):
        raise typer.Exit(_FAILED)


def main() -> None:
    """Run the command line; the console entry point."""
    app()
