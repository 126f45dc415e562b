"""Which pairs of a tile are visible: a bit a pair, and the range of columns that each block of rows sees.

Bits are found before the scores are: what no row of a block sees is then neither multiplied nor weighed. A
range is rounded outward to whole turns of the row passes, and is empty where a block sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value
from saccade.codegen.cpu.lane_bits import bits_at, load_lanes, store_lanes
from saccade.codegen.cpu.rows import OnVector
from saccade.codegen.cpu.score_tiling import RANGE, ScoreTiling

__all__ = ["RowMask", "block_range", "find_limits", "find_visible", "see_all", "visible_lanes"]

RowMask: TypeAlias = Callable[[Value], OnVector]
"""From a row of the chunk to what narrows the visible lanes of a vector of its pairs."""


def see_all(e: Emitter, tiling: ScoreTiling, ranges: Value, rows: Value) -> None:
    """Let every block of rows see the whole tile."""
    with e.loop(0, rows, tiling.block_rows) as loop:
        _store_range(e, _range_at(e, tiling, ranges, loop.index), e.whole(0), e.whole(tiling.keys))


def find_limits(e: Emitter, tiling: ScoreTiling, inside: Value, limits: tuple[Value, Value]) -> None:
    """Write the bits of a row of a tile of which only the columns from the first limit to the second count.

    Args:
        e: The function.
        tiling: The sizes.
        inside: Address of the bits, for whole turns.
        limits: int64, first column that may be seen, and column after the last.
    """
    low, high = (e.builder.trunc(limit, I32) for limit in limits)
    with e.loop(*_turns(e, tiling, *limits), e.lanes) as loop:
        columns = e.binary("add", e.builder.trunc(loop.index, I32), e.lane_numbers())
        within = e.builder.and_(e.compare(">=", columns, low), e.compare("<", columns, high))
        store_lanes(e, within, bits_at(e, inside, loop.index))


def find_visible(
    e: Emitter,
    tiling: ScoreTiling,
    inside: Value,
    visible: Value,
    ranges: Value,
    rows: Value,
    limits: tuple[Value, Value],
    mask_of_row: RowMask,
) -> None:
    """Find the bits of all pairs within limits, and the ranges.

    Args:
        e: The function.
        tiling: The sizes.
        inside: Address of what `find_limits` wrote.
        visible: Address of the bits, [rows][key vectors].
        ranges: Address of the ranges, one a block of rows.
        rows: int64, rows of whole blocks.
        limits: int64, first column that may be seen, and column after the last.
        mask_of_row: What masks say.
    """
    start, stop = _turns(e, tiling, *limits)
    with e.loop(0, rows, tiling.block_rows) as block:
        following = e.builder.add(block.index, e.whole(tiling.block_rows))
        with e.loop(block.index, following, carried=[stop, start]) as row:
            mask = mask_of_row(row.index)
            with e.loop(start, stop, e.lanes, row.values) as vector:
                column = vector.index
                lanes = mask(load_lanes(e, bits_at(e, inside, column)), column)
                store_lanes(e, lanes, _bits_at(e, tiling, visible, row.index, column))
                seen = e.any(lanes)
                first, last = vector.values
                first = e.select(seen, e.smaller(first, column), first)
                last = e.select(seen, e.larger(last, e.builder.add(column, e.whole(e.lanes))), last)
                vector.hand_over([first, last])
            row.hand_over(vector.results)
        _store_range(e, _range_at(e, tiling, ranges, block.index), *_turns(e, tiling, *row.results))


def block_range(e: Emitter, tiling: ScoreTiling, ranges: Value, row: Value) -> tuple[Value, Value]:
    """Return the columns that a block of rows, given its first row, sees: first, and after the last."""
    address = _range_at(e, tiling, ranges, row)
    return e.load(address, I64), e.load(e.at(address, 8), I64)


def visible_lanes(e: Emitter, tiling: ScoreTiling, visible: Value, row: Value, column: Value) -> Value:
    """Return the bits of a vector of pairs as lanes."""
    return load_lanes(e, _bits_at(e, tiling, visible, row, column))


def _turns(e: Emitter, tiling: ScoreTiling, first: Value, stop: Value) -> tuple[Value, Value]:
    """A range of columns, rounded outward to whole turns of the row passes."""
    return e.rounded_down(first, tiling.range_keys), e.rounded_up(stop, tiling.range_keys)


def _bits_at(e: Emitter, tiling: ScoreTiling, visible: Value, row: Value, column: Value) -> Value:
    return bits_at(e, e.nth(visible, row, tiling.visible_row), column)


def _range_at(e: Emitter, tiling: ScoreTiling, ranges: Value, row: Value) -> Value:
    block = e.builder.udiv(row, e.whole(tiling.block_rows))
    return e.nth(ranges, block, RANGE)


def _store_range(e: Emitter, address: Value, first: Value, stop: Value) -> None:
    e.store(first, address)
    e.store(stop, e.at(address, 8))
