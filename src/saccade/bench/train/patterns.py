"""The patterns of the training measurements: those of the forward pass, learned biases and dropout.

Owns how torch's SDPA is given a bias that is learned: as a dense tensor made of its numbers at every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import embedding

from saccade.bench.contenders import Learned
from saccade.bench.cpu.patterns import cpu_pattern, require_pattern
from saccade.masks import causal
from saccade.scores import alibi, t5_bias
from saccade.signatures import MaskMod

__all__ = ["DROPOUT_P", "PATTERNS", "TrainPattern", "train_pattern"]

DROPOUT_P = 0.1
"""The probability of the pattern "dropout"."""

_BUCKETS = 32


@final
@dataclass(frozen=True, eq=False)
class TrainPattern:
    """What is attended to in one case.

    Attributes:
        mask_mod: The mask, or None.
        learned: The numbers of a learned bias and its score_mod, or None.
        dense_bias: Makes what SDPA adds, `[1, Hq, Q, K]`, of the learned numbers: differentiable, with -inf
            at hidden pairs; None where nothing is learned.
        dropout_p: The probability of dropping a weight.
    """

    mask_mod: MaskMod | None
    learned: Learned | None = None
    dense_bias: Callable[[], Tensor] | None = None
    dropout_p: float = 0.0


def train_pattern(name: str, length: int, heads: int) -> TrainPattern:
    """Make a pattern.

    Args:
        name: One of `PATTERNS`.
        length: Tokens.
        heads: Query heads; learned biases have numbers for each.

    Raises:
        ArgumentError: No pattern has the name.

    Example:
        >>> train_pattern("window", 8192, 8).mask_mod
        sliding_window(512)
        >>> train_pattern("alibi", 64, 8).learned.numbers.shape
        torch.Size([8])
    """
    require_pattern(name, PATTERNS)
    return PATTERNS[name](length, heads)


def _forward(name: str) -> Callable[[int, int], TrainPattern]:
    """A pattern of the forward measurements that has a mask only."""
    return lambda length, heads: TrainPattern(cpu_pattern(name, length, heads).mask_mod)


def _alibi(length: int, heads: int) -> TrainPattern:
    """Causal attention with a learned slope for each head, from the paper's on."""
    slopes = torch.exp2(-8.0 / heads * torch.arange(1.0, heads + 1.0)).requires_grad_()
    ahead = _ahead(length)
    hidden, distance = ahead > 0, ahead.to(torch.float32)

    def dense_bias() -> Tensor:
        return (slopes[:, None, None] * distance).masked_fill(hidden, -math.inf)[None]

    return TrainPattern(causal, Learned(slopes, lambda numbers: alibi(slopes=numbers)), dense_bias)


def _t5(length: int, heads: int) -> TrainPattern:
    """Attention in both directions with T5's learned table `[buckets, Hq]`."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(_BUCKETS, heads, generator=generator, device="cpu").requires_grad_()
    # On scores of 0, a table that holds each bucket's own number shows which bucket a pair has.
    shown, zero, position = torch.arange(float(_BUCKETS))[:, None], torch.tensor(0), torch.arange(length)
    buckets = t5_bias(shown)(torch.zeros(length, length), zero, zero, position[:, None], position).int()

    def dense_bias() -> Tensor:
        return embedding(buckets, table).permute(2, 0, 1)[None]

    return TrainPattern(None, Learned(table, t5_bias), dense_bias)


def _ahead(length: int) -> Tensor:
    """int64 `[length, length]`: how far each key lies ahead of each query."""
    position = torch.arange(length)
    return position - position[:, None]


PATTERNS: Mapping[str, Callable[[int, int], TrainPattern]] = {
    "full": _forward("full"),
    "causal": _forward("causal"),
    "window": _forward("window"),
    "documents": _forward("documents"),
    "alibi": _alibi,
    "t5": _t5,
    "dropout": lambda length, heads: TrainPattern(causal, dropout_p=DROPOUT_P),
}
"""Name to a function of the length and the number of heads. Learned ALiBi and dropout are causal."""
