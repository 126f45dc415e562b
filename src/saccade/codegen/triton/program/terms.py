"""Terms: pieces of Triton text with a type, put together with no more parentheses than it takes.

Numbers known when the text is written stay literals, which Triton fits to what they meet. Where nothing fits
them, in a call or beside another literal, `typed` gives them a type of their own. Triton takes every zero for
the positive one, so that -0.0 is a product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from saccade.ir.dtype import DType
from saccade.ir.expr import Scalar

__all__ = [
    "BOOL",
    "F32",
    "F64",
    "I32",
    "I64",
    "Level",
    "Term",
    "call",
    "infix",
    "literal",
    "method",
    "resized",
]

BOOL, I32, I64, F32, F64 = "tl.int1", "tl.int32", "tl.int64", "tl.float32", "tl.float64"


class Level:
    """How tightly Python binds what a text is made with."""

    COMPARE = 1
    OR = 2
    XOR = 3
    AND = 4
    SHIFT = 5
    SUM = 6
    PRODUCT = 7
    UNARY = 8
    ATOM = 9


@final
@dataclass(frozen=True)
class Term:
    """An expression as text.

    Attributes:
        text: The expression.
        type: Its element type: `BOOL`, `I32`, `I64`, `F32` or `F64`.
        level: How tightly it binds, of `Level`.
        known: The number that it is, where it is a literal.
    """

    text: str
    type: str
    level: int = Level.ATOM
    known: Scalar | None = None

    def at(self, level: int) -> str:
        """Return the text where an operand of this level stands."""
        return self.text if self.level >= level else f"({self.text})"

    @property
    def typed(self) -> Term:
        """The term as a value of its type, which a literal is not."""
        if self.known is None:
            return self
        return Term(f"tl.full([], {self.text}, {self.type})", self.type)


def literal(value: Scalar, type_: str) -> Term:
    """Return a number as a term; an integer beyond the bits of its type wraps."""
    if type_ == BOOL:
        return Term(str(bool(value)), type_, known=bool(value))
    if type_ in (I32, I64):
        low, high = (DType.INT32 if type_ == I32 else DType.INT64).int_range
        wrapped = (int(value) - low) % (high - low + 1) + low
        return Term(str(wrapped), type_, Level.ATOM if wrapped >= 0 else Level.UNARY, wrapped)
    value = float(value)
    if value == 0.0 and math.copysign(1.0, value) < 0:
        return Term(f"tl.full([], 0.0, {type_}) * -1.0", type_, Level.PRODUCT)
    if not math.isfinite(value):
        text = f'float("{value}")'  # "inf", "-inf" or "nan"
        return Term(text, type_, known=value)
    return Term(repr(value), type_, Level.ATOM if value >= 0 else Level.UNARY, value)


def infix(operator: str, level: int, a: Term, b: Term, type_: str | None = None) -> Term:
    """Return `a operator b`, of the type of `a` unless another is given."""
    if a.known is not None and b.known is not None:
        a = a.typed
    left = level + 1 if level == Level.COMPARE else level  # comparisons would chain
    return Term(f"{a.at(left)} {operator} {b.at(level + 1)}", type_ or a.type, level)


def call(function: str, type_: str, *args: Term, more: str = "") -> Term:
    """Return `function(*args)`; literals are given their types, where Triton would not give them the same."""
    first, *others = args
    texts = [first.typed.text]
    texts += [arg.text if arg.type == I32 and first.type == I32 else arg.typed.text for arg in others]
    return Term(f"{function}({', '.join(texts)}{more})", type_)


def method(term: Term, name: str, type_: str, *args: str) -> Term:
    """Return `term.name(*args)`."""
    return Term(f"{term.typed.at(Level.ATOM)}.{name}({', '.join(args)})", type_)


def resized(term: Term, type_: str) -> Term:
    """Return an integer in 32 or 64 bits."""
    if term.type == type_:
        return term
    if term.known is not None:
        return literal(term.known, type_)
    return method(term, "to", type_, type_)
