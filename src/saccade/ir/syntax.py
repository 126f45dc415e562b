"""The vocabulary of program text, shared by its writer (`text`) and its reader (`parse`).

Owns which op is written as which Python operator, which as a call, and which names a slot may not take.
"""

from __future__ import annotations

import math
import re

from saccade.ir.dtype import DType
from saccade.ir.ops import OPS, REDUCTIONS, VARIABLES, Op

# Python's precedence: a higher number binds tighter.
COMPARE, OR, XOR, AND, SHIFT, SUM, PRODUCT, UNARY, POWER, ATOM = range(10)

INFIX: dict[Op, tuple[str, int]] = {
    Op.ADD: ("+", SUM),
    Op.SUB: ("-", SUM),
    Op.MUL: ("*", PRODUCT),
    Op.DIV: ("/", PRODUCT),
    Op.FLOOR_DIV: ("//", PRODUCT),
    Op.REMAINDER: ("%", PRODUCT),
    Op.POW: ("**", POWER),
    Op.AND: ("&", AND),
    Op.OR: ("|", OR),
    Op.XOR: ("^", XOR),
    Op.SHL: ("<<", SHIFT),
    Op.SHR: (">>", SHIFT),
    Op.EQ: ("==", COMPARE),
    Op.NE: ("!=", COMPARE),
    Op.LT: ("<", COMPARE),
    Op.LE: ("<=", COMPARE),
}

PREFIX: dict[Op, str] = {Op.NEG: "-", Op.NOT: "~"}

# Ops with a form of their own: a name, a literal, capture[...], type(...), reduction(axis0 < n, ...).
OWN_FORM = frozenset({Op.VAR, Op.CONST, Op.NUMBER, Op.AXIS, Op.LOAD, Op.CAST}) | REDUCTIONS

# NEG is called where its operand is a literal: -1.0 is a literal too.
CALLS: dict[str, Op] = {
    OPS[op].text: op for op in Op if op is Op.NEG or not (op in INFIX or op in PREFIX or op in OWN_FORM)
}

REDUCTION_NAMES: dict[str, Op] = {OPS[op].text: op for op in REDUCTIONS}

DTYPE_NAMES: dict[str, DType] = {dtype.value: dtype for dtype in DType}

LITERALS = {"inf": math.inf, "nan": math.nan}

AXIS_NAME = re.compile(r"axis(\d+)")

# Names with a meaning: a capture may not take one.
RESERVED = frozenset({*VARIABLES, *CALLS, *REDUCTION_NAMES, *DTYPE_NAMES, *LITERALS, "var", "const"})
NUMBERED_NAME = re.compile(r"(axis|[cnv])\d+")


def float_type(result: DType) -> DType:
    """The type of a float literal written without one, in a program with this result type."""
    return result if result.is_float else DType.FLOAT32
