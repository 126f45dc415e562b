"""What an item of the forward kernel is about: read from the tables of the argument block.

Owns the meaning of item numbers and of ranges; what is computed with them is `forward`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value
from saccade.codegen.cpu.key_ranges import key_ranges, table_entry, tile_limits
from saccade.codegen.cpu.packing import whole_blocks
from saccade.codegen.cpu.tiling import ForwardTiling
from saccade.ir.dtype import DType

__all__ = ["Item", "KeyTile", "Scale", "find_item", "key_tiles", "read_scale", "rows_of"]

# The smallest and the largest normal number.
_NORMAL = {
    DType.FLOAT32: (2.0**-126, (2.0 - 2.0**-23) * 2.0**127),
    DType.FLOAT64: (2.0**-1022, (2.0 - 2.0**-52) * 2.0**1023),
}


@final
@dataclass(frozen=True)
class Item:
    """Some query rows of one head; int64 each.

    Attributes:
        head: b * Hq + h.
        b: The batch.
        h: The query head.
        first: The query of row 0.
        rows: How many there are.
        padded: Rows of as many whole blocks.
        panel: The packed panel of key 0.
        stored: The stored tile whose ranges it walks.
    """

    head: Value
    b: Value
    h: Value
    first: Value
    rows: Value
    padded: Value
    panel: Value
    stored: Value


@final
@dataclass(frozen=True)
class KeyTile:
    """A key tile as an item meets it.

    Attributes:
        first_key: int64, the key of column 0.
        keys: Address of its packed keys.
        values: Address of its packed values.
        limits: int64, the first column within the range, and the column after the last.
        partial: BOOL, whether the range is PARTIAL.
    """

    first_key: Value
    keys: Value
    values: Value
    limits: tuple[Value, Value]
    partial: Value


@final
@dataclass(frozen=True)
class Scale:
    """The scale of scores, taken apart so that scores in memory need no factor; precise scalars.

    Attributes:
        sign: Goes into the queries: 1, -1, or 0 for a scale of 0.
        unit: What a score in memory is multiplied by to be a score.
        factor: What a score of that unit, or a changed score, is multiplied by to be an exponent of 2.
    """

    sign: Value
    unit: Value
    factor: Value


def read_scale(e: Emitter, arguments: Arguments, *, changed: bool) -> Scale:
    """Read the scale.

    Args:
        e: The function.
        arguments: Its arguments.
        changed: Whether a score mod takes scores in their own unit before they become exponents.
    """
    scale, zero, one = arguments.real("scale"), e.real(0.0), e.real(1.0)
    negative = e.compare("<", scale, zero)
    # 0 and NaN are their own signs.
    sign = e.select(e.compare(">", scale, zero), one, e.select(negative, e.real(-1.0), scale))
    unit = e.select(negative, e.builder.fneg(scale), scale)
    unit = e.select(e.compare("==", scale, zero), one, unit)
    smallest, largest, infinity = *map(e.real, _NORMAL[e.precise]), e.real(math.inf)
    factor = e.binary("fmul", one if changed else unit, e.real(math.log2(math.e)))
    # A factor of 0 would make NaN of a hidden score, one of infinity NaN of the difference of equal ones.
    factor = e.select(e.compare("==", factor, zero), smallest, factor)
    finite = e.compare("<", unit, infinity)
    factor = e.select(e.builder.and_(finite, e.compare("==", factor, infinity)), largest, factor)
    return Scale(sign, unit, factor)


def find_item(e: Emitter, arguments: Arguments, tiling: ForwardTiling, number: Value) -> Item:
    """Read what an item of the order of work is about."""
    get = arguments.get
    item = table_entry(e, arguments, "items", number, I64)
    head, tile = e.builder.udiv(item, get("tiles")), e.builder.urem(item, get("tiles"))
    b, h = e.builder.udiv(head, get("q_heads")), e.builder.urem(head, get("q_heads"))
    first = e.builder.sext(table_entry(e, arguments, "tile_first", tile, I32), I64)
    last = e.builder.sext(table_entry(e, arguments, "tile_last", tile, I32), I64)
    rows = e.builder.sub(last, first)
    kv_head = e.builder.mul(e.builder.udiv(h, get("group")), get("panels"))
    stored = e.builder.add(e.builder.mul(b, get("runs_b")), e.builder.mul(h, get("runs_h")))
    return Item(
        head=head,
        b=b,
        h=h,
        first=first,
        rows=rows,
        padded=whole_blocks(e, tiling, rows),
        panel=e.builder.add(e.builder.mul(b, get("packed_b")), kv_head),
        stored=e.builder.add(stored, tile),
    )


def rows_of(e: Emitter, arguments: Arguments, tensor: str, item: Item) -> Callable[[Value], Value]:
    """Return what gives the address of an item's row in "query" or "out"."""
    begin = arguments.pointer(tensor)
    for index, axis in ((item.b, "b"), (item.h, "h"), (item.first, "q")):
        begin = e.nth(begin, index, arguments.get(f"{tensor}_{axis}"))
    return lambda row: e.nth(begin, row, arguments.get(f"{tensor}_q"))


@contextmanager
def key_tiles(e: Emitter, arguments: Arguments, tiling: ForwardTiling, item: Item) -> Iterator[KeyTile]:
    """Repeat the body for every key tile that the item's ranges reach into, range by range."""
    keys = e.whole(tiling.keys)
    packed_keys, packed_values = (arguments.pointer(name) for name in ("packed_keys", "packed_values"))
    with key_ranges(e, arguments, item.stored) as range_:
        first = e.rounded_down(range_.start, tiling.keys)
        with e.loop(first, range_.stop, keys) as tile:
            panel = e.builder.add(item.panel, e.builder.udiv(tile.index, keys))
            yield KeyTile(
                first_key=tile.index,
                keys=e.nth(packed_keys, panel, tiling.key_panel),
                values=e.nth(packed_values, panel, tiling.value_panel),
                limits=tile_limits(e, range_, tile.index, tiling.keys),
                partial=range_.partial,
            )
