"""The entry `attend` of the backward kernel: chunks of keys walk the queries that see them.

    for each item: its partial dQ is set to 0
        for each key tile of it: its keys and values become words, dK and dV are set to 0
            for each query head that reads them, for each tile of queries that may see a key:
                what is visible -> S = Q·Kᵀ, dP = dO·Vᵀ -> P, dS -> dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K
            dK and dV become gradients

Every product is computed once, and only if a gradient that is wanted needs it: the values' needs S and dV.
What pairs contribute to the gradients of captured tensors joins where dS is found; see `backward_captures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward_captures import CaptureSums
from saccade.codegen.cpu.backward_chunk import (
    Chunk,
    Head,
    KeyTile,
    QueryTile,
    chunks_of_item,
    find_chunk,
    find_head,
    key_tile,
    query_tiles,
)
from saccade.codegen.cpu.backward_pack import pack_step
from saccade.codegen.cpu.backward_products import Products
from saccade.codegen.cpu.backward_rows import RowChange, weigh_rows
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.conversion import store_elements
from saccade.codegen.cpu.dropout import keep_factors
from saccade.codegen.cpu.emitter import BF16, I16, I32, Emitter, Value
from saccade.codegen.cpu.epilogue import store_row
from saccade.codegen.cpu.packing import pack_across, row_of_zeros
from saccade.codegen.cpu.row_vectors import rows_of_head
from saccade.codegen.cpu.rows import OnVector
from saccade.codegen.cpu.tile_kinds import by_kind, is_plain
from saccade.codegen.cpu.tile_programs import PairPlaces, TilePrograms
from saccade.codegen.cpu.visibility import block_range, find_limits, find_visible, see_all, visible_lanes
from saccade.codegen.cpu.work import private_memory, work_items
from saccade.ir.dtype import DType

__all__ = ["Attended", "emit_attend"]


@final
@dataclass(frozen=True)
class Attended:
    """What a caller must know of the entry.

    Attributes:
        scratch_bytes: Private memory of a thread.
        sum_types: The type of the sums of each capture whose gradient is wanted, by slot.
    """

    scratch_bytes: int
    sum_types: Mapping[int, DType]


def emit_attend(tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> Attended:
    """Emit the entry."""
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
        self.e, self.tiling, self.wanted = e, tiling, tiling.wanted
        self.arguments = Arguments(e, e.function.args[0], layout)
        self.programs = TilePrograms(e, tiling.spec, self.arguments, row_variables=("q_idx",))
        self.scale = self.arguments.real("scale")
        self.zeros = row_of_zeros(e, tiling.spec)
        self.sums: CaptureSums | None = None
        if layout.sums:
            self.sums = CaptureSums(e, tiling, self.programs.gradient_code, self.arguments)
        parts = {} if self.sums is None else self.sums.part_bytes
        self.scratch = tiling.scratch({**self.programs.table_bytes, **parts})
        memory = private_memory(e, self.arguments, self.scratch.size)
        self.memory = {part: e.at(memory, offset) for part, offset in self.scratch.offsets.items()}

    def emit(self) -> Attended:
        e = self.e
        with work_items(e, self.arguments) as number:
            if self.sums is None:
                self._chunk(number)
            else:
                self.sums.begin_item(number, self.memory)
                with chunks_of_item(e, self.arguments, number) as chunk:
                    self._chunk(chunk)
        e.finish()
        return Attended(self.scratch.size, {} if self.sums is None else self.sums.types)

    def _chunk(self, number: Value) -> None:
        """Walk a chunk."""
        e, get = self.e, self.arguments.get
        chunk = find_chunk(e, self.arguments, self.tiling, number)
        heads = e.builder.mul(get("kv_share"), get("group"))
        if self.wanted.query:
            self._clear(chunk.partial, e.builder.mul(heads, chunk.rows), self.tiling.partial_row)
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
                partial_ = e.nth(chunk.partial, e.builder.mul(own.index, chunk.rows), self.tiling.partial_row)
                self._head(chunk, keys, head, partial_)
            self._finish(keys, kv_batch, kv_head)

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
        if self.wanted.of_scores:
            pack_across(e, tiling, value_at, key.value_dim, self.memory["values across"], everything)
        if self.wanted.query:
            with e.loop(0, tiling.keys, tiling.step_rows) as row:
                step = e.builder.udiv(row.index, e.whole(tiling.step_rows))
                sources = [key_at(each) for each in self._rows_of_step(row.index)]
                target = e.nth(self.memory["keys"], step, tiling.query_row)
                pack_step(e, tiling, sources, key.head_dim, target)
        if self.wanted.key:
            self._clear(self.memory["grad keys"], everything, tiling.query_row)
        if self.wanted.value:
            self._clear(self.memory["grad values"], everything, tiling.grad_row)
        find_limits(e, tiling, self.memory["inside"], (e.whole(0), keys.held))

    def _finish(self, keys: KeyTile, kv_batch: Value, kv_head: Value) -> None:
        """Write the gradients of a tile's keys and values."""
        e, tiling, key = self.e, self.tiling, self.tiling.spec.key
        targets = (
            (self.wanted.key, "grad keys", "grad_key", tiling.query_row, key.head_dim, self.scale),
            (self.wanted.value, "grad values", "grad_value", tiling.grad_row, key.value_dim, None),
        )
        for is_wanted, part, tensor, size, dim, factor in targets:
            if not is_wanted:
                continue
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
                self._multiply(keys, seen, plain, e.nth(partial_, own, self.tiling.partial_row))

    def _find_seen(self, keys: KeyTile, head: Head, tile: QueryTile) -> tuple[_Seen, Value | None]:
        """Find what a query tile sees, and whether it is plain (BOOL; None: that is not known)."""
        e, tiling = self.e, self.tiling
        last = e.builder.sub(tile.rows, e.whole(1))
        places = PairPlaces(
            b=head.b,
            of_row=lambda row: (head.h, e.builder.add(tile.first, row)),
            row=lambda row: e.larger(e.smaller(row, last), tile.low),
            first_key=keys.first_key,
        )

        def queries_of(rows: Value) -> dict[str, Value]:
            return {"q_idx": e.binary("add", e.larger(e.smaller(rows, last), tile.low), tile.first)}

        self.programs.begin_rows(tile.rows, queries_of)
        limits = (e.whole(0), keys.held)
        plain = is_plain(e, self.programs, limits, tiling.keys, tile.partial)
        if plain is not None and tiling.pairs:
            # A row without its neighbour leaves half of a pair to be hidden.
            odd = e.builder.or_(tile.low, e.builder.urem(tile.rows, e.whole(tiling.step_rows)))
            plain = e.builder.and_(plain, e.compare("==", odd, e.whole(0)))
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
        e, tiling, memory, wanted = self.e, self.tiling, self.memory, self.wanted
        rows = e.builder.sub(seen.stop, seen.first)
        columns = e.rounded_up(keys.held, tiling.range_keys)
        number = e.builder.add(seen.head.first_row, e.builder.add(seen.tile.first, seen.first))
        step = e.builder.udiv(number, e.whole(tiling.step_rows))
        queries = e.nth(self.arguments.pointer("packed_queries"), step, tiling.query_row)
        outs = e.nth(self.arguments.pointer("packed_grads"), step, tiling.grad_row)
        query_words, out_words, grads_part = queries, outs, "grads"
        if tiling.pairs:
            dims = tiling.words_row(tiling.spec.key.head_dim), tiling.words_row(tiling.spec.key.value_dim)
            query_words = e.nth(self.arguments.pointer("query_words"), number, dims[0])
            out_words = e.nth(self.arguments.pointer("grad_words"), number, dims[1])
            grads_part = "grad words"
        scores, grads = (e.nth(memory[part], seen.first, tiling.score_row) for part in ("scores", "grads"))
        grad_words = e.nth(memory[grads_part], seen.first, tiling.word_score_row)
        products, none = self.products, e.whole(0)
        products.scores(e, scores, query_words, memory["keys across"], rows, none)
        if wanted.of_scores:
            products.grads(e, grads, out_words, memory["values across"], rows, none)
        if self.sums is not None:
            self.sums.begin_tile()
        by_kind(
            e,
            plain,
            lambda: self._weigh(keys, seen, columns, hidden=False),
            lambda: self._weigh(keys, seen, columns, hidden=True),
        )
        if self.sums is not None:
            self.sums.end_tile(keys.first_key, keys.held)
        steps = e.builder.udiv(rows, e.whole(tiling.step_rows))
        if wanted.value:
            products.values(e, memory["grad values"], scores, outs, keys.held, steps)
        if wanted.key:
            products.keys(e, memory["grad keys"], grads, queries, keys.held, steps)
        if wanted.query:
            steps = e.builder.udiv(columns, e.whole(tiling.step_rows))
            products.queries(e, queries_grad, grad_words, memory["keys"], rows, steps)

    def _weigh(self, keys: KeyTile, seen: _Seen, columns: Value, *, hidden: bool) -> None:
        """Make words of weights and gradients of scores, in place of scores and dP."""
        e, tiling, wanted = self.e, self.tiling, self.wanted
        held = e.rounded_up(e.smaller(seen.stop, seen.tile.rows), tiling.step_rows)
        with e.loop(seen.first, held, tiling.step_rows) as loop:
            rows = self._rows_of_step(loop.index)
            scores, grads = ([self._row_at(part, row) for row in rows] for part in ("scores", "grads"))
            changes = [
                self._change(keys, seen, row, number, hidden=hidden) for number, row in enumerate(rows)
            ]

            def write(column: Value, weights: Sequence[Value], slopes: Sequence[Value]) -> None:
                if wanted.value:
                    e.store(self._words(weights), e.nth(scores[0], column, tiling.word))
                if tiling.slopes_by_step:
                    e.store(self._words(slopes), e.nth(grads[0], column, tiling.word))
                if tiling.slopes_by_row:
                    for row, slope in zip(rows, slopes, strict=True):
                        at = e.nth(self.memory["grad words"], row, tiling.word_score_row)
                        at = e.nth(at, column, DType.BFLOAT16.itemsize)
                        store_elements(e, slope, at, DType.BFLOAT16)

            given = grads if wanted.of_scores else None
            weigh_rows(e, scores, given, columns, changes, write, coarse=tiling.pairs)
        # Rows after the last fill up its block, and have no part in sums over rows.
        parts = (
            (wanted.value, "scores", tiling.score_row),
            (tiling.slopes_by_step, "grads", tiling.score_row),
            (tiling.slopes_by_row, "grad words", tiling.word_score_row),
        )
        for is_written, part, size in parts:
            if is_written:
                self._clear(e.nth(self.memory[part], held, size), e.builder.sub(seen.stop, held), size)

    def _rows_of_step(self, first: Value) -> list[Value]:
        """The rows that one step of a sum along them takes."""
        return [self.e.builder.add(first, self.e.whole(number)) for number in range(self.tiling.step_rows)]

    def _row_at(self, part: str, row: Value) -> Value:
        return self.e.nth(self.memory[part], row, self.tiling.score_row)

    def _words(self, rows: Sequence[Value]) -> Value:
        """What one step along rows takes: a vector of a row, or pairs of bfloat16 of two rows."""
        e = self.e
        if not self.tiling.pairs:
            return rows[0]
        low, high = (e.builder.bitcast(e.builder.fptrunc(row, e.vector(BF16)), e.vector(I16)) for row in rows)
        order = [lane + side for lane in range(e.lanes) for side in (0, e.lanes)]
        return e.builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, 2 * e.lanes), order))

    def _change(self, keys: KeyTile, seen: _Seen, row: Value, place: int, *, hidden: bool) -> RowChange:
        """What is known of a row, the one at a place among those walked together."""
        e, key, programs = self.e, self.tiling.spec.key, self.programs
        query = e.builder.add(seen.tile.first, row)
        number = e.builder.add(seen.head.first_row, query)
        of_scores = self.wanted.of_scores

        def of_row(table: str) -> Value:
            return e.load(e.nth(self.arguments.pointer(table), number, self.tiling.word), e.precise_type)

        factor = None
        if key.dropout:
            table = e.at(self.memory["kept"], place * self.tiling.kept_keys * self.tiling.word)
            factor = keep_factors(
                e, self.arguments, table, seen.head.number, query, keys.first_key, keys.held
            )
        return RowChange(
            lse=of_row("row_lse"),
            delta=of_row("row_delta") if of_scores else None,
            scale=self.scale,
            score=programs.score_of_row(seen.places, row) if programs.has_score else None,
            gradient=programs.gradient_of_row(seen.places, row, place, self.sums)
            if programs.has_score and of_scores
            else None,
            visible=self._visible(seen, row) if hidden else None,
            factor=factor,
        )

    def _visible(self, seen: _Seen, row: Value) -> Callable[[Value], Value]:
        """From a column to the visible lanes of a row's vector."""
        e = self.e
        visible = partial(visible_lanes, e, self.tiling, self.memory["visible"], row)
        if not self.tiling.pairs:
            return visible
        within = e.builder.and_(e.compare(">=", row, seen.tile.low), e.compare("<", row, seen.tile.rows))
        held = e.splat(within)
        return lambda column: e.builder.and_(visible(column), held)

    def _clear(self, memory: Value, rows: Value, size: int) -> None:
        """Set rows of a number of bytes to 0."""
        e = self.e
        with e.loop(0, e.builder.mul(rows, e.whole(size)), self.tiling.vector) as place:
            e.store(e.splat(e.real(0.0)), e.at(memory, place.index))
