"""The ranges of keys that a stored tile of queries visits, read from the argument block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from llvmlite import ir

from saccade.analysis.runs import BlockKind
from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import I8, I32, I64, Emitter, Value

__all__ = ["KeyRange", "key_ranges", "table_entry", "tile_limits"]


@final
@dataclass(frozen=True)
class KeyRange:
    """Consecutive keys.

    Attributes:
        start: int64, the first key.
        stop: int64, the key after the last.
        partial: BOOL, whether the block mask's program is asked.
    """

    start: Value
    stop: Value
    partial: Value


@contextmanager
def key_ranges(e: Emitter, arguments: Arguments, stored: Value) -> Iterator[KeyRange]:
    """Repeat the body for every range of a stored tile (int64), in ascending order."""
    first = table_entry(e, arguments, "run_offsets", stored, I64)
    stop = table_entry(e, arguments, "run_offsets", e.builder.add(stored, e.whole(1)), I64)
    with e.loop(first, stop) as run:
        kind = table_entry(e, arguments, "run_kind", run.index, I8)
        yield KeyRange(
            start=e.builder.sext(table_entry(e, arguments, "run_start", run.index, I32), I64),
            stop=e.builder.sext(table_entry(e, arguments, "run_stop", run.index, I32), I64),
            partial=e.compare("==", kind, I8(BlockKind.PARTIAL.value)),
        )


def tile_limits(e: Emitter, range_: KeyRange, first_key: Value, keys: int) -> tuple[Value, Value]:
    """Return the first column of a key tile that is within a range, and the column after the last."""
    low = e.larger(e.builder.sub(range_.start, first_key), e.whole(0))
    return low, e.smaller(e.builder.sub(range_.stop, first_key), e.whole(keys))


def table_entry(e: Emitter, arguments: Arguments, table: str, number: Value, element: ir.IntType) -> Value:
    """Load an entry of one of the tables of integers."""
    at = e.builder.mul(number, e.whole(element.width // 8))
    return e.load(e.at(arguments.pointer(table), at), element)
