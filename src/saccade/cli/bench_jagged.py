"""`saccade bench jagged`: what its tables say."""

from __future__ import annotations

from saccade.bench.jagged.peers import EACH, NESTED, PADDED, PADDED_MASK
from saccade.bench.train.timed_case import FORWARD_PASS, PASSES
from saccade.cli.speed_tables import Layout

__all__ = ["LAYOUT"]

LAYOUT = Layout(
    peers={timed.heading: (NESTED, PADDED_MASK, PADDED, EACH) for timed in (FORWARD_PASS, *PASSES.values())},
    note=(
        "Operations are 4·D a visible pair and head forward, 10·D backward; backward runs on a graph made "
        "before. A forward call gets new offsets and makes of them what it needs, all of it timed: saccade "
        f"its block mask, the padded forms padding and its removal, {PADDED_MASK} a mask too. {PADDED} is "
        f"causal by SDPA's flag: queries see no padding that follows them. {EACH} calls SDPA for each "
        "sequence. torch's flex_attention has no gradients on a CPU, so it has no column."
    ),
    picture="Attention over jagged batches on a CPU",
)
