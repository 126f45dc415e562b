"""The pass over a tile of scores that makes weights and the gradients of scores of them.

With x the score in base 2, f dropout's factor of a pair (0 where it is dropped), and lse and delta as
`backward_pack` leaves them,

    P = 2^(x - lse),   dS' = P·(dP·f - delta),   dS = dS' through the score mod's derivative.

Scores are replaced by the weights P·f that the values were summed with, dP by dS; both are 0 where a pair is
hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive

__all__ = ["RowChange", "weigh_row"]

_OnScore: TypeAlias = Callable[[Value, Value, Value | None], Value]
_OnGradient: TypeAlias = Callable[[Value, Value, Value, Value | None], Value]


@final
@dataclass(frozen=True)
class RowChange:
    """What is known of one row's pairs.

    Attributes:
        lse: Precise scalar, in base 2.
        delta: Precise scalar.
        scale: Precise scalar, what q·k is multiplied by.
        score: From a score, its column and the lanes asked about to what the score mod makes of it.
        gradient: From a score, the gradient of what was made of it, its column and lanes to its own gradient.
        visible: From a column to the visible lanes of its vector; None where all are.
        factor: From a column to dropout's factors of its vector; None without dropout.
    """

    lse: Value
    delta: Value
    scale: Value
    score: _OnScore | None
    gradient: _OnGradient | None
    visible: Callable[[Value], Value] | None
    factor: Callable[[Value], Value] | None


def weigh_row(e: Emitter, scores: Value, grads: Value, stop: Value, row: RowChange) -> None:
    """Replace a row's scores and dP by weights and dS.

    Args:
        e: The function.
        scores: Address of the row's q·k.
        grads: Address of the row's dP.
        stop: int64, columns that are walked, whole vectors.
        row: What is known of the row.
    """
    lse, delta, scale = e.splat(row.lse), e.splat(row.delta), e.splat(row.scale)
    log2_e, zero = e.real(math.log2(math.e)), e.splat(e.real(0.0))
    less_lse = e.builder.fneg(lse)
    unit = e.splat(log2_e) if row.score is not None else e.binary("fmul", scale, log2_e)
    with e.loop(0, stop, e.lanes) as loop:
        column, word = loop.index, e.precise.itemsize
        score_at, grad_at = e.nth(scores, column, word), e.nth(grads, column, word)
        score, grad = e.load_vector(score_at), e.load_vector(grad_at)
        lanes = None if row.visible is None else row.visible(column)
        changed = score
        if row.score is not None:
            score = e.binary("fmul", score, scale)
            changed = row.score(score, column, lanes)
        weight = exp2_of_nonpositive(e, e.fma(changed, unit, less_lse))
        if lanes is not None:
            weight = e.select(lanes, weight, zero)
        kept = weight
        if row.factor is not None:
            factor = row.factor(column)
            kept, grad = e.binary("fmul", weight, factor), e.binary("fmul", grad, factor)
        grad = e.binary("fmul", weight, e.binary("fsub", grad, delta))
        if row.gradient is not None:
            grad = row.gradient(score, grad, column, lanes)
        if lanes is not None:
            grad = e.select(lanes, grad, zero)
        e.store(kept, score_at)
        e.store(grad, grad_at)
