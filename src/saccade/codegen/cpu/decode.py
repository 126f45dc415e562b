"""The entry `attend` of the decode kernel: few query rows meet a range of keys, each key and value read once.

    for each item, a range of keys of one kv head: the queries of its head group become words
        for each range of the mask in it, for each key tile
            what is visible -> Q·K -> maxima -> alpha -> weights -> acc = alpha·acc + P·V
        the sums become the item's partial result, which `decode_merge` joins with the others

Keys and values are read in place, from their stored type. A tile's rows are asked for while the one before it
is multiplied. No row outside the range of a tile is ever read: columns there stand for the nearest key in it,
and have no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.attend_entry import AttendEntry
from saccade.codegen.cpu.decode_rows import HeadGroup
from saccade.codegen.cpu.decode_tiling import DecodeTiling
from saccade.codegen.cpu.dropout import kept_weights
from saccade.codegen.cpu.emitter import I64, Emitter, Value
from saccade.codegen.cpu.key_ranges import KeyRange, key_ranges, tile_limits
from saccade.codegen.cpu.packing import load_queries
from saccade.codegen.cpu.row_products import KeyProduct, ordered, prefetch_row, value_steps
from saccade.codegen.cpu.row_vectors import rows_of_head
from saccade.codegen.cpu.rows import OnVector, rescale, row_maximum, start_rows, weigh
from saccade.codegen.cpu.tile_kinds import by_kind, change_of_row, is_plain
from saccade.codegen.cpu.tile_product import TileProduct
from saccade.codegen.cpu.tile_programs import PairPlaces
from saccade.codegen.cpu.visibility import block_range, find_limits, find_visible, see_all, visible_lanes
from saccade.codegen.cpu.work import work_items
from saccade.ir.dtype import DType

__all__ = ["emit_attend"]

_ITEM = 24  # bytes: kv head, first key, key after the last


def emit_attend(tiling: DecodeTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> int:
    """Emit the entry and return the bytes of scratch memory that each thread needs."""
    return _Attend(tiling, module, layout, name).emit()


@final
@dataclass(frozen=True)
class _Item:
    """A range of keys of one kv head."""

    group: HeadGroup
    window: tuple[Value, Value]  # int64, its first key, and the key after the last
    key_at: Callable[[Value], Value]  # from a key to the address of its row
    value_at: Callable[[Value], Value]


@final
@dataclass(frozen=True)
class _KeyTile:
    """A tile of keys as an item meets it."""

    first_key: Value  # int64, the key of column 0
    limits: tuple[Value, Value]  # int64, the first column within the range, and the column after the last
    partial: Value  # BOOL
    places: PairPlaces

    def key(self, e: Emitter, column: Value) -> Value:
        """The key of a column, or the nearest one within the range."""
        low, high = self.limits
        column = e.smaller(e.larger(column, low), e.builder.sub(high, e.whole(1)))
        return e.builder.add(self.first_key, column)


@final
class _Attend(AttendEntry[DecodeTiling]):
    """The entry under construction."""

    row_variables = ("h", "q_idx")

    def emit(self) -> int:
        e = self.e
        with work_items(e, self.arguments) as number:
            item = self._find_item(number)
            self._begin(item)
            with key_ranges(e, self.arguments, item.group.stored_runs(e, self.arguments)) as range_:
                self._walk(item, range_)
            self._finish(number)
        e.finish()
        return self.scratch.size

    def _find_item(self, number: Value) -> _Item:
        e = self.e
        entry = e.nth(self.arguments.pointer("items"), number, _ITEM)
        head, first, after = (e.load(e.at(entry, 8 * part), I64) for part in range(3))
        group = HeadGroup.of(e, self.arguments, head)
        return _Item(
            group,
            (first, after),
            rows_of_head(e, self.arguments, "key", group.b, group.kv_head),
            rows_of_head(e, self.arguments, "value", group.b, group.kv_head),
        )

    def _begin(self, item: _Item) -> None:
        e, tiling, group = self.e, self.tiling, item.group
        queries, zero = self.memory["queries"], e.splat(e.real(0.0))
        for part, size in (("queries", tiling.query_row), ("acc", tiling.acc_row)):
            with e.loop(0, tiling.rows * size, tiling.vector) as place:
                e.store(zero, e.at(self.memory[part], place.index))
        row_at = group.rows_of(e, self.arguments, "query")
        load_queries(e, tiling, row_at, group.rows, self.scale.sign, queries)
        start_rows(e, self.tables, tiling.rows)

        def rows_of(rows: Value) -> dict[str, Value]:
            head, query = group.places(e, e.smaller(rows, e.builder.sub(group.rows, e.whole(1))))
            return {"h": head, "q_idx": query}

        self.programs.begin_item(self.memory, {"b": group.b}, group.rows, rows_of)

    def _walk(self, item: _Item, range_: KeyRange) -> None:
        """Walk the key tiles of a range, as far as they are the item's."""
        e, keys, group = self.e, self.e.whole(self.tiling.keys), item.group
        first, after = item.window
        start, stop = e.larger(range_.start, first), e.smaller(range_.stop, after)
        range_ = KeyRange(start, stop, range_.partial)
        begin = e.builder.mul(e.builder.udiv(start, keys), keys)
        begin = e.select(e.compare("<", start, stop), begin, stop)
        with e.loop(begin, stop, keys) as loop:
            last = e.builder.sub(group.rows, e.whole(1))
            places = PairPlaces(
                b=group.b,
                of_row=lambda row: group.places(e, row),
                row=lambda row: e.smaller(row, last),
                first_key=loop.index,
            )
            limits = tile_limits(e, range_, loop.index, self.tiling.keys)
            self._tile(item, _KeyTile(loop.index, limits, range_.partial, places))

    def _tile(self, item: _Item, tile: _KeyTile) -> None:
        e = self.e
        plain = is_plain(e, self.programs, tile.limits, self.tiling.keys, tile.partial)
        ranges, rows = self.memory["ranges"], e.whole(self.tiling.rows)
        self.programs.begin_tile(tile.first_key, plain)
        by_kind(
            e,
            plain,
            lambda: see_all(e, self.tiling, ranges, rows),
            lambda: self._find_visible(tile),
        )
        columns = block_range(e, self.tiling, ranges, e.whole(0))
        with e.when(e.compare("<", *columns)):
            self._multiply_keys(item, tile, columns)
            by_kind(
                e,
                plain,
                lambda: self._find_maxima(tile, columns, hidden=False),
                lambda: self._find_maxima(tile, columns, hidden=True),
            )
            rescale(e, self.tables, rows, self.scale.factor)
            self._weigh(tile, columns)
            self._multiply_values(item, tile, columns)

    def _find_visible(self, tile: _KeyTile) -> None:
        def mask_of_row(row: Value) -> OnVector:
            return self.programs.mask_of_row(tile.places, row, tile.partial)

        e, tiling = self.e, self.tiling
        inside, visible, ranges = (self.memory[part] for part in ("inside", "visible", "ranges"))
        find_limits(e, tiling, inside, tile.limits)
        find_visible(e, tiling, inside, visible, ranges, e.whole(tiling.rows), tile.limits, mask_of_row)

    def _multiply_keys(self, item: _Item, tile: _KeyTile, columns: tuple[Value, Value]) -> None:
        e, tiling = self.e, self.tiling
        product = KeyProduct(tiling)
        size = tiling.spec.key.value_dim * tiling.spec.key.dtype.itemsize
        with e.loop(*columns, tiling.dot_keys) as block:
            keys = [
                tile.key(e, e.builder.add(block.index, e.whole(number))) for number in range(tiling.dot_keys)
            ]
            for key in keys:
                prefetch_row(e, item.value_at(key), size)
            with e.loop(0, tiling.rows, tiling.product_rows) as row:
                queries = e.nth(self.memory["queries"], row.index, tiling.query_row)
                scores = self.scores_at(row.index, block.index)
                product.emit(e, queries, [item.key_at(key) for key in keys], scores)

    def _find_maxima(self, tile: _KeyTile, columns: tuple[Value, Value], *, hidden: bool) -> None:
        e = self.e
        with e.loop(0, self.tiling.rows) as loop:
            row = loop.index
            visible = partial(visible_lanes, e, self.tiling, self.memory["visible"], row) if hidden else None
            change = change_of_row(e, self.programs, tile.places, row, self.scale.unit, visible)
            row_maximum(e, self.scores_at(row), *columns, self.tables.of_row(e, row), change)

    def _weigh(self, tile: _KeyTile, columns: tuple[Value, Value]) -> None:
        e, tiling = self.e, self.tiling
        weights = DType.BFLOAT16 if tiling.pairs else tiling.spec.precise
        with e.loop(0, tiling.rows) as row:
            keep = self._keep(tile, row.index, columns) if tiling.spec.key.dropout else None
            scores, tables = self.scores_at(row.index), self.tables.of_row(e, row.index)
            weigh(e, scores, *columns, tables, self.scale.factor, weights, keep)

    def _keep(self, tile: _KeyTile, row: Value, columns: tuple[Value, Value]) -> OnVector:
        e = self.e
        head, query = tile.places.of_row(row)
        head = e.builder.add(e.builder.mul(tile.places.b, self.arguments.get("q_heads")), head)
        table = self.memory["kept"]
        return kept_weights(e, self.arguments, table, head, query, tile.first_key, columns)

    def _multiply_values(self, item: _Item, tile: _KeyTile, columns: tuple[Value, Value]) -> None:
        """Add the weighted values, by slices of columns that stay in registers over the whole tile."""
        tiling, value_dim = self.tiling, self.tiling.spec.key.value_dim
        whole = tiling.slice_vectors * tiling.lanes
        rest = value_dim % whole
        if value_dim > rest:
            with self.e.loop(0, value_dim - rest, whole) as slice_:
                self._multiply_slice(item, tile, columns, slice_.index, whole)
        if rest:
            self._multiply_slice(item, tile, columns, self.e.whole(value_dim - rest), rest)

    def _multiply_slice(
        self, item: _Item, tile: _KeyTile, columns: tuple[Value, Value], place: Value, held: int
    ) -> None:
        """The same for the slice of so many elements whose first is `place`."""
        e, tiling = self.e, self.tiling
        first, stop = columns
        pace, itemsize = e.whole(tiling.step_keys), tiling.spec.key.dtype.itemsize
        offset = e.builder.mul(place, e.whole(itemsize))

        def row_at(column: Value) -> Value:
            key = tile.key(e, column)
            following = item.key_at(e.builder.add(key, e.whole(tiling.keys)))
            prefetch_row(e, e.at(following, offset), held * itemsize)
            return item.value_at(key)

        values = value_steps(e, tiling, row_at, first, offset, held)
        product = TileProduct(
            rows=tiling.product_rows,
            vectors=-(-held // tiling.elements) * (tiling.elements // tiling.lanes),
            pairs=tiling.pairs,
            a_row=tiling.score_row,
            a_step=tiling.word,
            b_step=0,
            c_row=tiling.acc_row,
        )
        steps = e.builder.udiv(e.builder.sub(stop, first), pace)
        with e.loop(0, tiling.rows, tiling.product_rows) as loop:
            row = loop.index
            weights = e.nth(self.scores_at(row), e.builder.udiv(first, pace), tiling.word)
            acc = e.nth(e.nth(self.memory["acc"], row, tiling.acc_row), place, tiling.word)
            product.emit(e, weights, values, acc, steps, self.tables.of_row(e, row).alpha)

    def _finish(self, number: Value) -> None:
        """Write the partial result."""
        e, tiling = self.e, self.tiling
        begin = e.nth(self.arguments.pointer("partials"), number, tiling.partial.size)
        target = {part: e.at(begin, offset) for part, offset in tiling.partial.offsets.items()}
        turn = tiling.elements // tiling.lanes * tiling.vector
        with e.loop(0, tiling.rows * tiling.acc_row, turn) as place:
            source = e.at(self.memory["acc"], place.index)
            offsets = range(0, turn, tiling.vector)
            vectors = ordered(e, tiling, [e.load_vector(e.at(source, offset)) for offset in offsets])
            for offset, vector in zip(offsets, vectors, strict=True):
                e.store(vector, e.at(e.at(target["acc"], place.index), offset))
        with e.loop(0, tiling.rows) as row:
            here = self.tables.of_row(e, row.index)
            total = e.fold(e.load_vector(here.row_sum), lambda a, b: e.binary("fadd", a, b))
            e.store(total, e.nth(target["row_sum"], row.index, tiling.word))
            row_max = e.load(here.row_max, e.precise_type)
            e.store(row_max, e.nth(target["row_max"], row.index, tiling.word))
