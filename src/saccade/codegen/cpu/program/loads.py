"""Reads of captured tensors: address, bounds and lanes.

An element's address is `base + sum(index * stride)`. Where no index varies over the lanes it is one scalar
load; where the last index steps with the lanes, and the tensor's last stride is one element, one vector load;
else a gather. Invariant: no byte outside a tensor is read, whatever the indices are. An index that is not
proven is checked, and a lane is off where it fails, where another part of the address is poison, or where the
pair is out of range.
"""

from __future__ import annotations

from llvmlite import ir

from saccade.codegen.cpu.conversion import gather_elements, load_element, load_elements, masked_load_elements
from saccade.codegen.cpu.emitter import BOOL, I32, I64, Emitter, Value, element_of
from saccade.codegen.cpu.program.place import Evaluated, Place
from saccade.codegen.cpu.program.poison import complement, either
from saccade.codegen.cpu.program.ramps import Ramp
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr

__all__ = ["load"]

# Beyond it an index is out of range whatever the tensor, and sums with sizes and lanes do not overflow.
_FAR = 1 << 62


def load(place: Place, node: Expr) -> Evaluated:
    """Return the element that a LOAD reads; its operands have been evaluated."""
    program = place.program
    form = None if place.first_key is None else program.split.ramp(node)
    reader = _Reader(place, node)
    poison = either(reader.e, (place.values[arg].poison for arg in program.split.operands(node)))
    indices = node.args if form is None else node.args[:-1]
    for dim, index in enumerate(indices):
        reader.add(dim, index)
    live = _all(reader.e, (reader.valid, None if poison is None else complement(reader.e, poison)))
    value = reader.scattered(live) if form is None else reader.consecutive(form, live)
    invalid = None if reader.valid is None else complement(reader.e, reader.valid)
    return Evaluated(value, either(reader.e, (poison, invalid)))


def _all(e: Emitter, lanes: tuple[Value | None, ...]) -> Value | None:
    """Where all of them are set, None being set everywhere."""
    found: Value | None = None
    for mask in lanes:
        if mask is not None:
            found = mask if found is None else e.binary("and_", found, mask)
    return found


class _Reader:
    """One LOAD: its address and the checks of its indices, as far as they are known."""

    def __init__(self, place: Place, node: Expr) -> None:
        program = place.program
        self.e = program.emitter
        self.valid: Value | None = None  # where every index so far is in range
        self._place = place
        self._node = node
        self._slots, self._stored, self._dense = program.capture(node.attr)
        self._integer = program.widths.element(node) if node.dtype is DType.INT64 else I64
        self._base = program.arguments.address(self._slots.pointer)
        self._lanes: Value | None = None  # bytes from the base, of each lane

    def add(self, dim: int, index: Expr) -> None:
        """Take in the index of one dimension."""
        e, program = self.e, self._place.program
        size = self._size(dim)
        value = self._place.values[index].value
        if not program.is_bounded(self._node, dim):
            self.valid = _all(e, (self.valid, _in_range(e, value, size)))
        offset = e.resized(value, I64)
        if not program.is_nonnegative(index):
            negative = e.compare("<", offset, e.whole(0, offset.type))
            offset = e.select(negative, e.binary("add", offset, size), offset)
        offset = e.binary("mul", offset, self._stride(dim))
        if not isinstance(offset.type, ir.VectorType):
            self._base = e.at(self._base, offset)
        else:
            self._lanes = offset if self._lanes is None else e.binary("add", self._lanes, offset)

    def _size(self, dim: int) -> Value:
        return self._place.program.arguments.whole(self._slots.sizes[dim])

    def _stride(self, dim: int) -> Value:
        if self._dense and dim == len(self._slots.strides) - 1:
            return self.e.whole(self._stored.itemsize)
        return self._place.program.arguments.whole(self._slots.strides[dim])

    def scattered(self, live: Value | None) -> Value:
        """Return the element of every lane on its own, or the one of all."""
        e = self.e
        if self._lanes is None and not (live is not None and isinstance(live.type, ir.VectorType)):
            # A dead address is replaced by one that may be read.
            anywhere = self._place.program.arguments.block
            pointer = self._base if live is None else e.select(live, self._base, anywhere)
            return load_element(e, pointer, self._stored, self._integer)
        mask = _all(e, (live, self._place.inside))
        mask = e.whole(1, e.vector(BOOL)) if mask is None else e.splat(mask)
        lanes = e.whole(0, e.vector(I64)) if self._lanes is None else self._lanes
        return gather_elements(e, self._base, lanes, mask, self._stored, self._integer)

    def consecutive(self, form: Ramp, live: Value | None) -> Value:
        """Return the elements of consecutive keys, which are consecutive in memory, up or down."""
        e, program = self.e, self._place.program
        last = self._node.args[-1]
        size = self._size(-1)
        start = self._start(form)  # the index of lane 0
        mask = _all(e, (live, self._place.inside))
        if not program.is_bounded(self._node, len(self._slots.sizes) - 1):
            near = e.larger(e.smaller(start, e.whole(_FAR)), e.whole(-_FAR))
            valid = _lanes_from(e, near, form.step, e.builder.sub(e.whole(0), size), size)
            self.valid = _all(e, (self.valid, valid))
            mask = _all(e, (mask, valid))
        if program.is_nonnegative(last):
            return self._run(form, start, mask, live)
        near = e.larger(e.smaller(start, e.whole(_FAR)), e.whole(-_FAR))
        counted = _lanes_from(e, near, form.step, e.whole(0), e.whole(_FAR))
        from_end = complement(e, counted)
        forward = self._run(form, start, _all(e, (mask, counted)), live)
        backward = self._run(form, e.builder.add(start, size), _all(e, (mask, from_end)), live)
        return e.select(counted, forward, backward)

    def _start(self, form: Ramp) -> Value:
        e = self.e
        start = self._place.first_key
        if form.step < 0:
            start = e.builder.neg(start)
        for sign, term in form.terms:
            value = e.resized(self._place.values[term].value, I64)
            start = e.builder.add(start, value) if sign > 0 else e.builder.sub(start, value)
        return start

    def _run(self, form: Ramp, start: Value, mask: Value | None, live: Value | None) -> Value:
        """Load the lanes in the mask from index `start` of lane 0; `live` is where the address else holds."""
        e, stored = self.e, self._stored
        backward = list(range(e.lanes))[::-1]
        if form.step < 0:
            start = e.builder.sub(start, e.whole(e.lanes - 1))
            mask = None if mask is None else e.shuffled(e.splat(mask), backward)
        pointer = e.at(self._base, e.builder.mul(start, e.whole(stored.itemsize)))

        def every_lane() -> Value:
            return load_elements(e, pointer, stored, self._integer)

        def in_mask() -> Value:
            return masked_load_elements(e, pointer, e.splat(mask), stored, self._integer)

        if mask is None:
            value = every_lane()
        elif live is not None or e.isa.masks_loads(stored):
            value = in_mask()
        else:
            # Lanes that are out of range may lie in the tensor all the same; then no lane needs a branch.
            room = e.builder.sub(self._size(-1), e.whole(e.lanes))
            fits = e.builder.and_(e.compare(">=", start, e.whole(0)), e.compare("<=", start, room))
            value = e.either(fits, every_lane, in_mask)
        return e.shuffled(value, backward) if form.step < 0 else value


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
