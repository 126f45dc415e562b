"""The entry `merge` of the decode kernel: the partial results of a kv head become the output.

With m_i, row_sum_i and acc_i of the items i of a head, in their order, and c as in `rows`,

    m = max m_i,   row_sum = sum row_sum_i·2^((m_i - m)·c),   acc = sum acc_i·2^((m_i - m)·c),

and from there on it is the end of any item, see `epilogue`. The order is that of the keys, whoever computed
what, so that the result does not depend on the threads.
"""

from __future__ import annotations

from typing import final

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.decode_rows import HeadGroup
from saccade.codegen.cpu.decode_tiling import DecodeTiling
from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value
from saccade.codegen.cpu.epilogue import Extras, finish_rows, store_rows
from saccade.codegen.cpu.key_ranges import table_entry
from saccade.codegen.cpu.rows import RowTables, start_rows
from saccade.codegen.cpu.score_tiling import ScratchLayout
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive
from saccade.codegen.cpu.work import private_memory, work_items
from saccade.codegen.cpu.work_item import read_scale

__all__ = ["emit_merge"]


def emit_merge(
    tiling: DecodeTiling, module: ir.Module, layout: ArgumentLayout, name: str, scratch: int
) -> None:
    """Emit the entry, for threads that have so many bytes of scratch memory each."""
    _Merge(tiling, module, layout, name, scratch).emit()


@final
class _Merge:
    """The entry under construction."""

    def __init__(
        self, tiling: DecodeTiling, module: ir.Module, layout: ArgumentLayout, name: str, scratch: int
    ) -> None:
        e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
        self.e, self.tiling = e, tiling
        self.arguments = Arguments(e, e.function.args[0], layout)
        self.scale = read_scale(e, self.arguments, changed=tiling.spec.key.score is not None)
        parts: ScratchLayout = tiling.scratch({})
        memory = private_memory(e, self.arguments, scratch)
        self.memory = {part: e.at(memory, offset) for part, offset in parts.offsets.items()}
        self.tables = RowTables(*(self.memory[part] for part in RowTables.PARTS))

    def emit(self) -> None:
        e, tiling, key = self.e, self.tiling, self.tiling.spec.key
        with work_items(e, self.arguments) as number:
            group = HeadGroup.of(e, self.arguments, number)
            first = table_entry(e, self.arguments, "item_offsets", number, I64)
            stop = table_entry(e, self.arguments, "item_offsets", e.builder.add(number, e.whole(1)), I64)
            self._find_maxima(first, stop)
            self._add(first, stop)
            finish_rows(e, self.tables, group.rows, self._extras(group))
            out = group.rows_of(e, self.arguments, "out")
            acc = self.memory["acc"]
            store_rows(e, acc, tiling.acc_row, key.value_dim, self.tables, group.rows, out, key.dtype)
        e.finish()

    def _find_maxima(self, first: Value, stop: Value) -> None:
        e, tiling = self.e, self.tiling
        start_rows(e, self.tables, tiling.rows)
        with e.loop(first, stop) as item, e.loop(0, tiling.rows, tiling.lanes) as row:
            here = self.tables.of_row(e, row.index)
            number = e.load_vector(self._partial(item.index, "row_max", row.index))
            e.store(e.larger(number, e.load_vector(here.row_max)), here.row_max)

    def _add(self, first: Value, stop: Value) -> None:
        """Add up the items' sums, brought to one maximum."""
        e, tiling = self.e, self.tiling
        zero, nothing = e.splat(e.real(0.0)), e.real(float("-inf"))
        with e.loop(0, tiling.rows * tiling.acc_row, tiling.vector) as place:
            e.store(zero, e.at(self.memory["acc"], place.index))
        with e.loop(first, stop) as item, e.loop(0, tiling.rows) as row:
            here = self.tables.of_row(e, row.index)
            largest = e.load(here.row_max, e.precise_type)
            base = e.select(e.compare("==", largest, nothing), e.real(0.0), largest)
            own = e.load(self._partial(item.index, "row_max", row.index), e.precise_type)
            exponent = e.binary("fmul", e.binary("fsub", own, base), self.scale.factor)
            factor = exp2_of_nonpositive(e, e.splat(exponent))
            total = e.load(self._partial(item.index, "row_sum", row.index), e.precise_type)
            total = e.fma(e.splat(total), factor, e.load_vector(here.row_sum))
            # `finish_rows` adds up the lanes.
            e.store(e.select(_first_lane(e), total, zero), here.row_sum)
            begin = e.builder.mul(row.index, e.whole(tiling.acc_row))
            with e.loop(0, tiling.acc_row, tiling.vector) as place:
                at = e.builder.add(begin, place.index)
                target = e.at(self.memory["acc"], at)
                source = e.load_vector(e.at(self._partial(item.index, "acc", e.whole(0)), at))
                e.store(e.fma(source, factor, e.load_vector(target)), target)

    def _extras(self, group: HeadGroup) -> Extras:
        e, key, word = self.e, self.tiling.spec.key, self.tiling.word
        row = group.first_row(e, self.arguments)

        def number_at(tensor: str, index: Value) -> Value:
            return e.nth(self.arguments.pointer(tensor), index, word)

        sinks = self.memory["alpha"]
        if key.sinks:
            with e.loop(0, group.rows) as loop:
                head, _ = group.places(e, loop.index)
                sink = e.load(number_at("sinks", head), e.precise_type)
                e.store(sink, e.nth(sinks, loop.index, word))
        return Extras(
            keep_factor=self.arguments.real("keep_factor") if key.dropout else None,
            sink=(lambda row: e.load_vector(e.nth(sinks, row, word))) if key.sinks else None,
            lse=number_at("lse", row) if key.outputs.lse else None,
            max_scores=number_at("max_scores", row) if key.outputs.max_scores else None,
            unit=e.real(1.0) if key.score is not None else self.scale.unit,
        )

    def _partial(self, item: Value, part: str, row: Value) -> Value:
        """The address of a row's number in a part of an item's partial result."""
        e, partial = self.e, self.tiling.partial
        begin = e.nth(self.arguments.pointer("partials"), item, partial.size)
        return e.nth(e.at(begin, partial.offsets[part]), row, self.tiling.word)


def _first_lane(e: Emitter) -> Value:
    return e.compare("==", e.lane_numbers(), I32(0))
