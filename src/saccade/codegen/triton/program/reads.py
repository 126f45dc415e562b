"""Reads of captured tensors: indices, their bounds, and the parameters that say where elements are.

An element stands `sum(index * stride)` elements after the tensor's first. An index may be negative, counting
from the end; one that is not proven in range is kept inside. One that is proven is plain text, so that a
read of consecutive keys is one of consecutive elements; it is proven for pairs in range alone, and masked
where the place says that a variable may pass its length. Invariant: no element outside a tensor is read. An
empty tensor must come as one element with strides of 0, and not as dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from saccade.codegen.triton.parameters import TRITON_TYPES, Parameter
from saccade.codegen.triton.program.function_table import Calls
from saccade.codegen.triton.program.nodes import TYPES, Nodes
from saccade.codegen.triton.program.place import Place
from saccade.codegen.triton.program.terms import (
    BOOL,
    F64,
    I32,
    I64,
    Level,
    Term,
    infix,
    method,
    resized,
)
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr

__all__ = ["Reads"]

_POINTER_BYTES = 16
_STRIDE_ELEMENTS = 8


@final
class Reads:
    """Writes a program's reads of what it does not compute: captured tensors and run-time numbers.

    Args:
        nodes: The program.
        place: Where it is put.
        calls: Writes calls of functions.
        prefix: Of the parameters' names.
        wide: The captures that may span 2**31 elements; the sizes, strides and offsets of other ones are in
            32 bits.
        aligned: The captures whose addresses are multiples of 16 bytes and whose strides, but the last, of 8
            elements.
    """

    def __init__(
        self,
        nodes: Nodes,
        place: Place,
        calls: Calls,
        prefix: str,
        wide: frozenset[int] = frozenset(),
        aligned: frozenset[int] = frozenset(),
    ) -> None:
        self._nodes = nodes
        self._place = place
        self._calls = calls
        self._prefix = prefix
        self._wide = wide
        self._aligned = aligned
        self._parameters: dict[tuple[int, int, int, int], Parameter] = {}

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What has been read, by slots: each tensor's address, strides and sizes, then the numbers."""
        return tuple(parameter for _, parameter in sorted(self._parameters.items(), key=lambda item: item[0]))

    def number(self, node: Expr) -> Term:
        """Return a run-time number."""
        name = f"{self._prefix}n{node.attr}"
        self._parameters[1, node.attr, 0, 0] = Parameter(name, TRITON_TYPES[node.dtype])
        type_ = self._nodes.type(node)
        if type_ == F64:
            # The interpreter hands over a Python float, which `tl.cast` would round to float32.
            return Term(f"tl.full([], {name}, {F64})", F64)
        return Term(f"tl.cast({name}, {type_})", type_)

    def offset(self, node: Expr, indices: Sequence[Term]) -> Term | None:
        """Return how many elements after the first the one stands that a LOAD reads; None of the first."""
        total: Term | None = None
        for dim, arg in enumerate(indices):
            index = self.index(node, dim, arg)
            if index.known == 0:
                continue
            part = index
            if not (self._nodes.dense[node.attr] and dim == len(indices) - 1):
                stride = self._dimension(node.attr, dim, 1, "s", self._stride_multiple(node.attr))
                part = infix("*", Level.PRODUCT, index, stride, stride.type)
            total = part if total is None else infix("+", Level.SUM, total, part)
        return total

    def load(self, node: Expr, offset: Term | None) -> Term:
        """Return the element that a LOAD reads, as a value."""
        slot, stored = node.attr, self._nodes.stored[node.attr]
        text = self._capture(slot, 0, 0, "", f"*{TRITON_TYPES[stored]}", self._pointer_multiple(slot))
        if offset is not None:
            text = f"{text} + {offset.at(Level.SUM + 1)}"
        limits = self._limits(node)
        if limits:
            text = f"{text}, mask={' & '.join(limits)}, other=0"
        wanted = self._nodes.type(node)
        loaded = Term(f"tl.load({text})", wanted)
        return loaded if _HELD.get(stored) == wanted else method(loaded, "to", wanted, wanted)

    def index(self, node: Expr, dim: int, index: Term) -> Term:
        """Return an index that counts from the front, and is in range unless it is proven to be."""
        arg = node.args[dim]
        if self._nodes.is_bounded(node, dim):
            if (index.known is not None and index.known >= 0) or self._nodes.is_nonnegative(arg):
                return index
            return self._calls("ir_index_from_end", index.type, index, self._size(node.attr, dim))
        inside = self._calls("ir_index", index.type, index, self._size(node.attr, dim))
        return inside if node.attr in self._wide or index.type == I32 else resized(inside, I32)

    def valid(self, node: Expr, dim: int, index: Term) -> Term | None:
        """Return where an index is in range; None where that is proven. The index stands in it twice."""
        if self._nodes.is_bounded(node, dim):
            return None
        size = self._size(node.attr, dim)
        above = infix(">=", Level.COMPARE, index.typed, Term(f"-{size.text}", size.type, Level.UNARY), BOOL)
        below = infix("<", Level.COMPARE, index.typed, size, BOOL)
        return infix("&", Level.AND, above, below)

    def _limits(self, node: Expr) -> list[str]:
        """Where pairs are in range, if an index is in range only there."""
        proven = [arg for dim, arg in enumerate(node.args) if self._nodes.is_bounded(node, dim)]
        limits = self._place.limits_of(*proven)
        return [limit if len(limits) == 1 or limit.isidentifier() else f"({limit})" for limit in limits]

    def _size(self, slot: int, dim: int) -> Term:
        return self._dimension(slot, dim, 2, "n", 1)

    def _dimension(self, slot: int, dim: int, kind: int, letter: str, divisible: int) -> Term:
        parameter, type_ = ("i64", I64) if slot in self._wide else ("i32", I32)
        return Term(self._capture(slot, kind, dim, f"_{letter}{dim}", parameter, divisible), type_)

    def _capture(self, slot: int, kind: int, dim: int, suffix: str, type_: str, divisible: int) -> str:
        name = f"{self._prefix}c{slot}{suffix}"
        self._parameters[0, slot, kind, dim] = Parameter(name, type_, divisible)
        return name

    def _pointer_multiple(self, slot: int) -> int:
        return _POINTER_BYTES if slot in self._aligned else 1

    def _stride_multiple(self, slot: int) -> int:
        return _STRIDE_ELEMENTS if slot in self._aligned else 1


# What Triton loads as the type of the value.
_HELD = {stored: TYPES[stored] for stored in TYPES} | {DType.INT32: I32, DType.INT64: I64}
