"""The pass over a tile of scores that makes weights and the gradients of scores of them.

With x the score, f dropout's factor of a pair (0 where it is dropped), and lse and delta as
`backward_pack` leaves them,

    P = e^(x - lse),   dS' = P·(dP·f - delta),   dS = dS' through the score mod's derivative.

Scores become the weights P·f that the values were summed with, dP becomes dS; both are 0 where a pair is
hidden. Where nothing needs dS there is no dP. In the class of bfloat16 pairs two rows are walked together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, final

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.tile_programs import RowGradient
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive

__all__ = ["RowChange", "Write", "weigh_rows"]

Write: TypeAlias = Callable[[Value, Sequence[Value], Sequence[Value]], None]
"""Takes a column, and for each row a vector of weights and, where there is dP, one of gradients of scores."""

_OnScore: TypeAlias = Callable[[Value, Value, Value | None], Value]


@final
@dataclass(frozen=True)
class RowChange:
    """What is known of one row's pairs.

    Attributes:
        lse: Precise scalar.
        delta: Precise scalar; None where there is no dP.
        scale: Precise scalar, what q·k is multiplied by.
        score: From a score, its column and the lanes asked about to what the score mod makes of it.
        gradient: How gradients pass through the score mod; None without one, and where there is no dP.
        visible: From a column to the visible lanes of its vector; None where all are.
        factor: From a column to dropout's factors of its vector; None without dropout.
    """

    lse: Value
    delta: Value | None
    scale: Value
    score: _OnScore | None
    gradient: RowGradient | None
    visible: Callable[[Value], Value] | None
    factor: Callable[[Value], Value] | None


def weigh_rows(
    e: Emitter,
    scores: Sequence[Value],
    grads: Sequence[Value] | None,
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
        grads: Address of each row's dP; None where nothing needs gradients of scores.
        stop: int64, columns that are walked, whole vectors.
        rows: What is known of each row.
        write: Takes a column (int64), the rows' weights and their dS: vectors.
        coarse: Whether weights need only the precision of bfloat16.
    """
    spread = [_Spread.of(e, row) for row in rows]
    starts = [[] if row.gradient is None else row.gradient.carried for row in rows]
    with e.loop(0, stop, e.lanes, [value for start in starts for value in start]) as loop:
        carried = _parts_like(starts, loop.values)

        def vector(address: Value) -> Value:
            return e.load_vector(e.nth(address, loop.index, e.precise.itemsize))

        given = [None] * len(rows) if grads is None else [vector(address) for address in grads]
        made = [
            _weigh(e, row, numbers, vector(score), grad, loop.index, before, coarse=coarse)
            for row, numbers, score, grad, before in zip(rows, spread, scores, given, carried, strict=True)
        ]
        write(loop.index, [kept for kept, _, _ in made], [slope for _, slope, _ in made if slope is not None])
        loop.hand_over([value for _, _, left in made for value in left])
    for row, left in zip(rows, _parts_like(starts, loop.results), strict=True):
        if row.gradient is not None:
            row.gradient.end(left)


def _parts_like(parts: Sequence[Sequence[Value]], values: Sequence[Value]) -> list[list[Value]]:
    """Cut values into lists of the lengths of given ones."""
    rest = iter(values)
    return [list(islice(rest, len(part))) for part in parts]


@final
@dataclass(frozen=True)
class _Spread:
    """A row's numbers, spread over the lanes.

    Attributes:
        lse: lse.
        delta: delta; None where there is no dP.
        scale: What q·k is multiplied by.
    """

    lse: Value
    delta: Value | None
    scale: Value

    @classmethod
    def of(cls, e: Emitter, row: RowChange) -> _Spread:
        delta = None if row.delta is None else e.splat(row.delta)
        return cls(e.splat(row.lse), delta, e.splat(row.scale))


def _weigh(
    e: Emitter,
    row: RowChange,
    spread: _Spread,
    score: Value,
    grad: Value | None,
    column: Value,
    carried: Sequence[Value],
    *,
    coarse: bool,
) -> tuple[Value, Value | None, list[Value]]:
    """The weights of a vector of pairs, as values were summed with, dS, and what is carried on."""
    zero = e.splat(e.real(0.0))
    lanes = None if row.visible is None else row.visible(column)
    # Rounded as the forward rounds it: near lse the difference is exact, however large both are.
    score = e.binary("fmul", score, spread.scale)
    changed = score if row.score is None else row.score(score, column, lanes)
    exponent = e.binary("fmul", e.binary("fsub", changed, spread.lse), e.real(math.log2(math.e)))
    weight = exp2_of_nonpositive(e, exponent, coarse=coarse)
    if lanes is not None:
        weight = e.select(lanes, weight, zero)
    factor = None if row.factor is None else row.factor(column)
    kept = weight if factor is None else e.binary("fmul", weight, factor)
    if grad is None:
        return kept, None, []
    if factor is not None:
        grad = e.binary("fmul", grad, factor)
    grad = e.binary("fmul", weight, e.binary("fsub", grad, spread.delta))
    left: list[Value] = []
    if row.gradient is not None:
        grad, left = row.gradient.passed(score, grad, column, lanes, carried)
    return kept, grad if lanes is None else e.select(lanes, grad, zero), left
