"""Floating numbers and their bits as operands, so that a formula of numerics reads as one.

A `Real` is a vector (or scalar) of FLOAT32 or FLOAT64 of a function under construction, a `Whole` one of
integers; each operator emits one instruction. `FloatFormat` holds the numbers that follow from the width.
Nothing here calls a library, or has a result that LLVM leaves undefined: whole numbers come from rounding by
the addition of a large number, never from a conversion that may be out of range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.emitter import F32, F64, I32, I64, Emitter, Type, Value, element_of, like

__all__ = ["FloatFormat", "Real", "Whole", "where"]


@final
@dataclass(frozen=True)
class FloatFormat:
    """The layout of an IEEE number.

    Attributes:
        name: How tables of coefficients call it, "f32" or "f64".
        fraction_bits: Stored bits of the significand.
        bias: What is added to a stored exponent.
        bits: All bits.
        integer: The integer type of that width.
    """

    name: str
    fraction_bits: int
    bias: int
    bits: int
    integer: Type

    @property
    def rounder(self) -> float:
        """1.5 · 2^fraction_bits: a smaller number added to it is rounded to an integer, halves to even.

        The low bits of the sum are that integer, in two's complement.
        """
        return 1.5 * 2.0**self.fraction_bits

    @property
    def rounder_bits(self) -> int:
        """The bits of `rounder`."""
        return (self.fraction_bits + self.bias << self.fraction_bits) + (1 << self.fraction_bits - 1)

    @property
    def sign_bit(self) -> int:
        """The bit of the sign."""
        return 1 << self.bits - 1

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number."""
        return 2.0**-self.fraction_bits

    @property
    def smallest_normal(self) -> float:
        """The smallest number with a full significand."""
        return 2.0 ** (1 - self.bias)


_FORMATS = {F32: FloatFormat("f32", 23, 127, 32, I32), F64: FloatFormat("f64", 52, 1023, 64, I64)}


@final
@dataclass(frozen=True, eq=False)
class Real:
    """Floating numbers, one a lane; a Python number beside one is a constant of its type.

    Comparisons are ordered: false where a NaN takes part.
    """

    emitter: Emitter
    value: Value

    @property
    def format(self) -> FloatFormat:
        """The layout of these numbers."""
        return _FORMATS[element_of(self.value)]

    @property
    def bits(self) -> Whole:
        """The same bits as integers."""
        type_ = like(self.value, self.format.integer)
        return Whole(self.emitter, self.emitter.builder.bitcast(self.value, type_))

    def constant(self, value: float) -> Real:
        """Return a constant of this type."""
        return Real(self.emitter, self.emitter.real(value, self.value.type))

    def _with(self, operation: str, other: Real | float) -> Real:
        other = other if isinstance(other, Real) else self.constant(other)
        return Real(self.emitter, self.emitter.binary(operation, self.value, other.value))

    def _compare(self, relation: str, other: Real | float) -> Value:
        other = other if isinstance(other, Real) else self.constant(other)
        return self.emitter.compare(relation, self.value, other.value)

    def __add__(self, other: Real | float) -> Real:
        return self._with("fadd", other)

    def __radd__(self, other: float) -> Real:
        return self._with("fadd", other)

    def __sub__(self, other: Real | float) -> Real:
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Real:
        return self.constant(other) - self

    def __mul__(self, other: Real | float) -> Real:
        return self._with("fmul", other)

    def __rmul__(self, other: float) -> Real:
        return self._with("fmul", other)

    def __truediv__(self, other: Real | float) -> Real:
        return self._with("fdiv", other)

    def __rtruediv__(self, other: float) -> Real:
        return self.constant(other) / self

    def __neg__(self) -> Real:
        return Real(self.emitter, self.emitter.builder.fneg(self.value))

    def __abs__(self) -> Real:
        return Real(self.emitter, self.emitter.intrinsic("llvm.fabs", self.value.type, [self.value]))

    def __lt__(self, other: Real | float) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Real | float) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Real | float) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Real | float) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Real | float) -> Value:
        """Return where the two are equal."""
        return self._compare("==", other)

    def is_nan(self) -> Value:
        """Return where this is no number."""
        return self._compare("!=", self)

    def times_plus(self, factor: Real | float, term: Real | float) -> Real:
        """Return self · factor + term, rounded once where the processor can."""
        factor, term = (x if isinstance(x, Real) else self.constant(x) for x in (factor, term))
        return Real(self.emitter, self.emitter.fma(self.value, factor.value, term.value))

    def converted(self, element: Type) -> Real:
        """Return this as F32, rounded, or as F64; as itself if it is that already."""
        target = like(self.value, element)
        if target == self.value.type:
            return self
        convert = self.emitter.builder.fpext if element == F64 else self.emitter.builder.fptrunc
        return Real(self.emitter, convert(self.value, target))

    def at_least(self, bound: float) -> Real:
        """Return the larger of this and a constant; NaN stays."""
        low = self.constant(bound)
        return where(low > self, low, self)

    def at_most(self, bound: float) -> Real:
        """Return the smaller of this and a constant; NaN stays."""
        high = self.constant(bound)
        return where(high < self, high, self)

    def signed_as(self, other: Real) -> Real:
        """Return this, which has no sign, with the sign of another."""
        return (self.bits | (other.bits & self.format.sign_bit)).as_real()


@final
@dataclass(frozen=True, eq=False)
class Whole:
    """Integers, one a lane, that wrap; `>>` fills with zeros."""

    emitter: Emitter
    value: Value

    def as_real(self) -> Real:
        """Return the floating number with these bits."""
        element = F32 if element_of(self.value) == I32 else F64
        return Real(self.emitter, self.emitter.builder.bitcast(self.value, like(self.value, element)))

    def _with(self, operation: str, other: Whole | int) -> Whole:
        if isinstance(other, int):
            bits = element_of(self.value).width
            other = Whole(self.emitter, self.emitter.whole(_wrapped(other, bits), self.value.type))
        return Whole(self.emitter, self.emitter.binary(operation, self.value, other.value))

    def __add__(self, other: Whole | int) -> Whole:
        return self._with("add", other)

    def __sub__(self, other: Whole | int) -> Whole:
        return self._with("sub", other)

    def __mul__(self, other: Whole | int) -> Whole:
        return self._with("mul", other)

    def __neg__(self) -> Whole:
        return Whole(self.emitter, self.emitter.builder.neg(self.value))

    def __and__(self, other: Whole | int) -> Whole:
        return self._with("and_", other)

    def __or__(self, other: Whole | int) -> Whole:
        return self._with("or_", other)

    def __xor__(self, other: Whole | int) -> Whole:
        return self._with("xor", other)

    def __lshift__(self, other: Whole | int) -> Whole:
        return self._with("shl", other)

    def __rshift__(self, other: Whole | int) -> Whole:
        return self._with("lshr", other)

    def differs(self, other: int) -> Value:
        """Return where this is not the given constant."""
        constant = self.emitter.whole(_wrapped(other, element_of(self.value).width), self.value.type)
        return self.emitter.compare("!=", self.value, constant)


def where(condition: Value, a: Real, b: Real) -> Real:
    """Return `a` where the condition holds, else `b`."""
    return Real(a.emitter, a.emitter.select(condition, a.value, b.value))


def _wrapped(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
