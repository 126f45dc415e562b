"""`saccade bench train`: what its tables say."""

from __future__ import annotations

from saccade.bench.train.cases import Phase
from saccade.bench.train.peers import BIAS, DENSE, SDPA
from saccade.cli.speed_tables import Layout

__all__ = ["LAYOUT"]

LAYOUT = Layout(
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
