"""The entry `attend` of the backward kernel: chunks of keys walk the queries that see them.

    for each item: its partial dQ is set to 0
        for each key tile of it: its keys and values become words, dK and dV are set to 0
            for each query head that reads them, for each tile of queries that may see a key:
                what is visible -> S = Q·Kᵀ, dP = dO·Vᵀ -> P, dS -> dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K
            dK and dV become gradients

Every product is computed once. Gradients of captured tensors would join where dS is found: `RowChange` has
the score and the gradient of what the score mod made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward_chunk import (
    Chunk,
    Head,
    KeyTile,
    QueryTile,
    find_chunk,
    find_head,
    key_tile,
    query_tiles,
)
from saccade.codegen.cpu.backward_pack import pack_row
from saccade.codegen.cpu.backward_products import Products
from saccade.codegen.cpu.backward_rows import RowChange, weigh_row
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.dropout import keep_factors
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.epilogue import store_row
from saccade.codegen.cpu.packing import pack_across, row_of_zeros
from saccade.codegen.cpu.row_vectors import rows_of_head
from saccade.codegen.cpu.rows import OnVector
from saccade.codegen.cpu.tile_kinds import by_kind, is_plain
from saccade.codegen.cpu.tile_programs import PairPlaces, TilePrograms
from saccade.codegen.cpu.visibility import block_range, find_limits, find_visible, see_all, visible_lanes
from saccade.codegen.cpu.work import private_memory, work_items

__all__ = ["emit_attend"]


def emit_attend(tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> int:
    """Emit the entry and return the bytes of scratch memory that each thread needs."""
    return _Attend(tiling, module, layout, name).emit()


@final
@dataclass(frozen=True)
class _Seen:
    """The rows of a query tile, from the first block to the last that sees something of a key tile.

    Attributes:
        tile: The query tile.
        head: Whose it is.
        first: int64, the first of these rows.
        stop: int64, the row after the last; whole blocks.
        places: Where the pairs are, for rows of the tile.
    """

    tile: QueryTile
    head: Head
    first: Value
    stop: Value
    places: PairPlaces


@final
class _Attend:
    """The entry under construction."""

    def __init__(self, tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> None:
        self.products = Products(tiling, module)
        e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
        self.e, self.tiling = e, tiling
        self.arguments = Arguments(e, e.function.args[0], layout)
        self.programs = TilePrograms(e, tiling.spec, self.arguments)
        self.scale = self.arguments.real("scale")
        self.zeros = row_of_zeros(e, tiling.spec)
        self.scratch = tiling.scratch(self.programs.table_bytes)
        memory = private_memory(e, self.arguments, self.scratch.size)
        self.memory = {part: e.at(memory, offset) for part, offset in self.scratch.offsets.items()}

    def emit(self) -> int:
        e, get = self.e, self.arguments.get
        with work_items(e, self.arguments) as number:
            chunk = find_chunk(e, self.arguments, self.tiling, number)
            heads = e.builder.mul(get("kv_share"), get("group"))
            self._clear(chunk.partial, e.builder.mul(heads, chunk.rows), self.tiling.query_row)
            kv_batch = e.builder.udiv(chunk.kv_head, get("kv_heads"))
            kv_head = e.builder.urem(chunk.kv_head, get("kv_heads"))
            with e.loop(chunk.first_tile, chunk.stop_tile) as tile:
                keys = key_tile(e, self.arguments, tile.index)
                self._begin(keys, kv_batch, kv_head)
                with e.loop(0, heads) as own:
                    b = e.builder.add(
                        e.builder.mul(kv_batch, get("kv_share")), e.builder.udiv(own.index, get("group"))
                    )
                    h = e.builder.add(
                        e.builder.mul(kv_head, get("group")), e.builder.urem(own.index, get("group"))
                    )
                    head = find_head(e, self.arguments, self.tiling, b, h)
                    partial_ = e.nth(
                        chunk.partial, e.builder.mul(own.index, chunk.rows), self.tiling.query_row
                    )
                    self._head(chunk, keys, head, partial_)
                self._finish(keys, kv_batch, kv_head)
        e.finish()
        return self.scratch.size

    def _begin(self, keys: KeyTile, kv_batch: Value, kv_head: Value) -> None:
        """Make words of a tile's keys and values."""
        e, tiling, key = self.e, self.tiling, self.tiling.spec.key

        def rows_of(tensor: str) -> Callable[[Value], Value]:
            row_at = rows_of_head(e, self.arguments, tensor, kv_batch, kv_head)
            return lambda row: e.select(
                e.compare("<", row, keys.held), row_at(e.builder.add(keys.first_key, row)), self.zeros
            )

        key_at, value_at = rows_of("key"), rows_of("value")
        everything = e.whole(tiling.keys)
        pack_across(e, tiling, key_at, key.head_dim, self.memory["keys across"], everything)
        pack_across(e, tiling, value_at, key.value_dim, self.memory["values across"], everything)
        with e.loop(0, tiling.keys) as row:
            target = e.nth(self.memory["keys"], row.index, tiling.query_row)
            pack_row(e, tiling, key_at(row.index), key.head_dim, target)
        self._clear(self.memory["grad keys"], everything, tiling.query_row)
        self._clear(self.memory["grad values"], everything, tiling.grad_row)
        find_limits(e, tiling, self.memory["inside"], (e.whole(0), keys.held))

    def _finish(self, keys: KeyTile, kv_batch: Value, kv_head: Value) -> None:
        """Write the gradients of a tile's keys and values."""
        e, tiling, key = self.e, self.tiling, self.tiling.spec.key
        targets = (
            ("grad keys", "grad_key", tiling.query_row, key.head_dim, self.scale),
            ("grad values", "grad_value", tiling.grad_row, key.value_dim, None),
        )
        for part, tensor, size, dim, factor in targets:
            row_at = rows_of_head(e, self.arguments, tensor, kv_batch, kv_head)
            with e.loop(0, keys.held) as row:
                source = e.nth(self.memory[part], row.index, size)
                store_row(e, source, dim, factor, row_at(e.builder.add(keys.first_key, row.index)), key.dtype)

    def _head(self, chunk: Chunk, keys: KeyTile, head: Head, partial_: Value) -> None:
        """Walk the queries of a head that may see a key tile."""
        e = self.e
        self.programs.begin_head(self.memory, {"b": head.b, "h": head.h})
        self.programs.begin_tile(keys.first_key)
        with query_tiles(e, self.arguments, self.tiling, keys, head) as tile:
            seen, plain = self._find_seen(keys, head, tile)
            with e.when(e.compare("<", seen.first, seen.stop)):
                first = e.builder.add(tile.first, seen.first)
                own = e.builder.sub(first, chunk.first_query)
                self._multiply(keys, seen, plain, e.nth(partial_, own, self.tiling.query_row))

    def _find_seen(self, keys: KeyTile, head: Head, tile: QueryTile) -> tuple[_Seen, Value | None]:
        """Find what a query tile sees, and whether it is plain (BOOL; None: that is not known)."""
        e, tiling = self.e, self.tiling
        last = e.builder.sub(tile.rows, e.whole(1))
        places = PairPlaces(
            b=head.b,
            of_row=lambda row: (head.h, e.builder.add(tile.first, row)),
            row=lambda row: e.smaller(row, last),
            first_key=keys.first_key,
        )

        def queries_of(rows: Value) -> dict[str, Value]:
            return {"q_idx": e.binary("add", e.smaller(rows, last), tile.first)}

        self.programs.begin_rows(tile.rows, queries_of)
        limits = (e.whole(0), keys.held)
        plain = is_plain(e, self.programs, limits, tiling.keys, tile.partial)
        inside, visible, ranges = (self.memory[part] for part in ("inside", "visible", "ranges"))

        def mask_of_row(row: Value) -> OnVector:
            return self.programs.mask_of_row(places, row, tile.partial)

        by_kind(
            e,
            plain,
            lambda: see_all(e, tiling, ranges, tile.padded),
            lambda: find_visible(e, tiling, inside, visible, ranges, tile.padded, limits, mask_of_row),
        )
        with e.loop(0, tile.padded, tiling.block_rows, [tile.padded, e.whole(0)]) as block:
            first, stop = block.values
            sees = e.compare("<", *block_range(e, tiling, ranges, block.index))
            after = e.builder.add(block.index, e.whole(tiling.block_rows))
            block.hand_over(
                [
                    e.select(sees, e.smaller(first, block.index), first),
                    e.select(sees, after, stop),
                ]
            )
        first, stop = block.results
        return _Seen(tile, head, first, stop, places), plain

    def _multiply(self, keys: KeyTile, seen: _Seen, plain: Value | None, queries_grad: Value) -> None:
        """Find scores, weights and their gradients, and add what they give."""
        e, tiling, memory = self.e, self.tiling, self.memory
        rows = e.builder.sub(seen.stop, seen.first)
        columns = e.rounded_up(keys.held, tiling.range_keys)
        number = e.builder.add(seen.head.first_row, e.builder.add(seen.tile.first, seen.first))
        queries = e.nth(self.arguments.pointer("packed_queries"), number, tiling.query_row)
        outs = e.nth(self.arguments.pointer("packed_grads"), number, tiling.grad_row)
        scores, grads = (e.nth(memory[part], seen.first, tiling.score_row) for part in ("scores", "grads"))
        products, none = self.products, e.whole(0)
        products.scores(e, scores, queries, memory["keys across"], rows, none)
        products.grads(e, grads, outs, memory["values across"], rows, none)
        by_kind(
            e,
            plain,
            lambda: self._weigh(keys, seen, columns, hidden=False),
            lambda: self._weigh(keys, seen, columns, hidden=True),
        )
        products.values(e, memory["grad values"], scores, outs, keys.held, rows)
        products.keys(e, memory["grad keys"], grads, queries, keys.held, rows)
        products.queries(e, queries_grad, grads, memory["keys"], rows, columns)

    def _weigh(self, keys: KeyTile, seen: _Seen, columns: Value, *, hidden: bool) -> None:
        e, tiling = self.e, self.tiling
        held = e.smaller(seen.stop, seen.tile.rows)
        with e.loop(seen.first, held) as row:
            scores, grads = (
                e.nth(self.memory[part], row.index, tiling.score_row) for part in ("scores", "grads")
            )
            weigh_row(e, scores, grads, columns, self._change(keys, seen, row.index, hidden=hidden))
        # Rows after the last fill up its block, and have no part in sums over rows.
        size = e.builder.mul(e.builder.sub(seen.stop, held), e.whole(tiling.score_row))
        for part in ("scores", "grads"):
            begin = e.nth(self.memory[part], held, tiling.score_row)
            with e.loop(0, size, tiling.vector) as place:
                e.store(e.splat(e.real(0.0)), e.at(begin, place.index))

    def _change(self, keys: KeyTile, seen: _Seen, row: Value, *, hidden: bool) -> RowChange:
        e, key, programs = self.e, self.tiling.spec.key, self.programs
        query = e.builder.add(seen.tile.first, row)
        number = e.builder.add(seen.head.first_row, query)
        lse, delta = (
            e.load(e.nth(self.arguments.pointer(table), number, self.tiling.word), e.precise_type)
            for table in ("row_lse", "row_delta")
        )
        factor = None
        if key.dropout:
            factor = keep_factors(
                e, self.arguments, self.memory["kept"], seen.head.number, query, keys.first_key, keys.held
            )
        return RowChange(
            lse=lse,
            delta=delta,
            scale=self.scale,
            score=programs.score_of_row(seen.places, row) if programs.has_score else None,
            gradient=programs.gradient_of_row(seen.places, row) if programs.has_score else None,
            visible=partial(visible_lanes, e, self.tiling, self.memory["visible"], row) if hidden else None,
            factor=factor,
        )

    def _clear(self, memory: Value, rows: Value, size: int) -> None:
        """Set rows of a number of bytes to 0."""
        e = self.e
        with e.loop(0, e.builder.mul(rows, e.whole(size)), self.tiling.vector) as place:
            e.store(e.splat(e.real(0.0)), e.at(memory, place.index))
