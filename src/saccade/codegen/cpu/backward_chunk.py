"""What an item of the backward kernel is about: a chunk of the keys of one kv head, and who sees it.

Owns the meaning of the tables of work in the argument block. A chunk's keys are its alone, and so are the
rows of its partial result: what it adds to the gradients of the queries that see it. Chunks follow from the
problem, never from the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value
from saccade.codegen.cpu.key_ranges import key_ranges, table_entry

__all__ = [
    "Chunk",
    "Head",
    "KeyTile",
    "QueryTile",
    "chunks_of_item",
    "find_chunk",
    "find_head",
    "key_tile",
    "query_tiles",
]

_FIELDS = 6


@final
@dataclass(frozen=True)
class Chunk:
    """An item: int64[6] in the table of items, and what follows from it.

    The chunk's partial result has, for each of its batches and heads, the rows of its queries and then
    `padding_rows` more.

    Attributes:
        kv_head: Field 0: kv batch * Hkv + kv head.
        first_tile: Field 1: its first tile of keys.
        stop_tile: Field 2: the tile after its last.
        first_query: Field 3: a query that none that sees any of its keys comes before; even.
        stop_query: Field 4: the query after the last that does.
        partial: Address of its partial result; field 5: the rows before it.
        rows: Rows of a head in the partial result.
    """

    kv_head: Value
    first_tile: Value
    stop_tile: Value
    first_query: Value
    stop_query: Value
    partial: Value
    rows: Value


@final
@dataclass(frozen=True)
class Head:
    """A query head of one batch; int64.

    Attributes:
        b: The batch.
        h: The query head.
        number: b * Hq + h.
        first_row: Its first row among packed rows; a head has its queries, rounded up to an even number, and
            `padding_rows` more.
    """

    b: Value
    h: Value
    number: Value
    first_row: Value


@final
@dataclass(frozen=True)
class KeyTile:
    """A tile of keys; int64.

    Attributes:
        number: Among the tiles.
        first_key: The key of column 0.
        held: How many keys there are.
    """

    number: Value
    first_key: Value
    held: Value


@final
@dataclass(frozen=True)
class QueryTile:
    """Queries of one head that see, or may see, a key tile.

    Attributes:
        first: int64, the query of row 0; even where rows are packed in pairs.
        low: int64, the first row that counts.
        rows: int64, the row after the last.
        padded: int64, rows of as many whole blocks.
        partial: BOOL, whether the block mask's program is to be asked.
    """

    first: Value
    low: Value
    rows: Value
    padded: Value
    partial: Value


def find_chunk(e: Emitter, arguments: Arguments, tiling: BackwardTiling, number: Value) -> Chunk:
    """Read an item."""
    begin = e.nth(arguments.pointer("items"), number, 8 * _FIELDS)
    kv_head, first_tile, stop_tile, first_query, stop_query, before = (
        e.load(e.at(begin, 8 * field), I64) for field in range(_FIELDS)
    )
    rows = e.builder.add(e.builder.sub(stop_query, first_query), e.whole(tiling.padding_rows))
    partial = e.nth(arguments.pointer("partials"), before, tiling.partial_row)
    return Chunk(kv_head, first_tile, stop_tile, first_query, stop_query, partial, rows)


def find_head(e: Emitter, arguments: Arguments, tiling: BackwardTiling, b: Value, h: Value) -> Head:
    """Return a head of a batch."""
    number = e.builder.add(e.builder.mul(b, arguments.get("q_heads")), h)
    rows = e.builder.add(e.rounded_up(arguments.get("q_len"), 2), e.whole(tiling.padding_rows))
    return Head(b, h, number, e.builder.mul(number, rows))


def key_tile(e: Emitter, arguments: Arguments, number: Value) -> KeyTile:
    """Read a tile of keys."""
    first, last = (
        e.builder.sext(table_entry(e, arguments, table, number, I32), I64)
        for table in ("tile_first", "tile_last")
    )
    return KeyTile(number, first, e.builder.sub(last, first))


@contextmanager
def chunks_of_item(e: Emitter, arguments: Arguments, item: Value) -> Iterator[Value]:
    """Repeat the body for the number of every chunk of an item, where items are groups of chunks."""
    first = table_entry(e, arguments, "group_offsets", item, I64)
    stop = table_entry(e, arguments, "group_offsets", e.builder.add(item, e.whole(1)), I64)
    with e.loop(first, stop) as loop:
        yield table_entry(e, arguments, "group_chunks", loop.index, I64)


@contextmanager
def query_tiles(
    e: Emitter, arguments: Arguments, tiling: BackwardTiling, keys: KeyTile, head: Head
) -> Iterator[QueryTile]:
    """Repeat the body for every tile of queries that a key tile is visited by, range by range."""
    stored = e.builder.add(
        e.builder.mul(head.b, arguments.get("runs_b")), e.builder.mul(head.h, arguments.get("runs_h"))
    )
    with (
        key_ranges(e, arguments, e.builder.add(stored, keys.number)) as range_,
        e.loop(e.rounded_down(range_.start, tiling.step_rows), range_.stop, tiling.rows) as loop,
    ):
        rows = e.smaller(e.builder.sub(range_.stop, loop.index), e.whole(tiling.rows))
        low = e.larger(e.builder.sub(range_.start, loop.index), e.whole(0))
        yield QueryTile(loop.index, low, rows, e.rounded_up(rows, tiling.block_rows), range_.partial)
