"""The commands of `saccade bench` and the options that they share.

A command reads its options, calls one function and prints; what tables say stands beside it, a file each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from saccade.bench.block_masks import LONG, bench_masks
from saccade.bench.cpu.cases import Phase, Selection
from saccade.bench.cpu.measured_run import BACKEND
from saccade.bench.cpu.patterns import PATTERNS
from saccade.bench.cpu.run import bench_cpu
from saccade.bench.gpu import cases as gpu_cases
from saccade.bench.gpu.run import bench_gpu
from saccade.bench.gpu.setup import ENGINE, make_setup
from saccade.bench.jagged import cases as jagged_cases
from saccade.bench.jagged.batches import BATCHES
from saccade.bench.jagged.run import bench_jagged
from saccade.bench.sizes import AttentionSize
from saccade.bench.text_patterns import pattern_names
from saccade.bench.tracing import bench_trace
from saccade.bench.train import cases as train_cases
from saccade.bench.train import patterns as train_patterns
from saccade.bench.train.run import bench_train
from saccade.cli import bench_cpu as cpu_tables
from saccade.cli import bench_gpu as gpu_tables
from saccade.cli import bench_jagged as jagged_tables
from saccade.cli import bench_train as train_tables
from saccade.cli.bench import print_masks, print_trace, run_comparisons, with_status
from saccade.cli.speed_tables import run_under_bar

__all__ = ["bench_app"]

bench_app = typer.Typer(no_args_is_help=True, help="Time parts of the library beside their peers.")

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

_WRONG = 1  # the exit code where a check failed


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
    run_under_bar(
        lambda progress: bench_cpu(
            selection, backend=backend, compiled=compiled, memory=memory, rounds=rounds, progress=progress
        ),
        cpu_tables.LAYOUT,
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
    run_under_bar(
        lambda progress: bench_train(
            selection, backend=backend, memory=memory, rounds=rounds, progress=progress
        ),
        train_tables.LAYOUT,
        out=out,
        plot=plot,
        console=Console(),
    )


@bench_app.command("jagged")
def bench_jagged_command(
    batch: Annotated[
        list[str] | None,
        typer.Option("--batch", metavar="NAME", help=f"{', '.join(BATCHES)}; may be repeated."),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern", metavar="NAME", help=f"{', '.join(jagged_cases.PATTERNS)}; may be repeated."
        ),
    ] = None,
    dtype: Dtypes = None,
    rounds: Rounds = 7,
    out: Out = None,
    plot: Plot = None,
    backend: Measured = BACKEND,
) -> None:
    """Time sequences of unequal lengths on the CPU engine beside SDPA, nested, padded and one by one.

    Without options, 16 sequences of up to 1,024 tokens and 1,000 of up to 50, which takes many minutes.
    """
    selection = jagged_cases.Selection(tuple(batch or ()), tuple(pattern or ()), tuple(dtype or ()))
    run_under_bar(
        lambda progress: bench_jagged(selection, backend=backend, rounds=rounds, progress=progress),
        jagged_tables.LAYOUT,
        out=out,
        plot=plot,
        console=Console(),
    )


@bench_app.command("gpu")
def bench_gpu_command(
    pattern: Annotated[
        list[str] | None,
        typer.Option("--pattern", metavar="NAME", help=f"{', '.join(pattern_names())}; may be repeated."),
    ] = None,
    length: Lengths = None,
    head_dim: HeadDims = None,
    only: Annotated[gpu_cases.Phase | None, typer.Option("--only", help="The one phase to time.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The three main patterns at 4,096 tokens.")] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time for it all; what is left then is named.")
    ] = 9.0,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Tokens of a case, over its sequences.")
    ] = 16384,
    width: Annotated[int, typer.Option("--width", min=1, help="Heads times their width.")] = 2048,
    compiled: Annotated[
        bool,
        typer.Option("--compiled/--no-compiled", help="Time torch's flex_attention (compiles for a while)."),
    ] = True,
    rounds: Rounds = 20,
    out: Out = None,
    plot: Plot = None,
    backend: Measured = ENGINE,
    device: Annotated[str, typer.Option("--device", hidden=True)] = "cuda",
) -> None:
    """Time the GPU engine beside SDPA and torch's flex_attention, and beside the card's own limits.

    Needs a GPU. The most important cases come first, and none is begun that would pass --minutes; an option
    that names values times these alone.
    """
    selection = gpu_cases.Selection(
        tuple(pattern or ()), tuple(length or ()), tuple(head_dim or ()), only, quick, tokens, width
    )
    setup = make_setup(device, engine=backend, compiled=compiled, rounds=rounds)
    is_right = gpu_tables.run_under_bar(
        lambda progress: bench_gpu(setup, selection, minutes=minutes, progress=progress),
        out=out,
        plot=plot,
        console=Console(),
    )
    if not is_right:
        raise typer.Exit(_WRONG)
