"""The entry `merge` of the backward kernel: what the chunks of a kv head add to its queries' gradients.

    dQ = scale · sum over chunks of dS·K,

in the order of the chunks, whoever computed what, so that the result does not depend on the threads.
"""

from __future__ import annotations

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward_chunk import Head, find_chunk
from saccade.codegen.cpu.backward_pack import query_item
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.emitter import I64, Emitter, Value
from saccade.codegen.cpu.epilogue import store_row
from saccade.codegen.cpu.key_ranges import table_entry
from saccade.codegen.cpu.row_vectors import rows_of_head
from saccade.codegen.cpu.work import private_memory, work_items

__all__ = ["emit_merge", "head_of_chunk"]


def emit_merge(
    tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str, scratch: int
) -> None:
    """Emit the entry, for threads that have so many bytes of scratch memory each."""
    assert scratch >= tiling.query_row, "a row is summed in scratch memory"
    e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
    arguments = Arguments(e, e.function.args[0], layout)
    key, get = tiling.spec.key, arguments.get
    total, scale = private_memory(e, arguments, scratch), arguments.real("scale")
    with work_items(e, arguments) as item:
        head, first, stop = query_item(e, arguments, tiling, item)
        kv_batch = e.builder.udiv(head.b, get("kv_share"))
        kv_head = e.builder.add(
            e.builder.mul(kv_batch, get("kv_heads")), e.builder.udiv(head.h, get("group"))
        )
        first_chunk = table_entry(e, arguments, "item_offsets", kv_head, I64)
        stop_chunk = table_entry(e, arguments, "item_offsets", e.builder.add(kv_head, e.whole(1)), I64)
        target = rows_of_head(e, arguments, "grad_query", head.b, head.h, "q")
        with e.loop(first, stop) as row:
            with e.loop(0, tiling.query_row, tiling.vector) as place:
                e.store(e.splat(e.real(0.0)), e.at(total, place.index))
            with e.loop(first_chunk, stop_chunk) as chunk:
                _add(e, arguments, tiling, head, row.index, chunk.index, total)
            store_row(e, total, key.head_dim, scale, target(row.index), key.dtype)
    e.finish()


def head_of_chunk(e: Emitter, arguments: Arguments, head: Head) -> Value:
    """Return the number of a head among the batches and heads of its chunks: int64."""
    group = arguments.get("group")
    batch = e.builder.urem(head.b, arguments.get("kv_share"))
    return e.builder.add(e.builder.mul(batch, group), e.builder.urem(head.h, group))


def _add(
    e: Emitter,
    arguments: Arguments,
    tiling: BackwardTiling,
    head: Head,
    query: Value,
    number: Value,
    total: Value,
) -> None:
    """Add a chunk's row, if it has one."""
    chunk = find_chunk(e, arguments, tiling, number)
    held = e.builder.and_(e.compare(">=", query, chunk.first_query), e.compare("<", query, chunk.stop_query))
    with e.when(held):
        row = e.builder.add(
            e.builder.mul(head_of_chunk(e, arguments, head), chunk.rows),
            e.builder.sub(query, chunk.first_query),
        )
        source = e.nth(chunk.partial, row, tiling.query_row)
        with e.loop(0, tiling.query_row, tiling.vector) as place:
            at = e.at(total, place.index)
            e.store(e.binary("fadd", e.load_vector(at), e.load_vector(e.at(source, place.index))), at)
