"""The entries of the backward kernel before its products: `pack`, and `sinks` where there are some.

`pack` writes queries and the output's gradient dO as rows of words, as far as products read them, and what
each row needs of the forward: lse, +inf where a row saw nothing, so that its weights are 0; and

    delta = sum dO·O - dlse,

with which the gradient of a changed score is P·(dP - delta), where something needs it. `sinks` finishes the
gradient of each head's sink, -sum e^(sink - lse)·delta over its rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward_chunk import Head, find_head
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.emitter import I64, Emitter, Value
from saccade.codegen.cpu.packing import along, row_of_zeros, words_across
from saccade.codegen.cpu.row_vectors import pairs_along, rows_of_head, vector_of_row
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive
from saccade.codegen.cpu.work import work_items
from saccade.ir.dtype import DType

__all__ = ["emit_pack", "emit_sinks", "pack_step", "query_item"]


def emit_pack(tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> None:
    """Emit the entry whose items are tiles of queries of heads."""
    e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
    arguments = Arguments(e, e.function.args[0], layout)
    with work_items(e, arguments) as item:
        head, first, stop = query_item(e, arguments, tiling, item)
        is_last = e.compare("==", stop, arguments.get("q_len"))
        padded = e.builder.add(e.rounded_up(stop, 2), e.whole(tiling.padding_rows))
        after = e.select(is_last, padded, stop)
        for tensor in ("query", "grad_out"):
            _pack_rows(e, arguments, tiling, head, tensor, first, after)
        with e.loop(first, stop) as row:
            _write_tables(e, arguments, tiling, head, row.index)
    e.finish()


def _pack_rows(
    e: Emitter,
    arguments: Arguments,
    tiling: BackwardTiling,
    head: Head,
    tensor: str,
    first: Value,
    stop: Value,
) -> None:
    """Write rows of queries or of the output's gradient, zeros after the last, in each form that is read."""
    key, q_len = tiling.spec.key, arguments.get("q_len")
    by_step, words, dim = {
        "query": ("packed_queries", "query_words", key.head_dim),
        "grad_out": ("packed_grads", "grad_words", key.value_dim),
    }[tensor]
    step_bytes, word_bytes = tiling.row_bytes[by_step] * tiling.step_rows, tiling.row_bytes[words]
    if not (step_bytes or word_bytes):
        return
    zeros = row_of_zeros(e, tiling.spec)
    row_at = rows_of_head(e, arguments, tensor, head.b, head.h, "q")
    with e.loop(first, stop, tiling.step_rows) as row:
        rows = [e.builder.add(row.index, e.whole(number)) for number in range(tiling.step_rows)]
        sources = [e.select(e.compare("<", query, q_len), row_at(query), zeros) for query in rows]
        number = e.builder.add(head.first_row, row.index)
        if step_bytes:
            step = e.builder.udiv(number, e.whole(tiling.step_rows))
            pack_step(e, tiling, sources, dim, e.nth(arguments.pointer(by_step), step, step_bytes))
        if word_bytes:
            target = e.nth(arguments.pointer(words), number, word_bytes)
            for place, source in enumerate(sources):
                _pack_words(e, source, dim, e.at(target, place * word_bytes))


def emit_sinks(tiling: BackwardTiling, module: ir.Module, layout: ArgumentLayout, name: str) -> None:
    """Emit the entry whose items are query heads."""
    e = Emitter(tiling.spec.isa, tiling.spec.precise, module, name)
    arguments = Arguments(e, e.function.args[0], layout)
    q_len, word = arguments.get("q_len"), tiling.word
    with work_items(e, arguments) as h:
        sink = e.load(e.nth(arguments.pointer("sinks"), h, word), e.precise_type)
        zero = e.splat(e.real(0.0))
        with e.loop(0, arguments.get("batch"), carried=[zero]) as batch:
            head = find_head(e, arguments, tiling, batch.index, h)
            with e.loop(0, q_len, e.lanes, batch.values) as row:
                number = e.builder.add(head.first_row, row.index)
                lse, delta = (
                    e.load_vector(e.nth(arguments.pointer(table), number, word))
                    for table in ("row_lse", "row_delta")
                )
                weight = exp2_of_nonpositive(
                    e, e.binary("fmul", e.binary("fsub", sink, lse), e.real(math.log2(math.e)))
                )
                held = e.compare("<", e.binary("add", row.index, e.lane_numbers(I64)), q_len)
                part = e.select(held, e.binary("fmul", weight, delta), zero)
                row.hand_over([e.binary("fsub", row.values[0], part)])
            batch.hand_over(row.results)
        total = e.fold(batch.results[0], lambda a, b: e.binary("fadd", a, b))
        e.store(total, e.nth(arguments.pointer("grad_sinks"), h, word))
    e.finish()


