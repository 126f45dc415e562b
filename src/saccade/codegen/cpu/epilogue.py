"""The end of an item: sums of weights become the output, and lse and the maxima where they are asked for.

With m and row_sum as `rows` leaves them, m times the unit of scores, a sink s joins the denominator:

    base = max(m, s),   total = row_sum·e^(m - base) + e^(s - base),
    lse = base + ln total,   out = acc·e^(m - base) / (total·keep rate).

A row without any weight, total 0, gives output 0 and lse -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.conversion import narrowed, store_elements
from saccade.codegen.cpu.emitter import I64, Emitter, Value, mangled
from saccade.codegen.cpu.rows import RowTables
from saccade.codegen.cpu.vector_math import ELEMENTARY
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive
from saccade.ir.dtype import DType
from saccade.ir.ops import Op

__all__ = ["Extras", "finish_rows", "store_row", "store_rows"]


@final
@dataclass(frozen=True)
class Extras:
    """What the end of an item needs beside its sums; scalars of the precise type or addresses.

    Attributes:
        keep_factor: What dropout multiplies kept weights by; None without dropout.
        sink: The sink's score, or from the first row of a vector to its rows' sinks; None without any.
        lse: Address of the rows' lse; None where it is not asked for.
        max_scores: Address of the rows' maxima, likewise.
        unit: What a maximum is multiplied by to be a score.
    """

    keep_factor: Value | None
    sink: Value | Callable[[Value], Value] | None
    lse: Value | None
    max_scores: Value | None
    unit: Value


def finish_rows(e: Emitter, tables: RowTables, rows: Value, extras: Extras) -> None:
    """Write lse and maxima, and leave in `alpha` what each row of the accumulator is to be multiplied by.

    Args:
        e: The function.
        tables: The rows'.
        rows: int64, how many are written; tables hold whole vectors of rows.
        extras: What else is needed.
    """
    with e.loop(0, rows) as loop:
        here = tables.of_row(e, loop.index)
        total = e.fold(e.load_vector(here.row_sum), lambda a, b: e.binary("fadd", a, b))
        e.store(total, here.base)
    nothing, zero, one = e.real(float("-inf")), e.real(0.0), e.real(1.0)

    def exponential(x: Value) -> Value:
        return exp2_of_nonpositive(e, e.binary("fmul", x, e.real(math.log2(math.e))))

    with e.loop(0, rows, e.lanes) as loop:
        here = tables.of_row(e, loop.index)
        total, row_max = e.load_vector(here.base), e.load_vector(here.row_max)
        largest = e.binary("fmul", row_max, extras.unit)
        # A NaN is never a maximum but always in the sum; so is what infinity leaves there.
        nan = e.compare("!=", total, total)
        spoilt = e.builder.and_(nan, e.compare("!=", row_max, e.real(float("inf"))))
        maximum = e.select(spoilt, total, largest)
        factor, base = e.splat(one), largest
        if extras.sink is not None:
            sink = extras.sink(loop.index) if callable(extras.sink) else extras.sink
            base = e.larger(e.splat(sink), largest)
            finite = e.select(e.compare("==", base, nothing), zero, base)
            factor = exponential(e.binary("fsub", largest, finite))
            joined = exponential(e.binary("fsub", sink, finite))
            total = e.fma(total, factor, joined)
        empty = e.compare("==", total, zero)
        held = _held(e, loop.index, rows)
        if extras.lse is not None:
            lse = e.binary("fadd", base, ELEMENTARY[Op.LOG](e, e.select(empty, one, total)))
            _store_held(e, e.select(empty, nothing, lse), extras.lse, loop.index, held)
        if extras.max_scores is not None:
            _store_held(e, maximum, extras.max_scores, loop.index, held)
        if extras.keep_factor is not None:
            factor = e.binary("fmul", factor, extras.keep_factor)
        e.store(e.select(empty, zero, e.binary("fdiv", factor, e.select(empty, one, total))), here.alpha)


def store_rows(
    e: Emitter,
    acc: Value,
    acc_row: int,
    columns: int,
    tables: RowTables,
    rows: Value,
    out_row: Callable[[Value], Value],
    stored: DType,
) -> None:
    """Write rows of the accumulator, times `alpha`, as the output.

    Args:
        e: The function.
        acc: Address of the accumulator.
        acc_row: Bytes from one of its rows to the next.
        columns: Elements of a row.
        tables: The rows'.
        rows: int64, how many.
        out_row: The address of a row of the output.
        stored: Type of its elements.
    """
    with e.loop(0, rows) as row:
        alpha = e.load(tables.of_row(e, row.index).alpha, e.precise_type)
        store_row(e, e.nth(acc, row.index, acc_row), columns, alpha, out_row(row.index), stored)


def store_row(
    e: Emitter, source: Value, columns: int, factor: Value | None, target: Value, stored: DType
) -> None:
    """Write a row of an accumulator, times a factor if one is given, as elements.

    Args:
        e: The function.
        source: Address of the row, of whole vectors.
        columns: Elements of the row.
        factor: Of the precise type.
        target: Address of the elements.
        stored: Their type.
    """
    whole, word = columns - columns % e.lanes, e.precise.itemsize

    def scaled(at: Value) -> Value:
        vector = e.load_vector(at)
        return vector if factor is None else e.binary("fmul", vector, factor)

    with e.loop(0, whole, e.lanes) as column:
        at = e.nth(target, column.index, stored.itemsize)
        store_elements(e, scaled(e.nth(source, column.index, word)), at, stored)
    if whole < columns:
        # One by one: LLVM 22 writes too much where one lane of a narrowed vector is stored by a mask.
        rest = narrowed(e, scaled(e.at(source, whole * word)), stored)
        for lane in range(columns - whole):
            e.store(e.lane(rest, lane), e.at(target, (whole + lane) * stored.itemsize))


def _held(e: Emitter, first: Value, rows: Value) -> Value:
    return e.compare("<", e.binary("add", first, e.lane_numbers(I64)), rows)


def _store_held(e: Emitter, value: Value, table: Value, row: Value, held: Value) -> None:
    address = e.nth(table, row, e.precise.itemsize)
    e.call(f"llvm.masked.store.{mangled(value.type)}.p0", ir.VoidType(), [value, address, held])
