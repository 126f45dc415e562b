"""The entry `attend`: items of query rows walk what they see of the packed keys and values.

    for each item: its queries become words
        for each range of keys, for each key tile in it
            for each chunk of rows:
                what is visible -> Q·K -> maxima -> alpha -> weights -> acc = alpha·acc + P·V
        the accumulator becomes the output

A tile is *plain* where all its pairs are visible: then nothing is asked of masks. Only the passes that look
for visible pairs and for maxima exist twice; the rest is the same code for plain tiles and others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.attend_entry import AttendEntry
from saccade.codegen.cpu.dropout import kept_weights
from saccade.codegen.cpu.emitter import Value
from saccade.codegen.cpu.epilogue import Extras, finish_rows, store_rows
from saccade.codegen.cpu.packing import load_queries
from saccade.codegen.cpu.rows import OnVector, RowTables, rescale, row_maximum, start_rows, weigh
from saccade.codegen.cpu.score_tiling import VECTORS_AT_ONCE
from saccade.codegen.cpu.tile_kinds import by_kind, change_of_row, is_plain
from saccade.codegen.cpu.tile_product import TileProduct
from saccade.codegen.cpu.tile_programs import PairPlaces
from saccade.codegen.cpu.tiling import ForwardTiling
from saccade.codegen.cpu.visibility import block_range, find_limits, find_visible, see_all, visible_lanes
from saccade.codegen.cpu.work import work_items
from saccade.codegen.cpu.work_item import Item, KeyTile, find_item, key_tiles, rows_of
from saccade.ir.dtype import DType

__all__ = ["emit_attend"]


def emit_attend(tiling: ForwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> int:
    """Emit the entry and return the bytes of scratch memory that each thread needs."""
    return _Attend(tiling, module, layout, name).emit()


@final
@dataclass(frozen=True)
class _Chunk:
    """Rows whose scores are in memory; addresses are those of the first one.

    Rows of a chunk are numbered from 0.
    """

    first: Value  # int64, its first row within the item
    rows: Value  # int64, whole blocks
    queries: Value
    acc: Value
    tables: RowTables
    places: PairPlaces


@final
@dataclass(frozen=True)
class _Block:
    """Rows of a chunk that one product takes."""

    first: Value  # int64, within the chunk
    columns: tuple[Value, Value]  # int64, the first that is seen, and after the last


@final
class _Attend(AttendEntry[ForwardTiling]):
    """The entry under construction."""

    row_variables = ("q_idx",)

    def emit(self) -> int:
        with work_items(self.e, self.arguments) as number:
            item = find_item(self.e, self.arguments, self.tiling, number)
            self._begin(item)
            with key_tiles(self.e, self.arguments, self.tiling, item) as tile:
                self._tile(item, tile)
            self._finish(item)
        self.e.finish()
        return self.scratch.size

    def _begin(self, item: Item) -> None:
        e, tiling = self.e, self.tiling
        queries = rows_of(e, self.arguments, "query", item)
        load_queries(e, tiling, queries, item.rows, self.scale.sign, self.memory["queries"])
        start_rows(e, self.tables, item.padded)
        zero = e.splat(e.real(0.0))
        with e.loop(0, e.builder.mul(item.padded, e.whole(tiling.acc_row)), tiling.vector) as place:
            e.store(zero, e.at(self.memory["acc"], place.index))
        last = e.builder.sub(item.rows, e.whole(1))

        def queries_of(rows: Value) -> dict[str, Value]:
            return {"q_idx": e.binary("add", e.smaller(rows, last), item.first)}

        self.programs.begin_item(self.memory, {"b": item.b, "h": item.h}, item.rows, queries_of)

    def _finish(self, item: Item) -> None:
        e, tiling, key = self.e, self.tiling, self.tiling.spec.key
        finish_rows(e, self.tables, item.rows, self._extras(item))
        out = rows_of(e, self.arguments, "out", item)
        acc = self.memory["acc"]
        store_rows(e, acc, tiling.acc_row, key.value_dim, self.tables, item.rows, out, key.dtype)

    def _extras(self, item: Item) -> Extras:
        e, key = self.e, self.tiling.spec.key
        row = e.builder.add(e.builder.mul(item.head, self.arguments.get("q_len")), item.first)

        def number_at(tensor: str, index: Value) -> Value:
            return e.nth(self.arguments.pointer(tensor), index, self.tiling.word)

        return Extras(
            keep_factor=self.arguments.real("keep_factor") if key.dropout else None,
            sink=e.load(number_at("sinks", item.h), e.precise_type) if key.sinks else None,
            lse=number_at("lse", row) if key.outputs.lse else None,
            max_scores=number_at("max_scores", row) if key.outputs.max_scores else None,
            unit=e.real(1.0) if self.programs.has_score else self.scale.unit,
        )

    def _tile(self, item: Item, tile: KeyTile) -> None:
        e = self.e
        plain = is_plain(e, self.programs, tile.limits, self.tiling.keys, tile.partial)
        self.programs.begin_tile(tile.first_key, plain)
        find_limits(e, self.tiling, self.memory["inside"], tile.limits)
        with e.loop(0, item.padded, self.tiling.chunk_rows) as loop:
            chunk = self._find_chunk(item, tile, loop.index)
            ranges = self.memory["ranges"]
            by_kind(
                e,
                plain,
                lambda: see_all(e, self.tiling, ranges, chunk.rows),
                lambda: self._find_visible(tile, chunk),
            )
            self._multiply_keys(tile, chunk)
            by_kind(
                e,
                plain,
                lambda: self._find_maxima(chunk, hidden=False),
                lambda: self._find_maxima(chunk, hidden=True),
            )
            rescale(e, chunk.tables, chunk.rows, self.scale.factor)
            with self._blocks(chunk) as block:
                self._weigh(item, tile, chunk, block)
                self._multiply_values(tile, chunk, block)

    def _find_chunk(self, item: Item, tile: KeyTile, first: Value) -> _Chunk:
        e, tiling = self.e, self.tiling
        last = e.builder.sub(item.rows, e.whole(1))
        return _Chunk(
            first=first,
            rows=e.smaller(e.builder.sub(item.padded, first), e.whole(tiling.chunk_rows)),
            queries=e.nth(self.memory["queries"], first, tiling.query_row),
            acc=e.nth(self.memory["acc"], first, tiling.acc_row),
            tables=self.tables.of_row(e, first),
            places=PairPlaces(
                b=item.b,
                of_row=lambda row: (item.h, e.builder.add(item.first, row)),
                row=lambda row: e.smaller(e.builder.add(first, row), last),
                first_key=tile.first_key,
            ),
        )

    def _find_visible(self, tile: KeyTile, chunk: _Chunk) -> None:
        def mask_of_row(row: Value) -> OnVector:
            return self.programs.mask_of_row(chunk.places, row, tile.partial)

        inside, visible, ranges = (self.memory[part] for part in ("inside", "visible", "ranges"))
        find_visible(self.e, self.tiling, inside, visible, ranges, chunk.rows, tile.limits, mask_of_row)

    def _multiply_keys(self, tile: KeyTile, chunk: _Chunk) -> None:
        """Find the scores of what blocks see, by sub-panels; of one that is seen in part, by its vectors."""
        e, tiling = self.e, self.tiling
        with (
            e.loop(0, tiling.keys, tiling.sub_keys) as column,
            e.loop(0, chunk.rows, tiling.block_rows) as row,
        ):
            number = e.builder.udiv(column.index, e.whole(tiling.sub_keys))
            panel = e.nth(tile.keys, number, tiling.sub_panel)
            queries = e.nth(chunk.queries, row.index, tiling.query_row)
            first, stop = block_range(e, tiling, self.memory["ranges"], row.index)
            after = e.builder.add(column.index, e.whole(tiling.sub_keys))
            first, stop = e.larger(first, column.index), e.smaller(stop, after)
            seen = e.builder.sub(stop, first)
            whole = e.compare("==", seen, e.whole(tiling.sub_keys))
            with e.builder.if_else(whole) as (all_seen, part_seen):
                with all_seen:
                    scores = self.scores_at(row.index, column.index)
                    self._key_product(tiling.register.vectors).emit(
                        e, queries, panel, scores, tiling.key_steps
                    )
                with part_seen, e.loop(first, stop, tiling.range_keys) as part:
                    within = e.builder.sub(part.index, column.index)
                    keys = e.nth(panel, within, tiling.word)
                    scores = self.scores_at(row.index, part.index)
                    self._key_product(VECTORS_AT_ONCE).emit(e, queries, keys, scores, tiling.key_steps)

    def _key_product(self, vectors: int) -> TileProduct:
        tiling = self.tiling
        return TileProduct(
            rows=tiling.block_rows,
            vectors=vectors,
            pairs=tiling.pairs,
            a_row=tiling.query_row,
            a_step=tiling.word,
            b_step=tiling.register.vectors * tiling.vector,
            c_row=tiling.score_row,
        )

    def _find_maxima(self, chunk: _Chunk, *, hidden: bool) -> None:
        e = self.e
        with self._blocks(chunk) as block, self._rows(block) as row:
            visible = partial(visible_lanes, e, self.tiling, self.memory["visible"], row) if hidden else None
            change = change_of_row(e, self.programs, chunk.places, row, self.scale.unit, visible)
            scores, tables = self.scores_at(row), chunk.tables.of_row(e, row)
            row_maximum(e, scores, *block.columns, tables, change)

    def _weigh(self, item: Item, tile: KeyTile, chunk: _Chunk, block: _Block) -> None:
        e, weights = self.e, DType.BFLOAT16 if self.tiling.pairs else self.tiling.spec.precise
        with self._rows(block) as row:
            keep = None
            if self.tiling.spec.key.dropout:
                query = e.builder.add(item.first, e.builder.add(chunk.first, row))
                bits, first_key = self.memory["kept"], tile.first_key
                keep = kept_weights(e, self.arguments, bits, item.head, query, first_key, block.columns)
            scores, tables = self.scores_at(row), chunk.tables.of_row(e, row)
            weigh(e, scores, *block.columns, tables, self.scale.factor, weights, keep)

    def _multiply_values(self, tile: KeyTile, chunk: _Chunk, block: _Block) -> None:
        e, tiling, whole = self.e, self.tiling, self.tiling.register.vectors
        first, stop = (e.builder.udiv(column, e.whole(tiling.step_keys)) for column in block.columns)
        weights = e.nth(self.scores_at(block.first), first, tiling.word)
        acc = e.nth(chunk.acc, block.first, tiling.acc_row)
        alpha = chunk.tables.of_row(e, block.first).alpha

        def multiply(vectors: int, slice_: Value) -> None:
            product = TileProduct(
                rows=tiling.block_rows,
                vectors=vectors,
                pairs=tiling.pairs,
                a_row=tiling.score_row,
                a_step=tiling.word,
                b_step=vectors * tiling.vector,
                c_row=tiling.acc_row,
            )
            values = e.nth(tile.values, slice_, tiling.value_slice(whole))
            values = e.nth(values, first, product.b_step)
            target = e.nth(acc, slice_, whole * tiling.vector)
            product.emit(e, weights, values, target, e.builder.sub(stop, first), alpha)

        if tiling.value_slices:
            with e.loop(0, tiling.value_slices) as slice_:
                multiply(whole, slice_.index)
        if tiling.value_rest:
            multiply(tiling.value_rest, e.whole(tiling.value_slices))

    @contextmanager
    def _blocks(self, chunk: _Chunk) -> Iterator[_Block]:
        """Repeat the body for every block of rows that sees something."""
        e, tiling = self.e, self.tiling
        with e.loop(0, chunk.rows, tiling.block_rows) as loop:
            first, stop = block_range(e, tiling, self.memory["ranges"], loop.index)
            with e.when(e.compare("<", first, stop)):
                yield _Block(loop.index, (first, stop))

    @contextmanager
    def _rows(self, block: _Block) -> Iterator[Value]:
        """Repeat the body for every row of a block."""
        after = self.e.builder.add(block.first, self.e.whole(self.tiling.block_rows))
        with self.e.loop(block.first, after) as row:
            yield row.index
