"""Dropout on a row of weights: which of a tile's are kept, found before they are weighed.

The stream decides for 128 aligned keys at a time, so tiles of a kernel that drops hold whole groups of them.
"""

from __future__ import annotations

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.lane_bits import bits_at, load_lanes, store_lanes
from saccade.codegen.cpu.philox import KEYS, keep_lanes
from saccade.codegen.cpu.rows import OnVector

__all__ = ["kept_weights"]


def kept_weights(
    e: Emitter,
    arguments: Arguments,
    table: Value,
    head: Value,
    query: Value,
    first_key: Value,
    columns: tuple[Value, Value],
) -> OnVector:
    """Find which weights of a row are kept, and return what makes 0 of the others.

    Args:
        e: The function.
        arguments: Its arguments.
        table: Address of the row's bits, for the whole tile.
        head: int64, b * Hq + h.
        query: int64, the query.
        first_key: int64, the key of column 0, a multiple of `philox.KEYS`.
        columns: int64, the first column that is asked about, and the column after the last.
    """
    seed, threshold = arguments.get("seed"), arguments.get("keep_threshold")
    first, stop = columns
    with e.loop(e.rounded_down(first, KEYS), stop, KEYS) as loop:
        key = e.builder.add(first_key, loop.index)
        for number, lanes in enumerate(keep_lanes(e, seed, threshold, head, query, key)):
            column = e.builder.add(loop.index, e.whole(number * e.lanes))
            store_lanes(e, lanes, bits_at(e, table, column))
    zero = e.real(0.0)
    return lambda weight, column: e.select(load_lanes(e, bits_at(e, table, column)), weight, zero)
