"""The five products of a backward tile as functions of their own: one text each, called from one loop.

    S = Q·Kᵀ,   dP = dO·Vᵀ,   dV += Pᵀ·dO,   dK += dSᵀ·Q,   dQ += dS·K.

Products of one shape share a function. A product walks slabs of columns as wide as the register tile, and in
a slab blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, final

from llvmlite import ir

from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.emitter import I64, POINTER, Emitter, Value
from saccade.codegen.cpu.tile_product import TileProduct

__all__ = ["Product", "Products"]

Product: TypeAlias = Callable[[Emitter, Value, Value, Value, Value, Value], None]
"""Calls C (+)= A·B: the function, addresses of C, A and B, rows of C and steps of the sum (int64)."""


@final
@dataclass(frozen=True)
class _Shape:
    """A product but for its rows; bytes.

    Attributes:
        rows: Rows of a block; C has whole blocks.
        vectors: Vectors of a row of C.
        a_row: From one row of A to the next.
        a_step: From one step's operand of A to the next one's.
        b_step: From one step's vectors of B to the next one's.
        b_slab: From one slab of B to the next.
        c_row: From one row of C to the next.
        adds: Whether C is added to.
        unroll: Steps a turn of the sum.
        steps: Of the sum, where known.
    """

    rows: int
    vectors: int
    a_row: int
    a_step: int
    b_step: int
    b_slab: int
    c_row: int
    adds: bool
    unroll: int = 2
    steps: int | None = None


@final
class Products:
    """The products of one kernel, each written when it is first asked for.

    Args:
        tiling: The sizes.
        module: Where the functions go.
    """

    def __init__(self, tiling: BackwardTiling, module: ir.Module) -> None:
        self._tiling, self._module = tiling, module
        self._known: dict[_Shape, ir.Function] = {}

    @cached_property
    def scores(self) -> Product:
        """S, from queries and keys across."""
        return self._across(self._tiling.spec.key.head_dim)

    @cached_property
    def grads(self) -> Product:
        """dP, from rows of the output's gradient and values across."""
        return self._across(self._tiling.spec.key.value_dim)

    @cached_property
    def values(self) -> Product:
        """dV, from weights and rows of the output's gradient."""
        return self._along_rows(self._tiling.value_vectors, self._tiling.grad_row)

    @cached_property
    def keys(self) -> Product:
        """dK, from gradients of scores and queries."""
        return self._along_rows(self._tiling.head_vectors, self._tiling.query_row)

    @cached_property
    def queries(self) -> Product:
        """dQ, from gradients of scores and keys."""
        tiling = self._tiling
        return self._product(
            _Shape(
                rows=tiling.block_rows,
                vectors=tiling.head_vectors,
                a_row=tiling.word_score_row,
                a_step=tiling.word,
                b_step=tiling.query_row,
                b_slab=tiling.register.vectors * tiling.vector,
                c_row=tiling.query_row,
                adds=True,
            )
        )

    def _across(self, dim: int) -> Product:
        """Rows by rows: the right ones lie across, in sub-panels."""
        tiling = self._tiling
        steps = tiling.steps(dim)
        return self._product(
            _Shape(
                rows=tiling.block_rows,
                vectors=tiling.keys // tiling.lanes,
                a_row=tiling.words_row(dim),
                a_step=tiling.word,
                b_step=tiling.sub_keys * tiling.word,
                b_slab=steps * tiling.sub_keys * tiling.word,
                c_row=tiling.score_row,
                adds=False,
                steps=steps,
            )
        )

    def _along_rows(self, vectors: int, row: int) -> Product:
        """Pairs by rows: the pairs are read transposed, a column at a time."""
        tiling = self._tiling
        return self._product(
            _Shape(
                rows=tiling.key_rows,
                vectors=vectors,
                a_row=tiling.word,
                a_step=tiling.step_rows * tiling.score_row,
                b_step=row,
                b_slab=tiling.register.vectors * tiling.vector,
                c_row=row,
                adds=True,
                unroll=tiling.step_rows_at_once,
            )
        )

    def _product(self, shape: _Shape) -> Product:
        function = self._known.get(shape)
        if function is None:
            function = self._emitted(shape, f"product{len(self._known)}")
            self._known[shape] = function

        def call(e: Emitter, c: Value, a: Value, b: Value, rows: Value, steps: Value) -> None:
            e.builder.call(function, [c, a, b, rows, steps])

        return call

    def _emitted(self, shape: _Shape, name: str) -> ir.Function:
        tiling = self._tiling
        parameters = (POINTER, POINTER, POINTER, I64, I64)
        e = Emitter(tiling.spec.isa, tiling.spec.precise, self._module, name, parameters)
        e.function.linkage = "internal"
        c, a, b, rows, steps = e.function.args
        width = tiling.register.vectors
        whole, rest = divmod(shape.vectors, width)

        def slab(vectors: int, number: Value) -> None:
            product = TileProduct(
                rows=shape.rows,
                vectors=vectors,
                pairs=tiling.pairs,
                a_row=shape.a_row,
                a_step=shape.a_step,
                b_step=shape.b_step,
                c_row=shape.c_row,
                unroll=shape.unroll,
            )
            right = e.nth(b, number, shape.b_slab)
            target = e.nth(c, number, width * tiling.vector)
            with e.loop(0, rows, shape.rows) as row:
                left = e.nth(a, row.index, shape.a_row)
                at = e.nth(target, row.index, shape.c_row)
                length = steps if shape.steps is None else shape.steps
                product.emit(e, left, right, at, length, adds=shape.adds)

        if whole:
            with e.loop(0, whole) as loop:
                slab(width, loop.index)
        if rest:
            slab(rest, e.whole(whole))
        e.finish()
        return e.function
