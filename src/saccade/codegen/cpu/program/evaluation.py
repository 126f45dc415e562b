"""The evaluation of nodes at a place: arguments first, each once.

Programs may be thousands of nodes deep, so nothing here recurses but reductions into their bodies.
"""

from __future__ import annotations

from saccade.codegen.cpu.emitter import F64, Value
from saccade.codegen.cpu.program.division import divide
from saccade.codegen.cpu.program.loads import load
from saccade.codegen.cpu.program.operations import OPERATIONS
from saccade.codegen.cpu.program.place import Evaluated, Place
from saccade.codegen.cpu.program.poison import either, poison_of
from saccade.codegen.cpu.program.reductions import reduction
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import REDUCTIONS, Op

__all__ = ["evaluate"]


def evaluate(place: Place, root: Expr) -> Evaluated:
    """Return what a node is at a place, evaluating what it needs."""
    values = place.values
    stack = [root]
    while stack:
        node = stack[-1]
        missing = []
        if node not in values:
            missing = [arg for arg in place.program.split.operands(node) if arg not in values]
            if not missing:
                values[node] = _apply(place, node)
        if missing:
            stack.extend(missing)
        else:
            stack.pop()
    return values[root]


def _apply(place: Place, node: Expr) -> Evaluated:
    program = place.program
    e = program.emitter
    if node.op is Op.CONST:
        return Evaluated(_literal(place, node))
    if node.op is Op.NUMBER:
        return Evaluated(_number(place, node))
    if node.op is Op.LOAD:
        return load(place, node)
    if node.op in REDUCTIONS:
        return reduction(place, node, evaluate)
    assert node.args, f"{node!r} is given by the kernel"
    known = [place.values[arg] for arg in node.args]
    values = program.widths.arguments(e, node, [arg.value for arg in known])
    poison = poison_of(e, node, [arg.value for arg in known], [arg.poison for arg in known])
    if node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64:
        return _divided(place, node, values, poison)
    element = program.widths.element(node)
    value = OPERATIONS[node.op](e, node, values, element)
    if node.dtype is DType.INT64:
        value = e.resized(value, element)
    return Evaluated(value, poison)


def _literal(place: Place, node: Expr) -> Value:
    e, element = place.program.emitter, place.program.widths.element(node)
    return e.real(node.attr, element) if node.dtype.is_float else e.whole(int(node.attr), element)


def _number(place: Place, node: Expr) -> Value:
    program, e = place.program, place.program.emitter
    slot = program.numbers[node.attr]
    if node.dtype is DType.INT64:
        return e.resized(program.arguments.whole(slot), program.widths.element(node))
    value = program.arguments.double(slot)
    element = program.widths.element(node)
    return value if element == F64 else e.builder.fptrunc(value, element)


def _divided(place: Place, node: Expr, values: list[Value], poison: Value | None) -> Evaluated:
    program, e = place.program, place.program.emitter
    dividend, divisor = node.args
    value = divide(
        e,
        node.op,
        *values,
        constant=divisor.attr if divisor.op is Op.CONST else None,
        counts=program.is_nonnegative(dividend),
    )
    if not program.is_proven(node):
        zero = e.compare("==", values[1], e.whole(0, values[1].type))
        poison = either(e, (poison, zero))
    return Evaluated(e.resized(value, program.widths.element(node)), poison)
