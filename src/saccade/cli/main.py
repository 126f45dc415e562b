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

from saccade.bench.block_masks import LONG, bench_masks
from saccade.bench.cpu.cases import Phase, Selection
from saccade.bench.cpu.measured_run import BACKEND
from saccade.bench.cpu.patterns import PATTERNS
from saccade.bench.machine import package_version
from saccade.bench.patterns import Size
from saccade.bench.sizes import AttentionSize
from saccade.bench.text_patterns import pattern_names
from saccade.bench.tracing import bench_trace
from saccade.bench.train import cases as train_cases
from saccade.bench.train import patterns as train_patterns
from saccade.cli.bench import print_masks, print_trace, run_comparisons, with_status
from saccade.cli.bench_cpu import run_cpu
from saccade.cli.bench_train import run_train
from saccade.cli.demo import run_demo
from saccade.cli.diff import print_difference
from saccade.cli.doctor import print_diagnosis
from saccade.cli.explain import explain_mask
from saccade.cli.show import show_mask
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
bench_app = typer.Typer(no_args_is_help=True, help="Time parts of the library beside their peers.")
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
    q_len: Annotated[int, typer.Option("--q-len", "-q", min=1, help="Queries.")] = 1024,
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
) -> None:
    """Draw a mask: in the terminal, or into a file."""
    shape = (batch, heads, q_len, q_len if kv_len is None else kv_len)
    show_mask(mask, score, shape=shape, out=out, console=Console())


Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Samples of each contender.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON too.")]


@bench_app.command("masks")
def bench_masks_command(
    compiled: Annotated[
        bool,
        typer.Option("--compiled/--no-compiled", help="Time torch's compiled form (compiles for a while)."),
    ] = True,
    long: Annotated[int, typer.Option("--long", min=1, help="Tokens of the masks timed alone.")] = LONG,
    rounds: Rounds = 5,
    json: Json = None,
) -> None:
    """Time create_block_mask at a million tokens, and beside torch's at 2k to 16k."""
    console = Console()
    report = with_status(
        console, lambda progress: bench_masks(long=long, rounds=rounds, compiled=compiled, progress=progress)
    )
    print_masks(report, console)
    if json is not None:
        report.write_json(json)


@bench_app.command("trace")
def bench_trace_command(rounds: Rounds = 15, json: Json = None) -> None:
    """Time the reading of mods, as it happens at every call."""
    console = Console()
    report = with_status(console, lambda progress: bench_trace(rounds=rounds, progress=progress))
    print_trace(report, console)
    if json is not None:
        report.write_json(json)


@bench_app.command("compare")
def bench_compare_command(
    pattern: Annotated[
        str, typer.Option("--pattern", metavar="NAME", help=f"{', '.join(pattern_names())}, or all.")
    ] = "causal",
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="Batch size.")] = 16,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Heads.")] = 16,
    seq: Annotated[int, typer.Option("--seq", "-s", min=1, help="Queries, and keys alike.")] = 8192,
    head_dim: Annotated[int, typer.Option("--head-dim", min=1, help="Width of a head.")] = 64,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or bfloat16.", show_default="float32 on a CPU, float16 elsewhere"
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compiled/--no-compiled", help="Time torch's flex_attention (compiles for a while)."),
    ] = True,
    rounds: Rounds = 5,
    json: Json = None,
) -> None:
    """Time a pattern in attention, beside SDPA and torch's flex_attention.

    Sizes that do not fit the free memory are scaled down, and the table says so.
    """
    size = AttentionSize(batch, heads, seq, seq, head_dim)
    report = run_comparisons(pattern, size, dtype=dtype, rounds=rounds, compiled=compiled, console=Console())
    if json is not None:
        report.write_json(json)


Dtypes = Annotated[list[str] | None, typer.Option("--dtype", help="float32 or bfloat16; may be repeated.")]
Lengths = Annotated[list[int] | None, typer.Option("--length", min=1, help="Tokens; may be repeated.")]
HeadDims = Annotated[
    list[int] | None, typer.Option("--head-dim", min=1, help="Width of a head; may be repeated.")
]
Full = Annotated[bool, typer.Option("--full", help="Every pattern at every size, not the short list.")]
Memory = Annotated[bool, typer.Option("--memory", help="Measure the memory of a call at 131,072 tokens too.")]
Out = Annotated[
    Path | None, typer.Option("--out", "--json", metavar="FILE", help="Write the results as JSON too.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the speeds (matplotlib).")]
Measured = Annotated[str, typer.Option("--backend", hidden=True)]


@bench_app.command("cpu")
def bench_cpu_command(
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", metavar="NAME", help=f"{', '.join(PATTERNS)}; may be repeated."),
    ] = None,
    dtype: Dtypes = None,
    length: Lengths = None,
    head_dim: HeadDims = None,
    only: Annotated[Phase | None, typer.Option("--only", help="The one phase to time.")] = None,
    full: Full = False,
    memory: Memory = False,
    compiled: Annotated[
        bool,
        typer.Option("--compiled/--no-compiled", help="Time torch's flex_attention (compiles for a while)."),
    ] = True,
    rounds: Rounds = 7,
    out: Out = None,
    plot: Plot = None,
    backend: Measured = BACKEND,
) -> None:
    """Time the CPU engine beside its peers, and beside the processor's own limits.

    Without options, a short list of cases in some minutes; an option that names values times these alone.
    """
    selection = Selection(
        tuple(pattern or ()), tuple(dtype or ()), tuple(length or ()), tuple(head_dim or ()), only, full
    )
    run_cpu(
        selection,
        backend=backend,
        compiled=compiled,
        memory=memory,
        rounds=rounds,
        out=out,
        plot=plot,
        console=Console(),
    )


@bench_app.command("train")
def bench_train_command(
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", metavar="NAME", help=f"{', '.join(train_patterns.PATTERNS)}; may be repeated."
        ),
    ] = None,
    dtype: Dtypes = None,
    length: Lengths = None,
    head_dim: HeadDims = None,
    only: Annotated[
        train_cases.Phase | None,
        typer.Option("--only", help="The one phase to time; a step is forward and backward."),
    ] = None,
    full: Full = False,
    memory: Memory = False,
    rounds: Rounds = 7,
    out: Out = None,
    plot: Plot = None,
    backend: Measured = BACKEND,
) -> None:
    """Time the CPU engine's gradients beside SDPA's, and beside the processor's own limits.

    Without options, a short list of cases, which takes many minutes; an option that names values times
    these alone.
    """
    selection = train_cases.Selection(
        tuple(pattern or ()), tuple(dtype or ()), tuple(length or ()), tuple(head_dim or ()), only, full
    )
    run_train(
        selection,
        backend=backend,
        memory=memory,
        rounds=rounds,
        out=out,
        plot=plot,
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
