"""Reductions over a static extent, as loops with a carried accumulator.

Elements join in the order of the axis. The accumulator is a vector also where all lanes agree; what does not
read the axis has been evaluated before the loop.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from llvmlite import ir

from saccade.codegen.cpu.emitter import BOOL, F32, F64, Type, Value
from saccade.codegen.cpu.program.operations import OPERATIONS
from saccade.codegen.cpu.program.place import Evaluated, Place
from saccade.codegen.cpu.program.poison import either
from saccade.ir.expr import Expr, axis, make
from saccade.ir.ops import Op

__all__ = ["reduction"]

Evaluate: TypeAlias = Callable[[Place, Expr], Evaluated]

_JOIN = {Op.SUM: Op.ADD, Op.MAX: Op.MAXIMUM, Op.MIN: Op.MINIMUM}

# What joins with x to x; -0.0 so that a sum of negative zeros stays one.
_NEUTRAL = {Op.SUM: -0.0, Op.MAX: -math.inf, Op.MIN: math.inf}


def reduction(place: Place, node: Expr, evaluate: Evaluate) -> Evaluated:
    """Emit the loop of a SUM, MAX or MIN; its operands have been evaluated.

    Args:
        place: Where the reduction stands.
        node: The reduction.
        evaluate: Evaluates the body inside the loop.
    """
    program, e = place.program, place.program.emitter
    (body,), (k, extent) = node.args, node.attr
    type_ = program.widths.computed(node) if node.dtype.is_int else program.widths.element(node)
    fallible = program.is_fallible(body)
    carried = [_neutral(place, node.op, type_)] + [e.whole(0, e.vector(BOOL))] * fallible
    joined = make(_JOIN[node.op], (body, body))
    uniform = True
    with e.loop(0, extent, carried=carried) as loop:
        index = e.resized(loop.index, program.widths.element(axis(k)))
        inner = replace(place, values=ChainMap({axis(k): Evaluated(index)}, place.values))
        element = evaluate(inner, body)
        uniform = not any(isinstance(part.type, ir.VectorType) for part in _parts(element))
        value = e.splat(e.resized(element.value, type_) if node.dtype.is_int else element.value)
        total = OPERATIONS[joined.op](e, joined, [loop.values[0], value], type_)
        poisons = [e.splat(either(e, (loop.values[1], element.poison)))] if fallible else []
        loop.hand_over([total, *poisons])
    results = [e.lane(result, 0) if uniform else result for result in loop.results]
    if node.dtype.is_int:
        results[0] = e.resized(results[0], program.widths.element(node))
    return Evaluated(*results)


def _parts(element: Evaluated) -> list[Value]:
    return [part for part in (element.value, element.poison) if part is not None]


def _neutral(place: Place, op: Op, type_: Type) -> Value:
    e = place.program.emitter
    vector = e.vector(type_)
    if type_ in (F32, F64):
        return e.real(_NEUTRAL[op], vector)
    most = 2 ** (type_.width - 1) - 1
    return e.whole({Op.SUM: 0, Op.MAX: -most - 1, Op.MIN: most}[op], vector)
