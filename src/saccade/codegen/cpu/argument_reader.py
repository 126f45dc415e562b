"""Reading the argument block inside a kernel.

Each slot is read once, where the function begins, so that its value may be used anywhere in it. The block
does not change while a kernel runs; what does is in `state`.
"""

from __future__ import annotations

from typing import final

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.emitter import F64, I64, POINTER, Emitter, Type, Value
from saccade.ir.dtype import DType

__all__ = ["Arguments"]


@final
class Arguments:
    """The argument block of the function under construction.

    Args:
        emitter: The function.
        pointer: Address of the block: a parameter of the function.
        layout: Where things stand in it.
    """

    def __init__(self, emitter: Emitter, pointer: Value, layout: ArgumentLayout) -> None:
        self.layout = layout
        self._emitter = emitter
        self._pointer = pointer
        self._read: dict[tuple[int, Type], Value] = {}
        pointer.attributes.align = 8
        pointer.attributes.dereferenceable = 8 * layout.size

    def get(self, name: str) -> Value:
        """Return the int64 in one of the fixed slots."""
        return self.whole(self.layout.slot(name))

    def pointer(self, name: str) -> Value:
        """Return the address in one of the fixed slots."""
        return self.address(self.layout.slot(name))

    def real(self, name: str) -> Value:
        """Return the double in one of the fixed slots, as the precise type."""
        value = self.double(self.layout.slot(name))
        if self._emitter.precise is DType.FLOAT64:
            return value
        return self._emitter.builder.fptrunc(value, self._emitter.precise_type)

    def whole(self, slot: int) -> Value:
        """Return the int64 in a slot."""
        return self._slot(slot, I64)

    def address(self, slot: int) -> Value:
        """Return the address in a slot."""
        return self._slot(slot, POINTER)

    def double(self, slot: int) -> Value:
        """Return the double whose bits a slot holds."""
        return self._slot(slot, F64)

    @property
    def block(self) -> Value:
        """Address of the block: memory that may always be read."""
        return self._pointer

    def _slot(self, slot: int, type_: Type) -> Value:
        known = self._read.get((slot, type_))
        if known is None:
            emitter = self._emitter
            with emitter.builder.goto_entry_block():
                known = emitter.load(emitter.at(self._pointer, 8 * slot), type_)
            known.set_metadata("invariant.load", emitter.module.add_metadata([]))
            self._read[slot, type_] = known
        return known
