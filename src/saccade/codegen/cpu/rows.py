"""The passes over a tile of scores that make the running softmax, in base 2.

With c the factor from a score s to base 2, and m the largest score that a row has met,

    alpha = 2^((m' - m)·c),   P = 2^((s - m)·c),   row_sum = row_sum·alpha + sum P,

where m' is the m before this tile. Differences come first, so that no score is too large for its product.
Three passes: `row_maximum` changes and hides scores and finds m, `rescale` finds alpha for whole vectors of
rows, `weigh` replaces scores by weights P. A row that has seen nothing has m = -inf, alpha 0 and weights 0;
NaN never becomes a maximum and stays in the weights.

What a row is, and which columns of it are walked, is the caller's; columns come in whole turns of
`VECTORS_AT_ONCE` vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, TypeAlias, final

from saccade.codegen.cpu.conversion import store_elements
from saccade.codegen.cpu.emitter import Emitter, Loop, Value
from saccade.codegen.cpu.score_tiling import VECTORS_AT_ONCE
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive
from saccade.ir.dtype import DType

__all__ = ["OnVector", "RowTables", "rescale", "row_maximum", "start_rows", "weigh"]

OnVector: TypeAlias = Callable[[Value, Value], Value]
"""From a vector and its first column (int64) to a vector."""


@final
@dataclass(frozen=True)
class RowTables:
    """Addresses of what is kept of rows: a number a row, but for `row_sum`, a vector a row to be added up.

    Attributes:
        row_max: m, the largest score so far.
        last_max: m', what sums so far are relative to.
        base: m, or 0 where that is -inf.
        alpha: What sums so far are multiplied by.
        row_sum: The sum of weights.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("row_max", "last_max", "base", "alpha", "row_sum")

    row_max: Value
    last_max: Value
    base: Value
    alpha: Value
    row_sum: Value

    def of_row(self, e: Emitter, row: Value) -> RowTables:
        """Return the addresses of one row's entries, or of those from it on."""
        word = e.precise.itemsize
        number = e.builder.mul(row, e.whole(word))
        vector = e.builder.mul(row, e.whole(word * e.lanes))
        return RowTables(
            row_max=e.at(self.row_max, number),
            last_max=e.at(self.last_max, number),
            base=e.at(self.base, number),
            alpha=e.at(self.alpha, number),
            row_sum=e.at(self.row_sum, vector),
        )


def start_rows(e: Emitter, tables: RowTables, rows: Value | int) -> None:
    """Set rows to having seen nothing; tables must have room for whole vectors of rows."""
    nothing, zero = e.splat(e.real(float("-inf"))), e.splat(e.real(0.0))
    with e.loop(0, rows, e.lanes) as loop:
        here = tables.of_row(e, loop.index)
        for table in (here.row_max, here.last_max):
            e.store(nothing, table)
    with e.loop(0, rows) as loop:
        e.store(zero, tables.of_row(e, loop.index).row_sum)


def row_maximum(
    e: Emitter, scores: Value, first: Value, stop: Value, tables: RowTables, change: OnVector | None
) -> None:
    """Let a row's maximum know its scores.

    Args:
        e: The function.
        scores: Address of the row.
        first: First column.
        stop: Column after the last.
        tables: The row's.
        change: What scores become first; None where they stay as they are.
    """
    nothing = e.splat(e.real(float("-inf")))
    with _turns(e, first, stop, [nothing] * VECTORS_AT_ONCE) as loop:
        maxima = []
        for number, column in enumerate(_columns(e, loop.index)):
            address = _vector_at(e, scores, column)
            score = e.load_vector(address)
            if change is not None:
                score = change(score, column)
                e.store(score, address)
            maxima.append(e.larger(score, loop.values[number]))
        loop.hand_over(maxima)
    largest = e.fold(reduce(e.larger, loop.results), e.larger)
    e.store(e.larger(largest, e.load(tables.row_max, e.precise_type)), tables.row_max)


def rescale(e: Emitter, tables: RowTables, rows: Value, factor: Value) -> None:
    """Find alpha and the base of rows, a vector of rows at a time.

    Rows up to a vector past the last are walked too: nothing changes for those whose maximum stays.

    Args:
        e: The function.
        tables: The rows'.
        rows: int64, how many.
        factor: c, of the precise type.
    """
    nothing = e.real(float("-inf"))
    with e.loop(0, rows, e.lanes) as loop:
        here = tables.of_row(e, loop.index)
        largest = e.load_vector(here.row_max)
        base = e.select(e.compare("==", largest, nothing), e.real(0.0), largest)
        change = e.binary("fsub", e.load_vector(here.last_max), base)
        e.store(exp2_of_nonpositive(e, e.binary("fmul", change, factor)), here.alpha)
        e.store(largest, here.last_max)
        e.store(base, here.base)


def weigh(
    e: Emitter,
    scores: Value,
    first: Value,
    stop: Value,
    tables: RowTables,
    factor: Value,
    weights: DType,
    keep: OnVector | None = None,
) -> None:
    """Replace a row's scores by weights and add these up.

    Args:
        e: The function.
        scores: Address of the row; weights begin there too.
        first: First column.
        stop: Column after the last.
        tables: The row's.
        factor: c, of the precise type.
        weights: What weights are stored as, no wider than scores.
        keep: What a weight becomes after it is added up: 0 where it is dropped.
    """
    factor, base = e.splat(factor), e.splat(e.load(tables.base, e.precise_type))
    before = e.binary("fmul", e.load_vector(tables.row_sum), e.load(tables.alpha, e.precise_type))
    zeros = [e.splat(e.real(0.0))] * (VECTORS_AT_ONCE - 1)
    with _turns(e, first, stop, [before, *zeros]) as loop:
        columns = _columns(e, loop.index)
        # All of a turn is read before any is written: weights may be narrower than scores.
        given = [e.load_vector(_vector_at(e, scores, at)) for at in columns]
        exponents = [e.binary("fmul", e.binary("fsub", score, base), factor) for score in given]
        sums = []
        for column, exponent, total in zip(columns, exponents, loop.values, strict=True):
            weight = exp2_of_nonpositive(e, exponent, coarse=weights is DType.BFLOAT16)
            sums.append(e.binary("fadd", total, weight))
            if keep is not None:
                weight = keep(weight, column)
            at = e.nth(scores, column, weights.itemsize)
            store_elements(e, weight, at, weights)
        loop.hand_over(sums)
    total = reduce(lambda a, b: e.binary("fadd", a, b), loop.results)
    e.store(total, tables.row_sum)


def _turns(e: Emitter, first: Value, stop: Value, carried: list[Value]) -> AbstractContextManager[Loop]:
    return e.loop(first, stop, VECTORS_AT_ONCE * e.lanes, carried)


def _columns(e: Emitter, first: Value) -> list[Value]:
    """The first column of each vector of a turn."""
    return [e.builder.add(first, e.whole(number * e.lanes)) for number in range(VECTORS_AT_ONCE)]


def _vector_at(e: Emitter, scores: Value, column: Value) -> Value:
    return e.nth(scores, column, e.precise.itemsize)
