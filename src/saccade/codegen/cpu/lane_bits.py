"""Lanes of a comparison in memory: a vector of BOOL as the bits of an int16, lane 0 the lowest."""

from __future__ import annotations

from llvmlite import ir

from saccade.codegen.cpu.emitter import BOOL, I16, Emitter, Value

__all__ = ["BYTES", "bits_at", "load_lanes", "store_lanes"]

BYTES = 2
"""What the lanes of a vector take."""


def bits_at(e: Emitter, table: Value, column: Value) -> Value:
    """Return the address of the bits of the vector that begins at a column."""
    vector = e.builder.udiv(column, e.whole(e.lanes))
    return e.nth(table, vector, BYTES)


def store_lanes(e: Emitter, lanes: Value, address: Value) -> None:
    """Write lanes as bits."""
    bits = e.builder.bitcast(lanes, ir.IntType(e.lanes))
    e.store(bits if e.lanes == 16 else e.builder.zext(bits, I16), address)


def load_lanes(e: Emitter, address: Value) -> Value:
    """Read bits as lanes."""
    bits = e.load(address, I16)
    return e.builder.bitcast(
        bits if e.lanes == 16 else e.builder.trunc(bits, ir.IntType(e.lanes)), e.vector(BOOL)
    )
