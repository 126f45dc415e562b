"""The table of operations: what a node's value is, from the values of its arguments, on a scalar or lanes.

`OPERATIONS` holds every `Op` whose value follows from its arguments alone; `ELSEWHERE` says of every other
one where it is made. Integers arrive in the width that `widths` computes the node in. Poison is no business
of this module: in its lanes a value is arbitrary, but nothing here traps on any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from saccade.codegen.cpu import conversion, vector_math
from saccade.codegen.cpu.emitter import F32, F64, I8, I16, I32, I64, Emitter, Type, Value, element_of, like
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["ELSEWHERE", "OPERATIONS", "Operation"]

Operation: TypeAlias = Callable[[Emitter, Expr, list[Value], Type], Value]
"""From the node, its arguments' values and the element type wanted of an integer result, to its value."""


def _binary(of_integers: str, of_floats: str) -> Operation:
    """A row of one instruction for integers and one for floats."""

    def build(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
        return e.binary(of_floats if node.args[0].dtype.is_float else of_integers, *args)

    return build


def _elementary(function: Callable[..., Value]) -> Operation:
    """A row of vector math."""
    return lambda e, node, args, result: function(e, *args)


def _negated(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    (a,) = args
    if node.dtype.is_float:
        return e.builder.fneg(a)
    return e.builder.sub(e.whole(0, a.type), a)


def _absolute(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    (a,) = args
    if node.dtype.is_float:
        return e.intrinsic("llvm.fabs", a.type, [a])
    zero = e.whole(0, a.type)
    return e.select(e.compare("<", a, zero), e.builder.sub(zero, a), a)


def _extremum(relation: str) -> Operation:
    def build(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
        a, b = e.matched(*args)
        if not node.dtype.is_float:
            return e.select(e.compare(relation, a, b), a, b)
        swapped = _is_number(node.args[1]) and _is_nonzero(node.args[1])
        if swapped:
            a, b = b, a
        # A comparison with NaN fails and leaves b; so a must not be one. Of two zeros it leaves b as well, as
        # numpy does on x86; so they keep their order.
        chosen = e.select(e.compare(relation, a, b), a, b)
        if swapped or _is_number(node.args[0]):
            return chosen
        return e.select(e.builder.fcmp_unordered("uno", a, a), a, chosen)

    return build


def _is_number(node: Expr) -> bool:
    """Whether a float is known not to be NaN."""
    if node.op is Op.CAST:
        return not node.args[0].dtype.is_float
    return node.op is Op.CONST and node.attr == node.attr


def _is_nonzero(node: Expr) -> bool:
    return node.op is Op.CONST and node.attr != 0


def _not(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    return e.builder.xor(args[0], e.whole(-1, args[0].type))


def _shifted_left(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    value, amount = e.matched(*args)
    width = element_of(value).width
    zero = e.whole(0, value.type)
    known = node.args[1]
    if known.op is Op.CONST:
        inside = 0 <= known.attr < width
        return e.builder.shl(value, e.whole(known.attr, value.type)) if inside else zero
    inside = e.builder.icmp_unsigned("<", amount, e.whole(width, amount.type))
    return e.select(inside, e.builder.shl(value, e.select(inside, amount, zero)), zero)


def _shifted_right(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    value, amount = e.matched(*args)
    # Beyond the last place only the sign is left.
    last = element_of(value).width - 1
    known = node.args[1]
    if known.op is Op.CONST:
        places = known.attr if 0 <= known.attr <= last else last
        return e.builder.ashr(value, e.whole(places, value.type))
    most = e.whole(last, amount.type)
    return e.builder.ashr(value, e.select(e.builder.icmp_unsigned("<", amount, most), amount, most))


def _comparison(relation: str, of_truths: Callable[[Emitter, Value, Value], Value]) -> Operation:
    def build(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
        if node.args[0].dtype is DType.BOOL:
            return of_truths(e, *args)
        return e.compare(relation, *args)

    return build


def _flip(e: Emitter, a: Value) -> Value:
    return e.builder.xor(a, e.whole(-1, a.type))


def _where(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    return e.select(*args)


def _cast(e: Emitter, node: Expr, args: list[Value], result: Type) -> Value:
    (value,), target, source = args, node.attr, node.args[0].dtype
    if target is DType.BOOL:
        return value if source is DType.BOOL else e.compare("!=", value, _zero(e, value))
    if target.is_int:
        return _to_integer(e, value, source, target, result)
    if target is DType.FLOAT64:
        return _to_float(e, value, source, F64)
    single = _to_float(e, value, source, F32)
    if target is DType.FLOAT32:
        return single
    return conversion.widened(e, conversion.narrowed(e, single, target), target)


def _zero(e: Emitter, value: Value) -> Value:
    floats = element_of(value) in (F32, F64)
    return e.real(0.0, value.type) if floats else e.whole(0, value.type)


def _to_float(e: Emitter, value: Value, source: DType, element: Type) -> Value:
    if source is DType.BOOL:
        return e.builder.uitofp(value, like(value, element))
    if not source.is_float:
        return e.builder.sitofp(value, like(value, element))
    if element_of(value) == element:
        return value
    change = e.builder.fpext if element == F64 else e.builder.fptrunc
    return change(value, like(value, element))


_STORED_INTEGER = {
    DType.UINT8: I8,
    DType.INT8: I8,
    DType.INT16: I16,
    DType.INT32: I32,
    DType.INT64: I64,
}


def _to_integer(e: Emitter, value: Value, source: DType, target: DType, result: Type) -> Value:
    """Truncate toward zero, wrap to the target's bits, extend to the lanes'."""
    stored = _STORED_INTEGER[target]
    if source is DType.BOOL:
        return e.builder.zext(value, like(value, result))
    if source.is_float:
        # What wraps must be known whole; what is proven to fit is not looked at beyond.
        value = _truncated(e, value, result if stored is I64 else I64)
    if stored.width >= element_of(value).width:
        return e.resized(value, result)
    kept = e.builder.trunc(value, like(value, stored))
    if target is DType.UINT8:
        return e.builder.zext(kept, like(kept, result))
    return e.resized(kept, result)


def _truncated(e: Emitter, value: Value, element: Type) -> Value:
    """A float as an integer; the least integer where it is beyond them, or NaN."""
    bound = 2.0 ** (element.width - 1)
    inside = e.binary(
        "and_",
        e.compare(">=", value, e.real(-bound, value.type)),
        e.compare("<", value, e.real(bound, value.type)),
    )
    whole = e.builder.fptosi(e.select(inside, value, e.real(0.0, value.type)), like(value, element))
    return e.select(inside, whole, e.whole(-(2 ** (element.width - 1)), whole.type))


OPERATIONS: dict[Op, Operation] = {
    Op.ADD: _binary("add", "fadd"),
    Op.SUB: _binary("sub", "fsub"),
    Op.MUL: _binary("mul", "fmul"),
    Op.DIV: lambda e, node, args, result: e.binary("fdiv", *args),
    Op.REMAINDER: _elementary(vector_math.remainder),  # of floats; of integers see `division`
    Op.POW: _elementary(vector_math.power),
    Op.NEG: _negated,
    Op.ABS: _absolute,
    Op.MINIMUM: _extremum("<"),
    Op.MAXIMUM: _extremum(">"),
    Op.AND: _binary("and_", "and_"),
    Op.OR: _binary("or_", "or_"),
    Op.XOR: _binary("xor", "xor"),
    Op.NOT: _not,
    Op.SHL: _shifted_left,
    Op.SHR: _shifted_right,
    Op.EQ: _comparison("==", lambda e, a, b: _flip(e, e.binary("xor", a, b))),
    Op.NE: _comparison("!=", lambda e, a, b: e.binary("xor", a, b)),
    Op.LT: _comparison("<", lambda e, a, b: e.binary("and_", _flip(e, a), b)),
    Op.LE: _comparison("<=", lambda e, a, b: e.binary("or_", _flip(e, a), b)),
    Op.WHERE: _where,
    Op.CAST: _cast,
    **{op: _elementary(function) for op, function in vector_math.ELEMENTARY.items()},
}

ELSEWHERE: dict[Op, str] = {
    Op.VAR: "given by the kernel: `code`",
    Op.CONST: "a literal: `evaluation`",
    Op.NUMBER: "read from the arguments: `evaluation`",
    Op.AXIS: "bound by a reduction's loop: `reductions`",
    Op.LOAD: "reads memory: `loads`",
    Op.FLOOR_DIV: "guards its divisor, which may poison: `division`",
    Op.SUM: "a loop: `reductions`",
    Op.MAX: "a loop: `reductions`",
    Op.MIN: "a loop: `reductions`",
    Op.CUSTOM: "gone: a program is lowered before it becomes code",
}
