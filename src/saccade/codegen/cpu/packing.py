"""Keys and values rewritten in the order in which tile products read them.

The entry `pack` turns one tile of keys and values into panels (see `tiling`): keys transposed, so that a step
of the sum over D finds its vectors of keys together; values by column slices. Elements become words: the
precise type, or pairs of bfloat16, of neighbours along D for keys and along the keys for values. Rows from
`kv_len` up to the end of a sub-panel are zeros, and so is the missing half of a pair; what lies beyond is not
written. Queries are turned into words here too, row by row, into a thread's own memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.conversion import store_elements
from saccade.codegen.cpu.emitter import I8, I16, I32, I64, Emitter, Value
from saccade.codegen.cpu.row_vectors import halves, pairs_along, rows_of_head, vector_of_row
from saccade.codegen.cpu.score_tiling import AttendTiling
from saccade.codegen.cpu.spec import KernelSpec
from saccade.codegen.cpu.tiling import ForwardTiling
from saccade.codegen.cpu.work import work_items
from saccade.ir.dtype import DType

__all__ = ["along", "emit_pack", "load_queries", "pack_across", "row_of_zeros", "words_across"]


def emit_pack(tiling: ForwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> None:
    """Emit the entry that packs the tiles named by `pack_items`."""
    e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
    arguments = Arguments(e, e.function.args[0], layout)
    kv_len = arguments.get("kv_len")
    zeros = row_of_zeros(e, tiling.spec)
    with work_items(e, arguments) as item:
        panel = e.load(e.nth(arguments.pointer("pack_items"), item, 8), I64)
        row, tile = _divided(e, panel, arguments.get("panels"))
        b, h = _divided(e, row, arguments.get("kv_heads"))
        first = e.builder.mul(tile, e.whole(tiling.keys))
        held = e.smaller(e.builder.sub(kv_len, first), e.whole(tiling.keys))

        def rows_of(tensor: str) -> Callable[[Value], Value]:
            row_at = rows_of_head(e, arguments, tensor, b, h)
            return lambda key: e.select(e.compare("<", key, held), row_at(e.builder.add(first, key)), zeros)

        keys = e.nth(arguments.pointer("packed_keys"), panel, tiling.key_panel)
        values = e.nth(arguments.pointer("packed_values"), panel, tiling.value_panel)
        pack_across(e, tiling, rows_of("key"), tiling.spec.key.head_dim, keys, held)
        _pack_values(e, tiling, rows_of("value"), values, held)
    e.finish()


def load_queries(
    e: Emitter,
    tiling: AttendTiling,
    row_at: Callable[[Value], Value],
    rows: Value,
    sign: Value,
    words: Value,
) -> None:
    """Write the query rows of an item as words, times `sign`; pad them to whole blocks with the last row.

    Args:
        e: The function.
        tiling: The sizes.
        row_at: The address of a row of the item.
        rows: int64, how many rows the item has.
        sign: Of the precise type, what each element is multiplied by.
        words: Where to write.
    """
    stored = tiling.spec.key.dtype
    word_type = DType.BFLOAT16 if tiling.pairs else tiling.spec.precise
    last = e.builder.sub(rows, e.whole(1))
    with e.loop(0, whole_blocks(e, tiling, rows)) as loop:
        source = row_at(e.smaller(loop.index, last))
        target = e.nth(words, loop.index, tiling.query_row)

        def convert(place: Value, held: int) -> None:
            value = vector_of_row(e, e.at(source, _times(e, place, stored.itemsize)), stored, held)
            at = e.at(target, _times(e, place, word_type.itemsize))
            store_elements(e, e.binary("fmul", value, sign), at, word_type)

        # The vector that passes the end of a row is overwritten by the next row.
        along(e, tiling.spec.key.head_dim, e.lanes, convert)


def whole_blocks(e: Emitter, tiling: AttendTiling, rows: Value) -> Value:
    """Return the rows of as many blocks as hold `rows`."""
    return e.rounded_up(rows, tiling.block_rows)


class KeyWords(Protocol):
    """What the packing of keys knows of a kernel's sizes."""

    @property
    def spec(self) -> KernelSpec:
        """What is written."""

    @property
    def pairs(self) -> bool:
        """Whether a word is a pair of bfloat16."""

    @property
    def lanes(self) -> int:
        """Words of a vector."""

    @property
    def word(self) -> int:
        """Bytes of a word."""

    @property
    def sub_keys(self) -> int:
        """Keys of a sub-panel."""


