"""Reads of captured tensors: one element, a vector of neighbours, or a gather.

Where no index varies over the lanes it is one scalar load; where the last index steps with the lanes, and the
tensor's last stride is one element, one vector load; else a gather. Invariant: no byte outside a tensor is
read, whatever the indices are: lanes that `addresses` has off touch no memory.
"""

from __future__ import annotations

from llvmlite import ir

from saccade.codegen.cpu.conversion import gather_elements, load_element, load_elements, masked_load_elements
from saccade.codegen.cpu.emitter import BOOL, I64, Value
from saccade.codegen.cpu.program.addresses import Address, Run, all_of, in_memory_order
from saccade.codegen.cpu.program.place import Evaluated, Place
from saccade.codegen.cpu.program.poison import complement, either
from saccade.codegen.cpu.program.ramps import Ramp
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr

__all__ = ["load"]


def load(place: Place, node: Expr) -> Evaluated:
    """Return the element that a LOAD reads; its operands have been evaluated."""
    program = place.program
    e = program.emitter
    form = None if place.first_key is None else program.split.ramp(node)
    reader = _Reader(place, node)
    poison = either(e, (place.values[arg].poison for arg in program.split.operands(node)))
    for dim in range(len(node.args) - (form is not None)):
        reader.address.add(dim)
    live = all_of(e, reader.address.valid, None if poison is None else complement(e, poison))
    value = reader.scattered(live) if form is None else reader.consecutive(form, live)
    valid = reader.address.valid
    invalid = None if valid is None else complement(e, valid)
    return Evaluated(value, either(e, (poison, invalid)))


class _Reader:
    """One LOAD: its address, and what is loaded from there."""

    def __init__(self, place: Place, node: Expr) -> None:
        program = place.program
        self.e = program.emitter
        self._place = place
        self._slots, self._stored, self._dense = program.capture(node.attr)
        self._integer = program.widths.element(node) if node.dtype is DType.INT64 else I64
        base = program.arguments.address(self._slots.pointer)
        sizes = [program.arguments.whole(slot) for slot in self._slots.sizes]
        strides = [self._stride(dim) for dim in range(len(sizes))]
        self.address = Address(place, node, base, sizes, strides)

    def _stride(self, dim: int) -> Value:
        if self._dense and dim == len(self._slots.strides) - 1:
            return self.e.whole(self._stored.itemsize)
        return self._place.program.arguments.whole(self._slots.strides[dim])

    def scattered(self, live: Value | None) -> Value:
        """Return the element of every lane on its own, or the one of all."""
        e, base, lanes = self.e, self.address.base, self.address.lanes
        if lanes is None and not (live is not None and isinstance(live.type, ir.VectorType)):
            # A dead address is replaced by one that may be read.
            anywhere = self._place.program.arguments.block
            pointer = base if live is None else e.select(live, base, anywhere)
            return load_element(e, pointer, self._stored, self._integer)
        mask = all_of(e, live, self._place.inside)
        mask = e.whole(1, e.vector(BOOL)) if mask is None else e.splat(mask)
        lanes = e.whole(0, e.vector(I64)) if lanes is None else lanes
        return gather_elements(e, base, lanes, mask, self._stored, self._integer)

    def consecutive(self, form: Ramp, live: Value | None) -> Value:
        """Return the elements of consecutive keys, which are consecutive in memory, up or down."""
        runs, counted = self.address.runs(form, live)
        values = [in_memory_order(self.e, form, self._loaded(run, live)) for run in runs]
        return values[0] if counted is None else self.e.select(counted, *values)

    def _loaded(self, run: Run, live: Value | None) -> Value:
        """Load a run, in the order of memory; `live` is where the address else holds."""
        e, stored, pointer, mask = self.e, self._stored, run.pointer, run.mask

        def every_lane() -> Value:
            return load_elements(e, pointer, stored, self._integer)

        def in_mask() -> Value:
            return masked_load_elements(e, pointer, e.splat(mask), stored, self._integer)

        if mask is None:
            return every_lane()
        if live is not None or e.isa.masks_loads(stored):
            return in_mask()
        # Lanes that are out of range may lie in the tensor all the same; then no lane needs a branch.
        size = self._place.program.arguments.whole(self._slots.sizes[-1])
        room = e.builder.sub(size, e.whole(e.lanes))
        fits = e.builder.and_(e.compare(">=", run.first, e.whole(0)), e.compare("<=", run.first, room))
        return e.either(fits, every_lane, in_mask)
