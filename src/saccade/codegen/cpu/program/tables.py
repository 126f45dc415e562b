"""Tables of a tile's rows and columns: what outer levels computed, where pairs find it.

A table is an array for each of its nodes, indexed by the row or column within the tile, and one for the
node's poison if it can have any. BOOLs stand as integers of a lane's width, so that a vector of them is one
comparison with memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from saccade.codegen.cpu.emitter import BOOL, F64, I32, I64, Type, Value, like
from saccade.codegen.cpu.program.place import Evaluated, Prepared
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr

__all__ = ["Table"]

_ALIGNMENT = 64


@final
class Table:
    """Where the values of nodes stand for each row or column of a tile.

    Args:
        program: The program they belong to.
        nodes: What the table holds.
        length: The most rows or columns of a tile.

    Attributes:
        nodes: What the table holds.
        bytes: Its size, a multiple of 64.
    """

    def __init__(self, program: Prepared, nodes: Sequence[Expr], length: int) -> None:
        self._emitter = e = program.emitter
        self.nodes = tuple(nodes)
        self.bytes = 0
        flag = I64 if e.precise is DType.FLOAT64 else I32
        vectors = -(-length // e.lanes)
        # Of each node for its value, and for its poison: the type in lanes, the type stored, the offset.
        self._arrays: dict[Expr, list[tuple[Type, Type, int]]] = {}
        for node in self.nodes:
            self._arrays[node] = []
            for type_ in [program.widths.element(node)] + [BOOL] * program.is_fallible(node):
                stored = flag if type_ == BOOL else type_
                self._arrays[node].append((type_, stored, self.bytes))
                self.bytes += -(-vectors * self._vector_bytes(stored) // _ALIGNMENT) * _ALIGNMENT

    def write(self, table: Value, first: Value, node: Expr, evaluated: Evaluated) -> None:
        """Store a node's vector for the rows or columns from `first`, a multiple of the lanes."""
        e = self._emitter
        parts = [part for part in (evaluated.value, evaluated.poison) if part is not None]
        for part, (type_, stored, offset) in zip(parts, self._arrays[node], strict=True):
            vector = e.splat(part)
            if type_ == BOOL:
                vector = e.builder.sext(vector, like(vector, stored))
            e.store(vector, self._address(table, offset, stored, first), self._alignment(stored))

    def vector(self, table: Value, first: Value, node: Expr) -> Evaluated:
        """Load a node's vector for the rows or columns from `first`, a multiple of the lanes."""
        e = self._emitter
        parts = []
        for type_, stored, offset in self._arrays[node]:
            pointer = self._address(table, offset, stored, first)
            vector = e.load(pointer, e.vector(stored), self._alignment(stored))
            parts.append(self._truth(vector) if type_ == BOOL else vector)
        return Evaluated(*parts)

    def lane(self, table: Value, number: Value, node: Expr) -> Evaluated:
        """Load a node's value for one row or column: a number as a scalar, a BOOL spread over the lanes."""
        e = self._emitter
        parts = []
        for type_, stored, offset in self._arrays[node]:
            value = e.load(self._address(table, offset, stored, number), stored)
            parts.append(self._truth(e.splat(value)) if type_ == BOOL else value)
        return Evaluated(*parts)

    def _truth(self, vector: Value) -> Value:
        return self._emitter.compare("!=", vector, self._emitter.whole(0, vector.type))

    def _address(self, table: Value, offset: int, stored: Type, number: Value) -> Value:
        e = self._emitter
        place = e.builder.mul(number, e.whole(self._vector_bytes(stored) // e.lanes))
        return e.at(e.at(table, offset), place)

    def _alignment(self, stored: Type) -> int:
        return min(_ALIGNMENT, self._vector_bytes(stored))

    def _vector_bytes(self, stored: Type) -> int:
        return self._emitter.lanes * (8 if stored in (I64, F64) else 4)
