"""Vectors of a row that is read where it lies: its elements as values or as words, 0 after its end.

Owns the ends of rows: nothing is read behind the last element.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.conversion import load_elements, masked_load_elements
from saccade.codegen.cpu.emitter import BOOL, I16, I32, Emitter, Type, Value
from saccade.ir.dtype import DType

__all__ = ["first_lanes", "halves", "pairs_along", "rows_of_head", "vector_of_row"]


def rows_of_head(
    e: Emitter, arguments: Arguments, tensor: str, b: Value, head: Value, axis: str = "k"
) -> Callable[[Value], Value]:
    """Return what gives the address of a row of a tensor from its key or query (int64).

    The one place that knows how rows of keys and values are reached.

    Args:
        e: The function.
        arguments: Its arguments.
        tensor: Which, such as "key".
        b: int64, the batch.
        head: int64, the kv head, or the query head.
        axis: What its rows are: "k" keys, "q" queries.
    """
    begin = e.nth(arguments.pointer(tensor), b, arguments.get(f"{tensor}_b"))
    begin = e.nth(begin, head, arguments.get(f"{tensor}_h"))
    stride = arguments.get(f"{tensor}_{axis}")
    return lambda key: e.nth(begin, key, stride)


def vector_of_row(e: Emitter, address: Value, stored: DType, held: int) -> Value:
    """Load the first `held` elements of a vector as values, 0 in the other lanes."""
    if held >= e.lanes:
        return load_elements(e, address, stored)
    return masked_load_elements(e, address, first_lanes(e.vector(BOOL), held), stored)


def halves(e: Emitter, address: Value, type_: Type, held: int) -> Value:
    """Load the first `held` elements of a vector of int16, 0 in the other lanes."""
    if held >= type_.count:
        return e.load(address, type_)
    mask = first_lanes(ir.VectorType(BOOL, type_.count), held)
    name = f"llvm.masked.load.v{type_.count}{type_.element}.p0"
    return e.call(name, type_, [address, mask, ir.Constant(type_, None)])


def pairs_along(e: Emitter, address: Value, held: int) -> Value:
    """Load a vector of int32 pairs of neighbours in a row, 0 after the first `held` elements."""
    loaded = halves(e, address, ir.VectorType(I16, 2 * e.lanes), held)
    return e.builder.bitcast(loaded, e.vector(I32))


def first_lanes(type_: Type, held: int) -> Value:
    """Return the mask of the first lanes."""
    return ir.Constant(type_, [int(lane < held) for lane in range(type_.count)])
