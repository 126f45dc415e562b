"""`saccade bench cpu`: what its tables say."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from saccade.bench.cpu.cases import Selection
from saccade.bench.cpu.peers import DENSE, FLEX, FOLDED, ONNX_RUNTIME, REPEATED, SDPA
from saccade.bench.cpu.run import bench_cpu
from saccade.cli.speed_tables import Layout, run_under_bar

__all__ = ["run_cpu"]

_LAYOUT = Layout(
    peers={
        "forward": (SDPA, DENSE, FLEX, ONNX_RUNTIME),
        "decode": (SDPA, REPEATED, FOLDED, DENSE, FLEX),
    },
    overheads="mods on top of causal attention",
    memory="3·(q + k + v + out) + 64 MB",
    note="Operations are 4·D a visible pair and head; bytes are those of the keys and values seen.",
    picture="Attention on a CPU",
)


def run_cpu(
    selection: Selection,
    *,
    backend: str,
    compiled: bool,
    memory: bool,
    rounds: int,
    out: Path | None,
    plot: Path | None,
    console: Console,
) -> None:
    """Measure under a bar, print the tables and write the files asked for.

    Args:
        selection: Which cases.
        backend: Which backend is measured.
        compiled: Whether torch's compiled `flex_attention` takes part.
        memory: Whether a very long call's memory is measured too.
        rounds: Samples of each contender.
        out: A JSON file to write, or None.
        plot: A picture to write, or None.
        console: Where to print.

    Raises:
        ArgumentError: The backend is unknown, or a file cannot be written.
        MissingPackageError: A picture is asked for without matplotlib.
        CheckError: A contender computes something else.
    """
    run_under_bar(
        lambda progress: bench_cpu(
            selection, backend=backend, compiled=compiled, memory=memory, rounds=rounds, progress=progress
        ),
        _LAYOUT,
        out=out,
        plot=plot,
        console=console,
    )
