"""Addresses of tensors' elements from indices: bounds, lanes, and runs of consecutive elements.

An element's address is `base + sum(index * stride)`. An index may be negative, counting from the end. One
that is not proven is checked; where it fails, where another part of the address is poison, or where the pair
is out of range, a lane is off. Invariant: no address of a lane that is on lies outside the tensor. `loads`
reads captured tensors this way, and the backward kernel adds to their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value, element_of
from saccade.codegen.cpu.program.place import Place
from saccade.codegen.cpu.program.poison import complement
from saccade.codegen.cpu.program.ramps import Ramp
from saccade.ir.expr import Expr

__all__ = ["Address", "Run", "all_of", "in_memory_order"]

# Beyond it an index is out of range whatever the tensor, and sums with sizes and lanes do not overflow.
_FAR = 1 << 62


@final
@dataclass(frozen=True)
class Run:
    """A vector of consecutive elements, in the order of memory.

    Attributes:
        pointer: Address of the first.
        first: int64, its index in the last dimension.
        mask: Lanes that are on, in this order; None: all.
    """

    pointer: Value
    first: Value
    mask: Value | None


def all_of(e: Emitter, *lanes: Value | None) -> Value | None:
    """Return where all of them are set, None being set everywhere."""
    found: Value | None = None
    for mask in lanes:
        if mask is not None:
            found = mask if found is None else e.binary("and_", found, mask)
    return found


@final
class Address:
    """The address of an element, as far as its indices are taken in.

    Args:
        place: Where its indices have been evaluated.
        node: The LOAD with the indices.
        base: Address of the tensor's first element.
        sizes: int64, elements of each dimension.
        strides: int64, bytes from one to the next.

    Attributes:
        base: The address, without what differs between lanes.
        lanes: int64, bytes from there to each lane's element; None: one element for all.
        valid: Where every index so far is in range; None: everywhere.
    """

    def __init__(
        self, place: Place, node: Expr, base: Value, sizes: Sequence[Value], strides: Sequence[Value]
    ) -> None:
        self._e = place.program.emitter
        self._place, self._node = place, node
        self._sizes, self._strides = sizes, strides
        self.base = base
        self.lanes: Value | None = None
        self.valid: Value | None = None

    def add(self, dim: int) -> None:
        """Take in the index of one dimension."""
        e, program = self._e, self._place.program
        index, size = self._node.args[dim], self._sizes[dim]
        value = self._place.values[index].value
        if not program.is_bounded(self._node, dim):
            self.valid = all_of(e, self.valid, _in_range(e, value, size))
        offset = e.resized(value, I64)
        if not program.is_nonnegative(index):
            negative = e.compare("<", offset, e.whole(0, offset.type))
            offset = e.select(negative, e.binary("add", offset, size), offset)
        offset = e.binary("mul", offset, self._strides[dim])
        if not isinstance(offset.type, ir.VectorType):
            self.base = e.at(self.base, offset)
        else:
            self.lanes = offset if self.lanes is None else e.binary("add", self.lanes, offset)

    def runs(self, form: Ramp, live: Value | None) -> tuple[list[Run], Value | None]:
        """Take in a last index that steps by one with the lanes; the dimension's elements are neighbours.

        Args:
            form: The index.
            live: Lanes where the other indices hold; None: all.

        Returns:
            The runs that the lanes lie in: one, or one for those that count from the front and one for those
            that count from the end. With two of them, the former lanes.
        """
        e, program = self._e, self._place.program
        size = self._sizes[-1]
        start = self._start(form)  # the index of lane 0
        near = e.larger(e.smaller(start, e.whole(_FAR)), e.whole(-_FAR))
        mask = all_of(e, live, self._place.inside)
        if not program.is_bounded(self._node, len(self._sizes) - 1):
            valid = _lanes_from(e, near, form.step, e.builder.sub(e.whole(0), size), size)
            self.valid = all_of(e, self.valid, valid)
            mask = all_of(e, mask, valid)
        if program.is_nonnegative(self._node.args[-1]):
            return [self._run(form, start, mask)], None
        counted = _lanes_from(e, near, form.step, e.whole(0), e.whole(_FAR))
        from_end = complement(e, counted)
        forward = self._run(form, start, all_of(e, mask, counted))
        backward = self._run(form, e.builder.add(start, size), all_of(e, mask, from_end))
        return [forward, backward], counted

    def _start(self, form: Ramp) -> Value:
        e = self._e
        start = self._place.first_key
        if form.step < 0:
            start = e.builder.neg(start)
        for sign, term in form.terms:
            value = e.resized(self._place.values[term].value, I64)
            start = e.builder.add(start, value) if sign > 0 else e.builder.sub(start, value)
        return start

    def _run(self, form: Ramp, start: Value, mask: Value | None) -> Run:
        """The run of the lanes in a mask, of which lane 0 has the index `start`."""
        e = self._e
        if form.step < 0:
            start = e.builder.sub(start, e.whole(e.lanes - 1))
            mask = None if mask is None else in_memory_order(e, form, e.splat(mask))
        return Run(e.at(self.base, e.builder.mul(start, self._strides[-1])), start, mask)


def in_memory_order(e: Emitter, form: Ramp, lanes: Value) -> Value:
    """Return lanes in the order of memory, or such in the order of keys."""
    return e.shuffled(lanes, list(range(e.lanes))[::-1]) if form.step < 0 else lanes


def _in_range(e: Emitter, index: Value, size: Value) -> Value:
    """Where -size <= index < size, compared in the index's own width."""
    least, most = e.builder.neg(size), e.builder.sub(size, e.whole(1))
    if element_of(index) == I32:
        # Bounds beyond 32 bits bind no narrow index.
        least = e.builder.trunc(e.larger(least, e.whole(-(2**31))), I32)
        most = e.builder.trunc(e.smaller(most, e.whole(2**31 - 1)), I32)
    return e.binary("and_", e.compare(">=", index, least), e.compare("<=", index, most))


def _lanes_from(e: Emitter, start: Value, step: int, low: Value, high: Value) -> Value:
    """Lanes i with low <= start + step * i < high, for a start that is not _FAR beyond."""
    # low - start <= i < high - start, or start - high < i <= start - low
    ends = [(low, 0), (high, 0)] if step > 0 else [(high, 1), (low, 1)]
    first, stop = (
        e.builder.add(e.builder.sub(bound, start) if step > 0 else e.builder.sub(start, bound), e.whole(more))
        for bound, more in ends
    )
    numbers = e.lane_numbers()
    first, stop = (_lane_number(e, bound) for bound in (first, stop))
    return e.binary("and_", e.compare(">=", numbers, first), e.compare("<", numbers, stop))


def _lane_number(e: Emitter, number: Value) -> Value:
    """A bound on lanes, in 32 bits."""
    return e.builder.trunc(e.larger(e.smaller(number, e.whole(e.lanes)), e.whole(0)), I32)
