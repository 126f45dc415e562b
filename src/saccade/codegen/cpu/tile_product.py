"""The one tile product every kernel is made of: C[rows, columns] (+)= A·B, with C in registers.

A is read where it lies, by two strides, one operand at a time spread over a vector; B comes packed, so that a
step of the sum reads consecutive vectors, or by the caller's own loads. In the class of bfloat16 pairs an
operand is two neighbours along the sum and a step multiplies both. Owns the inner loop; which tiles there
are, and in what order, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from llvmlite import ir

from saccade.codegen.cpu.emitter import BF16, I32, Emitter, Value

__all__ = ["Right", "TileProduct"]

Right: TypeAlias = Callable[[Value, int], list[Value]]
"""From the first step of a turn (int64), and a step within it, to that step's vectors of B."""


@final
@dataclass(frozen=True)
class TileProduct:
    """A product of fixed shape and strides, in bytes; how many steps the sum has may be known later.

    Attributes:
        rows: Rows of C.
        vectors: Vectors of a row of C.
        pairs: Whether operands are pairs of bfloat16.
        a_row: From one row of A to the next.
        a_step: From one step's operand of A to the next one's.
        b_step: From one step's vectors of B to the next one's, where B is packed.
        c_row: From one row of C to the next.
        unroll: Steps a turn of the loop; more than two are no faster and take longer to compile.
    """

    rows: int
    vectors: int
    pairs: bool
    a_row: int
    a_step: int
    b_step: int
    c_row: int
    unroll: int = 2

    def emit(
        self,
        e: Emitter,
        a: Value,
        b: Value | Right,
        c: Value,
        steps: Value | int,
        factors: Value | None = None,
        *,
        adds: bool = False,
    ) -> None:
        """Emit C := A·B, or C := diag(factors)·C + A·B, or C := C + A·B.

        Args:
            e: The function.
            a: Address of A.
            b: Address of B, or what loads its vectors.
            c: Address of C.
            steps: Of the sum; a value must be a multiple of `unroll`.
            factors: Address of a number of the precise type for each row.
            adds: Whether C is added to.
        """
        start = [e.splat(e.real(0.0))] * (self.rows * self.vectors)
        whole = steps - steps % self.unroll if isinstance(steps, int) else steps
        with e.loop(0, whole, self.unroll, start) as loop:
            a_turn = e.nth(a, loop.index, self.a_step)
            sums = loop.values
            for step in range(self.unroll):
                sums = self._step(e, a_turn, self._right(e, b, loop.index, step), step, sums)
            loop.hand_over(sums)
        sums = loop.results
        if isinstance(steps, int):
            for step in range(whole, steps):
                sums = self._step(e, a, self._right(e, b, e.whole(0), step), step, sums)
        for place, total in enumerate(sums):
            row, column = divmod(place, self.vectors)
            at = self._place(e, c, row, column)
            e.store(self._joined(e, at, total, factors, row, adds=adds), at)

    def _joined(
        self, e: Emitter, c: Value, total: Value, factors: Value | None, row: int, *, adds: bool
    ) -> Value:
        """What C becomes: sums begin at 0, so that those of a long row are sums of sums, and round less."""
        if adds:
            return e.binary("fadd", e.load_vector(c), total)
        if factors is None:
            return total
        factor = e.load(e.at(factors, row * self._element_bytes(e)), e.precise_type)
        return e.fma(e.load_vector(c), e.splat(factor), total)

    def _step(self, e: Emitter, a: Value, right: list[Value], step: int, sums: list[Value]) -> list[Value]:
        """Add the products of one step."""
        following = []
        for row in range(self.rows):
            left = self._left(e, e.at(a, row * self.a_row + step * self.a_step))
            for column in range(self.vectors):
                total = sums[row * self.vectors + column]
                following.append(self._multiply_add(e, left, right[column], total))
        return following

    def _left(self, e: Emitter, address: Value) -> Value:
        if self.pairs:
            return e.builder.bitcast(e.splat(e.load(address, I32)), _pairs(e))
        return e.splat(e.load(address, e.precise_type))

    def _right(self, e: Emitter, b: Value | Right, turn: Value, step: int) -> list[Value]:
        if callable(b):
            return b(turn, step)
        begin = e.at(e.nth(b, turn, self.b_step), step * self.b_step)
        addresses = [e.at(begin, column * self._vector_bytes(e)) for column in range(self.vectors)]
        return [e.load(at, _pairs(e)) if self.pairs else e.load_vector(at) for at in addresses]

    def _multiply_add(self, e: Emitter, left: Value, right: Value, total: Value) -> Value:
        if self.pairs:
            return e.call("llvm.x86.avx512bf16.dpbf16ps.512", total.type, [total, left, right])
        return e.fma(left, right, total)

    def _place(self, e: Emitter, c: Value, row: int, column: int) -> Value:
        return e.at(c, row * self.c_row + column * self._vector_bytes(e))

    @staticmethod
    def _element_bytes(e: Emitter) -> int:
        return e.precise.itemsize

    @staticmethod
    def _vector_bytes(e: Emitter) -> int:
        return e.lanes * e.precise.itemsize


def _pairs(e: Emitter) -> ir.VectorType:
    return ir.VectorType(BF16, 2 * e.lanes)
