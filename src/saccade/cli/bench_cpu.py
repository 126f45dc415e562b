"""`saccade bench cpu`: what its tables say."""

from __future__ import annotations

from saccade.bench.cpu.peers import DENSE, FLEX, FOLDED, ONNX_RUNTIME, REPEATED, SDPA
from saccade.cli.speed_tables import Layout

__all__ = ["LAYOUT"]

LAYOUT = Layout(
    peers={
        "forward": (SDPA, DENSE, FLEX, ONNX_RUNTIME),
        "decode": (SDPA, REPEATED, FOLDED, DENSE, FLEX),
    },
    overheads="mods on top of causal attention",
    memory="3·(q + k + v + out) + 64 MB",
    note="Operations are 4·D a visible pair and head; bytes are those of the keys and values seen.",
    picture="Attention on a CPU",
)
