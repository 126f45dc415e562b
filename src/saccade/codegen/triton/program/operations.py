"""The table of operations: what a node's text is, from the terms of its arguments.

`OPERATIONS` holds every `Op` whose value follows from its arguments alone; `ELSEWHERE` says of every other
one where it is written. Integers arrive in the type that `Nodes` computes the node in. Poison is no business
of this module: where a node has no value it is arbitrary, but nothing here traps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import frexp
from typing import TypeAlias, final

from saccade.codegen.triton.program.function_table import Calls
from saccade.codegen.triton.program.terms import (
    BOOL,
    F32,
    F64,
    I64,
    Level,
    Term,
    call,
    infix,
    literal,
    method,
    resized,
)
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["ELSEWHERE", "OPERATIONS", "Operation", "Operator", "is_approximate"]


@final
@dataclass(frozen=True)
class Operation:
    """A node on its way to text.

    Attributes:
        node: The node.
        type: The type its value is wanted in; of an integer the wide one where it is computed so.
        calls: Writes calls of functions.
        counts: Of an integer division, whether the dividend is never negative.
    """

    node: Expr
    type: str
    calls: Calls
    counts: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the arguments are floats."""
        return self.node.args[0].dtype.is_float


Operator: TypeAlias = Callable[[Operation, Sequence[Term]], Term]
"""From a node and its arguments' terms to its term."""


def _infix(symbol: str, level: int) -> Operator:
    return lambda of, args: infix(symbol, level, args[0], args[1])


def _builtin(name: str) -> Operator:
    return lambda of, args: call(name, args[0].type, *args)


def _function(name: str) -> Operator:
    return lambda of, args: of.calls(name, args[0].type, *args)


def _negated(of: Operation, args: Sequence[Term]) -> Term:
    if of.is_float:
        # Triton's minus is 0 - x, which is no -0.0.
        return infix("*", Level.PRODUCT, args[0], literal(-1.0, args[0].type))
    return Term(f"-{args[0].at(Level.UNARY)}", args[0].type, Level.UNARY)


def _extremum(name: str) -> Operator:
    def build(of: Operation, args: Sequence[Term]) -> Term:
        if not of.is_float:
            return call(name, args[0].type, *args)
        return call(name, args[0].type, *args, more=", propagate_nan=tl.PropagateNan.ALL")

    return build


def _is_exact(node: Expr) -> bool:
    """Whether a quotient or root is wanted to the last bit: comparisons of positions may hang on it.

    What is made of a score is rounded already, and takes the fast ones.
    """
    return node.dtype is DType.FLOAT32 and not is_approximate(node)


def is_approximate(node: Expr) -> bool:
    """Return whether a quotient may be the product with the divisor's rounded reciprocal.

    Of a divisor below 2**-128 that is an infinity; the quotients of scores are by then infinities too, or
    were no scores.
    """
    return node.dtype is DType.FLOAT32 and node.depends_on("score", "grad")


def _divided(of: Operation, args: Sequence[Term]) -> Term:
    a, b = args
    moderate = b.known is not None and 2.0**-60 < abs(b.known) < 2.0**60
    if b.known is not None and moderate and (abs(frexp(b.known)[0]) == 0.5 or is_approximate(of.node)):
        return infix("*", Level.PRODUCT, a, literal(1.0 / b.known, b.type))
    return call("tl.div_rn", F32, a, b) if _is_exact(of.node) else infix("/", Level.PRODUCT, a, b)


def _root(of: Operation, args: Sequence[Term]) -> Term:
    return call("tl.sqrt_rn" if _is_exact(of.node) else "tl.sqrt", args[0].type, *args)


def _inverse_root(of: Operation, args: Sequence[Term]) -> Term:
    if args[0].type == F32:
        return call("tl.rsqrt", F32, *args)
    # The device's own is an approximation.
    return infix("/", Level.PRODUCT, literal(1.0, F64), call("tl.sqrt", F64, *args))


