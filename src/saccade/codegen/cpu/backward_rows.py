"""The pass over a tile of scores that makes weights and the gradients of scores of them.

With x the score in base 2, f dropout's factor of a pair (0 where it is dropped), and lse and delta as
`backward_pack` leaves them,

    P = 2^(x - lse),   dS' = P·(dP·f - delta),   dS = dS' through the score mod's derivative.

Scores become the weights P·f that the values were summed with, dP becomes dS; both are 0 where a pair is
hidden. In the class of bfloat16 pairs two rows are walked together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive

__all__ = ["RowChange", "Write", "weigh_rows"]

Write: TypeAlias = Callable[[Value, Sequence[Value], Sequence[Value]], None]
"""Takes a column, and for each row a vector of weights and one of gradients of scores."""

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


def weigh_rows(
    e: Emitter,
    scores: Sequence[Value],
    grads: Sequence[Value],
    stop: Value,
    rows: Sequence[RowChange],
    write: Write,
    *,
    coarse: bool,
) -> None:
    """Hand over what becomes of the scores and dP of one row, or of a pair.

    Args:
        e: The function.
        scores: Address of each row's q·k.
        grads: Address of each row's dP.
        stop: int64, columns that are walked, whole vectors.
        rows: What is known of each row.
        write: Takes a column (int64), the rows' weights and their dS: vectors.
        coarse: Whether weights need only the precision of bfloat16.
    """
    spread = [_Spread.of(e, row) for row in rows]
    with e.loop(0, stop, e.lanes) as loop:
        given = [
            [e.load_vector(e.nth(address, loop.index, e.precise.itemsize)) for address in pair]
            for pair in zip(scores, grads, strict=True)
        ]
        made = [
            _weigh(e, row, numbers, score, grad, loop.index, coarse=coarse)
            for row, numbers, (score, grad) in zip(rows, spread, given, strict=True)
        ]
        write(loop.index, [kept for kept, _ in made], [grad for _, grad in made])


@final
@dataclass(frozen=True)
class _Spread:
    """A row's numbers, spread over the lanes.

    Attributes:
        less_lse: -lse.
        delta: delta.
        unit: What a changed score, or q·k where none is changed, is multiplied by to be in base 2.
    """

    less_lse: Value
    delta: Value
    unit: Value

    @classmethod
    def of(cls, e: Emitter, row: RowChange) -> _Spread:
        log2_e = e.real(math.log2(math.e))
        unit = log2_e if row.score is not None else e.binary("fmul", row.scale, log2_e)
        return cls(e.splat(e.builder.fneg(row.lse)), e.splat(row.delta), e.splat(unit))


def _weigh(
    e: Emitter, row: RowChange, spread: _Spread, score: Value, grad: Value, column: Value, *, coarse: bool
) -> tuple[Value, Value]:
    """The weights of a vector of pairs, as values were summed with, and the gradients of their scores."""
    zero = e.splat(e.real(0.0))
    lanes = None if row.visible is None else row.visible(column)
    changed = score
    if row.score is not None:
        score = e.binary("fmul", score, row.scale)
        changed = row.score(score, column, lanes)
    weight = exp2_of_nonpositive(e, e.fma(changed, spread.unit, spread.less_lse), coarse=coarse)
    if lanes is not None:
        weight = e.select(lanes, weight, zero)
    kept = weight
    if row.factor is not None:
        factor = row.factor(column)
        kept, grad = e.binary("fmul", weight, factor), e.binary("fmul", grad, factor)
    grad = e.binary("fmul", weight, e.binary("fsub", grad, spread.delta))
    if row.gradient is not None:
        grad = row.gradient(score, grad, column, lanes)
    return kept, grad if lanes is None else e.select(lanes, grad, zero)