def query_item(
    e: Emitter, arguments: Arguments, tiling: BackwardTiling, item: Value
) -> tuple[Head, Value, Value]:
    """Return the head of an item, its first query and the query after its last: int64."""
    tiles, q_heads = arguments.get("q_tiles"), arguments.get("q_heads")
    number, tile = e.builder.udiv(item, tiles), e.builder.urem(item, tiles)
    head = find_head(e, arguments, tiling, e.builder.udiv(number, q_heads), e.builder.urem(number, q_heads))
    first = e.builder.mul(tile, e.whole(tiling.rows))
    stop = e.smaller(e.builder.add(first, e.whole(tiling.rows)), arguments.get("q_len"))
    return head, first, stop


def pack_step(e: Emitter, tiling: BackwardTiling, sources: Sequence[Value], dim: int, target: Value) -> None:
    """Write the words that one step of a sum along rows takes, whole vectors, zeros at the end.

    Args:
        e: The function.
        tiling: The sizes.
        sources: Addresses of the elements of `step_rows` rows.
        dim: How many there are in a row.
        target: Address of the words.
    """

    def convert(place: Value, held: int) -> None:
        addresses = [e.nth(source, place, tiling.spec.key.dtype.itemsize) for source in sources]
        e.store(words_across(e, tiling, addresses, held), e.nth(target, place, tiling.word))

    along(e, dim, e.lanes, convert)


def _pack_words(e: Emitter, source: Value, dim: int, target: Value) -> None:
    """Write a row of bfloat16 as it stands, whole vectors, zeros at the end."""

    def copy(place: Value, held: int) -> None:
        offset = e.builder.mul(place, e.whole(DType.BFLOAT16.itemsize))
        e.store(pairs_along(e, e.at(source, offset), held), e.at(target, offset))

    along(e, dim, 2 * e.lanes, copy)


def _dot(e: Emitter, tiling: BackwardTiling, a: Value, b: Value) -> Value:
    """The sum of products of two rows of value_dim elements."""
    stored, dim = tiling.spec.key.dtype, tiling.spec.key.value_dim
    whole = dim - dim % e.lanes

    def product(place: Value, held: int, total: Value) -> Value:
        left, right = (vector_of_row(e, e.nth(row, place, stored.itemsize), stored, held) for row in (a, b))
        return e.fma(left, right, total)

    with e.loop(0, whole, e.lanes, [e.splat(e.real(0.0))]) as loop:
        loop.hand_over([product(loop.index, e.lanes, loop.values[0])])
    total = loop.results[0]
    if whole < dim:
        total = product(e.whole(whole), dim - whole, total)
    return e.fold(total, lambda x, y: e.binary("fadd", x, y))


def _write_tables(e: Emitter, arguments: Arguments, tiling: BackwardTiling, head: Head, query: Value) -> None:
    word, row = tiling.word, e.builder.add(head.first_row, query)
    number = e.builder.add(e.builder.mul(head.number, arguments.get("q_len")), query)
    lse = e.load(e.nth(arguments.pointer("lse"), number, word), e.precise_type)
    saw_nothing = e.compare("==", lse, e.real(float("-inf")))
    lse = e.select(saw_nothing, e.real(float("inf")), lse)
    e.store(lse, e.nth(arguments.pointer("row_lse"), row, word))
    if not tiling.row_bytes["row_delta"]:
        return
    grad, out = (
        rows_of_head(e, arguments, tensor, head.b, head.h, "q")(query) for tensor in ("grad_out", "out")
    )
    delta = _dot(e, tiling, grad, out)
    if tiling.spec.key.outputs.lse:
        change = e.load(e.nth(arguments.pointer("grad_lse"), number, word), e.precise_type)
        delta = e.binary("fsub", delta, change)
    e.store(delta, e.nth(arguments.pointer("row_delta"), row, word))