def _power(of: Operation, args: Sequence[Term]) -> Term:
    base, exponent = args
    if exponent.known == 2.0 and base.level == Level.ATOM:
        return infix("*", Level.PRODUCT, base, base)
    return of.calls("ir_pow", base.type, *args)


def _remainder(of: Operation, args: Sequence[Term]) -> Term:
    return of.calls("ir_float_remainder", args[0].type, *args) if of.is_float else _whole(of, args)


def _whole(of: Operation, args: Sequence[Term]) -> Term:
    """An integer quotient or remainder that rounds down."""
    a, b = args
    quotient = of.node.op is Op.FLOOR_DIV
    if b.known is None:
        return of.calls("ir_floor_div_any" if quotient else "ir_modulo_any", a.type, a, b)
    divisor = int(b.known)
    if divisor == 0 or (divisor in (1, -1) and not quotient):
        return _nothing(a)
    if divisor in (1, -1):
        return a if divisor == 1 else Term(f"-{a.at(Level.UNARY)}", a.type, Level.UNARY)
    if divisor > 0 and divisor & (divisor - 1) == 0:
        places = literal(divisor.bit_length() - 1, a.type)
        if quotient:
            return infix(">>", Level.SHIFT, a, places)
        return infix("&", Level.AND, a, literal(divisor - 1, a.type))
    if of.counts and divisor > 0:
        return infix("//" if quotient else "%", Level.PRODUCT, a, b)
    return of.calls("ir_floor_div" if quotient else "ir_modulo", a.type, a, b)


def _nothing(value: Term) -> Term:
    """0 in the shape of a value."""
    return infix("&", Level.AND, value, literal(0, value.type))


def _shift(symbol: str, function: str) -> Operator:
    def build(of: Operation, args: Sequence[Term]) -> Term:
        value, amount = args
        known = of.node.args[1]
        if known.op is not Op.CONST:
            return of.calls(function, value.type, value, amount)
        last = 63 if value.type == I64 else 31
        if 0 <= known.attr <= last:
            return infix(symbol, Level.SHIFT, value, literal(known.attr, value.type))
        if symbol == "<<":
            return _nothing(value)
        return infix(symbol, Level.SHIFT, value, literal(last, value.type))

    return build


def _complement(of: Operation, args: Sequence[Term]) -> Term:
    return Term(f"~{args[0].typed.at(Level.UNARY)}", args[0].type, Level.UNARY)


def _comparison(symbol: str, of_truths: Callable[[Term, Term], Term]) -> Operator:
    def build(of: Operation, args: Sequence[Term]) -> Term:
        if of.node.args[0].dtype is DType.BOOL:
            return of_truths(args[0].typed, args[1].typed)
        return infix(symbol, Level.COMPARE, args[0], args[1], BOOL)

    return build


def _flipped(truth: Term) -> Term:
    return Term(f"~{truth.at(Level.UNARY)}", BOOL, Level.UNARY)


def _either(a: Term, b: Term) -> Term:
    return infix("|", Level.OR, a, b)


def _both(a: Term, b: Term) -> Term:
    return infix("&", Level.AND, a, b)


def _differ(a: Term, b: Term) -> Term:
    return infix("^", Level.XOR, a, b)


def _choice(of: Operation, args: Sequence[Term]) -> Term:
    condition, a, b = args
    if a.known is not None and b.known is not None:
        a, b = a.typed, b.typed
    return Term(f"tl.where({condition.typed.text}, {a.text}, {b.text})", a.type)


_STORED = {
    DType.UINT8: "tl.uint8",
    DType.INT8: "tl.int8",
    DType.INT16: "tl.int16",
    DType.INT32: "tl.int32",
    DType.INT64: "tl.int64",
    DType.FLOAT16: "tl.float16",
}


def _cast(of: Operation, args: Sequence[Term]) -> Term:
    (value,), target = args, of.node.attr
    value = value.typed
    if target is DType.BOOL:
        return value if value.type == BOOL else infix("!=", Level.COMPARE, value, _zero(value), type_=BOOL)
    if target.is_int:
        return _to_integer(of, value, target)
    if target is DType.FLOAT64:
        return value if value.type == F64 else method(value, "to", F64, F64)
    single = value if value.type == F32 else method(value, "to", F32, F32)
    if target is DType.FLOAT32:
        return single
    if target is DType.BFLOAT16:
        return of.calls("ir_to_bfloat16", F32, single)
    return method(method(single, "to", F32, _STORED[target]), "to", F32, F32)


