"""A program as code of a kernel: what the kernel calls, in the order of its loops.

A kernel makes one `ProgramCode` for each of its programs, then emits, from the outside in: `begin_item` once
an item, `fill_rows` once a tile of rows, `fill_columns` once a tile of keys, `row` once a row, `pair` once a
vector of pairs. Each part of the program is evaluated at the outermost of these places that knows what it
reads; values cross from one to the next in registers, or in tables in the thread's scratch memory.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import F32, F64, I64, Emitter, Value, element_of, like
from saccade.codegen.cpu.program.evaluation import evaluate
from saccade.codegen.cpu.program.place import Evaluated, Place, Prepared
from saccade.codegen.cpu.program.tables import Table
from saccade.codegen.program.contributions import Contribution
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, var
from saccade.ir.structure import Structure

__all__ = ["Evaluated", "ProgramCode", "Row"]


@final
@dataclass(frozen=True)
class Row:
    """A row of the tile, as `pair` wants it: what the table holds of it, read once.

    Attributes:
        values: By node.
    """

    values: Mapping[Expr, Evaluated]


@final
class ProgramCode:
    """One program of a kernel.

    Args:
        emitter: The function under construction.
        which: Which of the kernel's programs it is.
        structure: The program.
        facts: What is proven of it.
        arguments: The kernel's arguments.
        rows: The most rows of a tile.
        keys: Keys of a tile, a multiple of the lanes.
        row_variables: The variables that vary from row to row; the other ones of b and h are known to
            `begin_item`.
        contributions: What is evaluated beside it, by `CaptureSums`.
    """

    def __init__(
        self,
        emitter: Emitter,
        which: Which,
        structure: Structure,
        facts: ProgramFacts,
        arguments: Arguments,
        *,
        rows: int,
        keys: int,
        row_variables: tuple[str, ...] = ("q_idx",),
        contributions: Sequence[Contribution] = (),
    ) -> None:
        self._emitter = emitter
        self._program = Prepared(emitter, which, structure, facts, arguments, row_variables, contributions)
        split = self._program.split
        self._keys = keys
        self._row_table = Table(self._program, split.rows, rows)
        self._column_table = Table(self._program, split.columns, keys)
        self._items: dict[Expr, Evaluated] = {}
        self._rows_at: Value | None = None
        self._columns_at: Value | None = None

    @property
    def program(self) -> Prepared:
        """The program, and what its places share."""
        return self._program

    @property
    def row_bytes(self) -> int:
        """Bytes of the table of rows, a multiple of 64; may be 0."""
        return self._row_table.bytes

    @property
    def column_bytes(self) -> int:
        """Bytes of the table of columns, a multiple of 64; may be 0."""
        return self._column_table.bytes

    def begin_item(self, variables: Mapping[str, Value]) -> None:
        """Evaluate what depends on b and h alone, at the present place, which dominates all that follows.

        Args:
            variables: int64 scalars: b, and h unless it varies from row to row.
        """
        place = Place(self._program, self._given(variables))
        for node in self._program.split.items:
            evaluate(place, node)
        self._items = dict(place.values)

    def fill_rows(self, table: Value, rows: Value, indices: Callable[[Value], dict[str, Value]]) -> None:
        """Evaluate what depends on the row but not on the key, for rows 0 to rows - 1 of the tile.

        Args:
            table: `row_bytes` of memory, 64-byte aligned. It must dominate every later use of rows.
            rows: int64, how many rows the tile has; at most the most.
            indices: From row numbers, a vector of int64 that may pass `rows` by less than a vector, to the
                row variables, vectors of int64. Every one must be in range: clamp the numbers.
        """
        e = self._emitter
        self._rows_at = table
        if not self._row_table.nodes:
            return
        with e.loop(0, rows, e.lanes) as loop:
            numbers = e.binary("add", loop.index, e.lane_numbers(I64))
            values = ChainMap(self._given(indices(numbers)), self._items)
            place = Place(self._program, values)
            for node in self._row_table.nodes:
                self._row_table.write(table, loop.index, node, evaluate(place, node))
            loop.hand_over([])

    def fill_columns(self, table: Value, first_key: Value, kv_len: Value) -> None:
        """Evaluate what depends on the key but not on the row, for the keys from `first_key`.

        Args:
            table: `column_bytes` of memory, 64-byte aligned.
            first_key: int64, the key of column 0.
            kv_len: int64; from there on nothing is read and the table holds anything.
        """
        e = self._emitter
        self._columns_at = table
        if not self._column_table.nodes:
            return
        with e.loop(0, self._keys, e.lanes) as loop:
            first = e.builder.add(first_key, loop.index)
            keys = e.binary("add", first, e.lane_numbers(I64))
            values = ChainMap(self._given({"kv_idx": keys}), self._items)
            place = Place(self._program, values, first, e.compare("<", keys, kv_len))
            for node in self._column_table.nodes:
                self._column_table.write(table, loop.index, node, evaluate(place, node))
            loop.hand_over([])

    def row(self, number: Value) -> Row:
        """Read what the table holds of a row.

        Args:
            number: int64, within the tile.
        """
        table = self._row_table
        return Row({node: table.lane(self._rows_at, number, node) for node in table.nodes})

    def pair(
        self,
        row: Row,
        column: Value,
        first_key: Value,
        score: Value | None = None,
        inside: Value | None = None,
        grad: Value | None = None,
    ) -> Evaluated:
        """Evaluate the program for a vector of pairs: `result` at `place_of_pair`.

        Args:
            row: See `place_of_pair`, and so on.
            column: See there.
            first_key: See there.
            score: See there.
            inside: See there.
            grad: See there.
        """
        return self.result(self.place_of_pair(row, column, first_key, score, inside, grad))

    def place_of_pair(
        self,
        row: Row,
        column: Value,
        first_key: Value,
        score: Value | None = None,
        inside: Value | None = None,
        grad: Value | None = None,
    ) -> Place:
        """Return the place of a vector of pairs: one row, consecutive keys.

        Args:
            row: The row.
            column: int64, the first column within the tile, a multiple of the lanes.
            first_key: int64, the key of column 0.
            score: A vector of the precise type; read by score programs.
            inside: The lanes that are asked about, whose keys are all in range; None: every lane. Others have
                any value, touch no memory outside a tensor and are never poison.
            grad: A vector of the precise type, the gradient of the score mod's result; read by derivatives.
        """
        e = self._emitter
        given: dict[Expr, Evaluated] = {}
        if score is not None:
            given[var("score", e.precise)] = Evaluated(score)
        if grad is not None:
            # Of the type that the score mod's result has.
            for dtype in (DType.FLOAT32, DType.FLOAT64):
                given[var("grad", dtype)] = Evaluated(_as_float(e, grad, dtype))
        values = ChainMap(given, self._columns(column), {**row.values}, self._items)
        return Place(self._program, values, e.builder.add(first_key, column), inside)

    def result(self, place: Place) -> Evaluated:
        """Evaluate the program at a place of pairs.

        Returns:
            Vectors: BOOL of a mask, the precise type of a score.
        """
        e = self._emitter
        found = evaluate(place, self._program.root)
        poison = found.poison
        if poison is not None:
            poison = e.splat(poison if place.inside is None else e.binary("and_", poison, place.inside))
        return Evaluated(e.splat(self._precise(found.value)), poison)

    def place_of_item(self) -> Place:
        """Return the place of what depends on b and h alone."""
        return Place(self._program, ChainMap({}, self._items))

    def place_of_row(self, row: Row) -> Place:
        """Return the place of what does not depend on the key."""
        return Place(self._program, ChainMap({}, {**row.values}, self._items))

    def place_of_columns(self, column: Value, first_key: Value, inside: Value) -> Place:
        """Return the place of what does not depend on the row; as for `place_of_pair`."""
        values = ChainMap({}, self._columns(column), self._items)
        return Place(self._program, values, self._emitter.builder.add(first_key, column), inside)

    def _columns(self, column: Value) -> dict[Expr, Evaluated]:
        """What the table holds of a vector of columns."""
        table = self._column_table
        return {node: table.vector(self._columns_at, column, node) for node in table.nodes}

    def _given(self, variables: Mapping[str, Value]) -> dict[Expr, Evaluated]:
        """Index variables in the width that their nodes have."""
        return {
            node: Evaluated(self._emitter.resized(value, self._program.widths.element(node)))
            for node, value in ((var(name), value) for name, value in variables.items())
        }

    def _precise(self, value: Value) -> Value:
        e = self._emitter
        return _as_float(e, value, e.precise) if element_of(value) in (F32, F64) else value


def _as_float(e: Emitter, value: Value, dtype: DType) -> Value:
    """A floating value as FLOAT32 or FLOAT64."""
    element = e.scalar_type(dtype)
    if element_of(value) == element:
        return value
    change = e.builder.fpext if dtype is DType.FLOAT64 else e.builder.fptrunc
    return change(value, like(value, element))
