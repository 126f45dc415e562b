"""The elementary functions by `Op`, and how far from the truth each may be.

Those of forty instructions and more are functions of the module that programs call, for LLVM's time grows
with its text, and the call of one is no slower than its text; the others are written where they are used.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.vector_math import (
    error_function,
    exponentials,
    logarithms,
    powers,
    remainders,
    rounding,
    trigonometry,
)
from saccade.codegen.cpu.vector_math.real import Real
from saccade.ir.ops import Op

__all__ = ["ELEMENTARY", "ULP", "power", "remainder"]


def _on_values(function: Callable[..., Real]) -> Callable[..., Value]:
    """The function on values: scalars are spread and one lane is taken."""

    def emit(e: Emitter, *args: Value) -> Value:
        args = e.matched(*args)
        result = function(*(Real(e, e.splat(arg)) for arg in args)).value
        return result if isinstance(args[0].type, ir.VectorType) else e.lane(result, 0)

    return emit


def _called(name: str, function: Callable[..., Real]) -> Callable[..., Real]:
    """The function of vectors, written once in a module and called wherever it is used."""

    def write(e: Emitter, *args: Value) -> Value:
        return function(*(Real(e, arg) for arg in args)).value

    def call(*args: Real) -> Real:
        e, values = args[0].emitter, [arg.value for arg in args]
        return Real(e, e.call_written(name, values[0].type, values, write))

    return call


def _sqrt(x: Real) -> Real:
    return Real(x.emitter, x.emitter.intrinsic("llvm.sqrt", x.value.type, [x.value]))


ELEMENTARY: dict[Op, Callable[[Emitter, Value], Value]] = {
    op: _on_values(function)
    for op, function in {
        Op.EXP: exponentials.exp,
        Op.EXP2: exponentials.exp2,
        Op.EXPM1: exponentials.expm1,
        Op.LOG: _called("log", logarithms.log),
        Op.LOG2: _called("log2", logarithms.log2),
        Op.LOG1P: _called("log1p", logarithms.log1p),
        Op.SQRT: _sqrt,
        Op.RSQRT: lambda x: 1.0 / _sqrt(x),
        Op.SIN: _called("sin", trigonometry.sin),
        Op.COS: _called("cos", trigonometry.cos),
        Op.TAN: _called("tan", trigonometry.tan),
        Op.ATAN: trigonometry.atan,
        Op.TANH: exponentials.tanh,
        Op.SIGMOID: exponentials.sigmoid,
        Op.ERF: _called("erf", error_function.erf),
        Op.FLOOR: rounding.floor,
        Op.CEIL: rounding.ceil,
        Op.TRUNC: rounding.trunc,
        Op.ROUND: rounding.nearest,
    }.items()
}
"""Each function of one float, on vectors or scalars of FLOAT32 or FLOAT64."""

_power = _on_values(_called("power", powers.power))
_remainder = _on_values(_called("remainder", remainders.remainder))


def power(e: Emitter, a: Value, b: Value) -> Value:
    """Return a ** b of floats of one type; a scalar beside a vector is spread."""
    return _power(e, a, b)


def remainder(e: Emitter, a: Value, b: Value) -> Value:
    """Return a modulo b of floats of one type; a scalar beside a vector is spread."""
    return _remainder(e, a, b)


ULP: dict[Op, tuple[float, float]] = {
    Op.EXP: (1.1, 1.1),
    Op.EXP2: (1.3, 1.3),
    Op.EXPM1: (1.8, 2.5),
    Op.LOG: (1.0, 1.0),
    Op.LOG2: (2.0, 2.0),
    Op.LOG1P: (1.6, 1.6),
    Op.SQRT: (0.5, 0.5),
    Op.RSQRT: (1.5, 1.5),
    Op.SIN: (1.6, 1.0),
    Op.COS: (1.6, 1.0),
    Op.TAN: (3.2, 2.5),
    Op.ATAN: (2.0, 2.0),
    Op.TANH: (2.8, 2.8),
    Op.SIGMOID: (2.5, 2.5),
    Op.ERF: (1.5, 1.5),
    Op.FLOOR: (0.0, 0.0),
    Op.CEIL: (0.0, 0.0),
    Op.TRUNC: (0.0, 0.0),
    Op.ROUND: (0.0, 0.0),
    Op.POW: (0.51, 1.5),
    Op.REMAINDER: (0.5, 0.5),
}
"""The largest error of FLOAT32 and of FLOAT64, in units of the last place of the true result.

On every instruction set, for every argument; below the smallest normal number that unit is the smallest
subnormal. An error of 0.5 is that of rounding the true result.
"""
