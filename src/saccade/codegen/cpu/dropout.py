"""Dropout on a row of weights: which of a tile's are kept, found before they are weighed.

The stream decides for 128 aligned keys at a time. Tiles of the forward kernel hold whole groups of them; a
backward tile may begin at any key, so there a row's table begins with the group that this key is in.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.lane_bits import bits_at, load_lanes, store_lanes
from saccade.codegen.cpu.philox import KEYS, keep_lanes
from saccade.codegen.cpu.rows import OnVector

__all__ = ["keep_factors", "kept_weights"]


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


def keep_factors(
    e: Emitter,
    arguments: Arguments,
    table: Value,
    head: Value,
    query: Value,
    first_key: Value,
    keys: Value,
) -> Callable[[Value], Value]:
    """Find what dropout multiplies the weights of a row by, and return what gives a column's vector of it.

    Args:
        e: The function.
        arguments: Its arguments.
        table: Address of the row's factors, precise, for the groups that the tile reaches into.
        head: int64, b * Hq + h.
        query: int64, the query.
        first_key: int64, the key of column 0.
        keys: int64, how many keys the tile has.
    """
    seed, threshold, word = arguments.get("seed"), arguments.get("keep_threshold"), e.precise.itemsize
    base = e.rounded_down(first_key, KEYS)
    kept, dropped = e.splat(arguments.real("keep_factor")), e.splat(e.real(0.0))
    with e.loop(base, e.builder.add(first_key, keys), KEYS) as loop:
        begin = e.nth(table, e.builder.sub(loop.index, base), word)
        for number, lanes in enumerate(keep_lanes(e, seed, threshold, head, query, loop.index)):
            e.store(e.select(lanes, kept, dropped), e.at(begin, number * e.lanes * word))
    own = e.nth(table, e.builder.sub(first_key, base), word)
    return lambda column: e.load_vector(e.nth(own, column, word))