def _zero(value: Term) -> Term:
    return literal(0.0 if value.type in (F32, F64) else 0, value.type)


def _to_integer(of: Operation, value: Term, target: DType) -> Term:
    """Truncate toward zero, wrap to the target's bits, extend to the type wanted."""
    if value.type == BOOL:
        return method(value, "to", of.type, of.type)
    if value.type in (F32, F64):
        # What wraps must be known whole; what is proven to fit is not looked at beyond.
        whole = of.type if target is DType.INT64 else I64
        value = of.calls("ir_to_int64" if whole == I64 else "ir_to_int32", whole, value)
    bits = 64 if value.type == I64 else 32
    if target.itemsize * 8 >= bits:
        return resized(value, of.type)
    return method(method(value, "to", of.type, _STORED[target]), "to", of.type, of.type)


OPERATIONS: dict[Op, Operator] = {
    Op.ADD: _infix("+", Level.SUM),
    Op.SUB: _infix("-", Level.SUM),
    Op.MUL: _infix("*", Level.PRODUCT),
    Op.DIV: _divided,
    Op.FLOOR_DIV: _whole,
    Op.REMAINDER: _remainder,
    Op.POW: _power,
    Op.NEG: _negated,
    Op.ABS: _builtin("tl.abs"),
    Op.MINIMUM: _extremum("tl.minimum"),
    Op.MAXIMUM: _extremum("tl.maximum"),
    Op.AND: _infix("&", Level.AND),
    Op.OR: _infix("|", Level.OR),
    Op.XOR: _infix("^", Level.XOR),
    Op.NOT: _complement,
    Op.SHL: _shift("<<", "ir_shift_left"),
    Op.SHR: _shift(">>", "ir_shift_right"),
    Op.EQ: _comparison("==", lambda a, b: _flipped(_differ(a, b))),
    Op.NE: _comparison("!=", _differ),
    Op.LT: _comparison("<", lambda a, b: _both(_flipped(a), b)),
    Op.LE: _comparison("<=", lambda a, b: _either(_flipped(a), b)),
    Op.WHERE: _choice,
    Op.EXP: _builtin("tl.exp"),
    Op.EXP2: _builtin("tl.exp2"),
    Op.EXPM1: _function("ir_expm1"),
    Op.LOG: _builtin("tl.log"),
    Op.LOG2: _builtin("tl.log2"),
    Op.LOG1P: _function("ir_log1p"),
    Op.SQRT: _root,
    Op.RSQRT: _inverse_root,
    Op.SIN: _builtin("tl.sin"),
    Op.COS: _builtin("tl.cos"),
    Op.TAN: _function("ir_tan"),
    Op.ATAN: _function("ir_atan"),
    Op.TANH: _function("ir_tanh"),
    Op.SIGMOID: _function("ir_sigmoid"),
    Op.ERF: _builtin("tl.erf"),
    Op.FLOOR: _builtin("tl.floor"),
    Op.CEIL: _builtin("tl.ceil"),
    Op.TRUNC: _function("ir_trunc"),
    Op.ROUND: _function("ir_round"),
    Op.CAST: _cast,
}

ELSEWHERE: dict[Op, str] = {
    Op.VAR: "given by the kernel: `writer`",
    Op.CONST: "a literal: `writer`",
    Op.NUMBER: "a parameter: `writer`",
    Op.AXIS: "bound by a reduction's loop: `writer`",
    Op.LOAD: "reads memory: `reads`",
    Op.SUM: "a loop: `writer`",
    Op.MAX: "a loop: `writer`",
    Op.MIN: "a loop: `writer`",
    Op.CUSTOM: "gone: a program is lowered before it becomes text",
}
