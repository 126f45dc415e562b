"""The query rows that meet the keys of one kv head: those of its head group, head by head.

Row r is query r % Q of the group's head r // Q. Owns that order; it makes the rows' entries in lse and
max_scores neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import Emitter, Value

__all__ = ["HeadGroup"]


@final
@dataclass(frozen=True)
class HeadGroup:
    """A head group of a batch; int64 each.

    Attributes:
        b: The batch.
        kv_head: The kv head.
        first_head: The first query head.
        q_len: Queries of a head.
        rows: How many rows there are.
    """

    b: Value
    kv_head: Value
    first_head: Value
    q_len: Value
    rows: Value

    @classmethod
    def of(cls, e: Emitter, arguments: Arguments, number: Value) -> HeadGroup:
        """Return the group that b * Hkv + kv head names."""
        b, kv_head = (part(number, arguments.get("kv_heads")) for part in (e.builder.udiv, e.builder.urem))
        group, q_len = arguments.get("group"), arguments.get("q_len")
        first_head = e.builder.mul(kv_head, group)
        return cls(b, kv_head, first_head, q_len, e.builder.mul(group, q_len))

    def places(self, e: Emitter, row: Value) -> tuple[Value, Value]:
        """Return the query head and the query of a row, or of a vector of rows."""
        q_len, first_head = self.q_len, self.first_head
        row, q_len, first_head = e.matched(row, q_len, first_head)
        return e.builder.add(first_head, e.builder.udiv(row, q_len)), e.builder.urem(row, q_len)

    def rows_of(self, e: Emitter, arguments: Arguments, tensor: str) -> Callable[[Value], Value]:
        """Return what gives the address of a row in "query" or "out"."""
        begin = e.nth(arguments.pointer(tensor), self.b, arguments.get(f"{tensor}_b"))

        def row_at(row: Value) -> Value:
            head, query = self.places(e, row)
            at = e.nth(begin, head, arguments.get(f"{tensor}_h"))
            return e.nth(at, query, arguments.get(f"{tensor}_q"))

        return row_at

    def first_row(self, e: Emitter, arguments: Arguments) -> Value:
        """Return the number of row 0 among the queries of all heads of all batches."""
        head = e.builder.add(e.builder.mul(self.b, arguments.get("q_heads")), self.first_head)
        return e.builder.mul(head, self.q_len)

    def stored_runs(self, e: Emitter, arguments: Arguments) -> Value:
        """Return the stored tile that says which keys the group visits."""
        b, head = e.builder.mul(self.b, arguments.get("runs_b")), arguments.get("runs_h")
        return e.builder.add(b, e.builder.mul(self.kv_head, head))