def pack_across(
    e: Emitter, tiling: KeyWords, row_at: Callable[[Value], Value], dim: int, panel: Value, held: Value
) -> None:
    """Write rows as a panel of columns: transpose square after square of words, a vector of keys at a time.

    Args:
        e: The function.
        tiling: The sizes.
        row_at: The address of a row of the tile; of zeros, for those from `held` on.
        dim: Elements of a row.
        panel: Where to write sub-panels, each [words of a row][sub_keys].
        held: int64, rows that the tile has; the last sub-panel is filled up.
    """
    lanes, sub_keys, stored, word = tiling.lanes, tiling.sub_keys, tiling.spec.key.dtype, tiling.word
    panel_bytes = -(-dim // (2 if tiling.pairs else 1)) * sub_keys * word
    step_row = sub_keys * word
    with e.loop(0, e.rounded_up(held, sub_keys), lanes) as loop:
        rows = [row_at(e.builder.add(loop.index, e.whole(lane))) for lane in range(lanes)]
        sub_panel, column = _divided(e, loop.index, e.whole(sub_keys))
        target = e.nth(panel, sub_panel, panel_bytes)
        target = e.nth(target, column, word)

        def square(place: Value, elements: int) -> None:
            offset = _times(e, place, stored.itemsize)
            if tiling.pairs:
                loaded = [pairs_along(e, e.at(row, offset), elements) for row in rows]
                step = e.builder.udiv(place, e.whole(2))
            else:
                loaded = [vector_of_row(e, e.at(row, offset), stored, elements) for row in rows]
                step = place
            at = e.nth(target, step, step_row)
            steps = -(-elements // (2 if tiling.pairs else 1))
            for number, vector in enumerate(_transposed(e, loaded)[:steps]):
                e.store(vector, e.at(at, number * step_row))

        along(e, dim, lanes * (2 if tiling.pairs else 1), square)


def _pack_values(
    e: Emitter, tiling: ForwardTiling, row_at: Callable[[Value], Value], panel: Value, held: Value
) -> None:
    """Copy the rows' vectors into the slices they belong to."""
    stored, step_keys = tiling.spec.key.dtype, tiling.step_keys
    with e.loop(0, e.rounded_up(held, tiling.sub_keys), step_keys) as loop:
        rows = [row_at(e.builder.add(loop.index, e.whole(key))) for key in range(step_keys)]
        step = e.builder.udiv(loop.index, e.whole(step_keys))

        def vector(place: Value, elements: int) -> None:
            number = e.builder.udiv(place, e.whole(tiling.lanes))
            slice_, column = _divided(e, number, e.whole(tiling.register.vectors))
            width = tiling.value_slice(tiling.register.vectors)
            at = e.nth(panel, slice_, width)
            narrow = e.compare("==", slice_, e.whole(tiling.value_slices))
            vectors = e.select(narrow, e.whole(tiling.value_rest), e.whole(tiling.register.vectors))
            column = e.builder.add(e.builder.mul(step, vectors), column)
            at = e.nth(at, column, tiling.vector)
            offset = _times(e, place, stored.itemsize)
            e.store(words_across(e, tiling, [e.at(row, offset) for row in rows], elements), at)

        along(e, tiling.spec.key.value_dim, tiling.lanes, vector)


def words_across(e: Emitter, tiling: KeyWords, addresses: list[Value], elements: int) -> Value:
    """Return a vector of one row's elements, or of pairs of two rows' elements; so many, then zeros."""
    stored = tiling.spec.key.dtype
    if not tiling.pairs:
        return vector_of_row(e, addresses[0], stored, elements)
    low, high = (e.builder.zext(halves(e, at, e.vector(I16), elements), e.vector(I32)) for at in addresses)
    return e.builder.or_(low, e.builder.shl(high, e.whole(16, e.vector(I32))))


def _transposed(e: Emitter, rows: list[Value]) -> list[Value]:
    """As many vectors as lanes, transposed by exchanging ever smaller squares (Eklundh's method)."""
    size = len(rows)
    width = size // 2
    while width:
        low = [lane if lane & width == 0 else lane - width + size for lane in range(size)]
        high = [lane + width if lane & width == 0 else lane + size for lane in range(size)]
        exchanged = list(rows)
        for row in range(size):
            if row & width == 0:
                upper, lower = rows[row], rows[row + width]
                exchanged[row] = e.shuffled(upper, low, lower)
                exchanged[row + width] = e.shuffled(upper, high, lower)
        rows, width = exchanged, width // 2
    return rows


def along(e: Emitter, length: int, step: int, body: Callable[[Value, int], None]) -> None:
    """Emit the body for places 0, step, ... of a row (and elements held), once more for the shorter end."""
    whole = length - length % step
    if whole:
        with e.loop(0, whole, step) as loop:
            body(loop.index, step)
    if whole < length:
        body(e.whole(whole), length - whole)


def row_of_zeros(e: Emitter, spec: KernelSpec) -> Value:
    """Return the address of what stands for a row after the last."""
    key, known = spec.key, e.module.globals.get("zeros")
    if known is not None:
        return e.at(known, 0)
    type_ = ir.ArrayType(I8, max(key.head_dim, key.value_dim) * key.dtype.itemsize)
    zeros = ir.GlobalVariable(e.module, type_, "zeros")
    zeros.linkage, zeros.global_constant, zeros.initializer = "internal", True, ir.Constant(type_, None)
    return e.at(zeros, 0)


def _times(e: Emitter, place: Value, size: int) -> Value:
    return e.builder.mul(place, e.whole(size))


def _divided(e: Emitter, number: Value, by: Value) -> tuple[Value, Value]:
    """Quotient and remainder of numbers that are not negative."""
    return e.builder.udiv(number, by), e.builder.urem(number, by)
