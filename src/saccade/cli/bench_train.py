"""`saccade bench train`: what its tables say."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from saccade.bench.train.cases import Phase, Selection
from saccade.bench.train.peers import BIAS, DENSE, SDPA
from saccade.bench.train.run import bench_train
from saccade.cli.speed_tables import Layout, run_under_bar

__all__ = ["run_train"]

_LAYOUT = Layout(
    peers={phase.heading: (SDPA, DENSE, BIAS) for phase in Phase},
    overheads="dropout on top of causal attention",
    memory="3·(q + k + v + out + their gradients) + 64 MB",
    note=(
        "Operations are 10·D a visible pair and head backward, 14·D forward and backward; backward runs on a "
        "graph made before. torch's flex_attention has no gradients on a CPU, so it has no column. "
        f"{BIAS} makes its bias of the learned numbers at every step."
    ),
    picture="Training attention on a CPU",
)


def run_train(
    selection: Selection,
    *,
    backend: str,
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
        memory: Whether a very long step's memory is measured too.
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
        lambda progress: bench_train(
            selection, backend=backend, memory=memory, rounds=rounds, progress=progress
        ),
        _LAYOUT,
        out=out,
        plot=plot,
        console=console,
    )
