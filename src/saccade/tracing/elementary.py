"""Rules for functions of real numbers: exponentials, trigonometry, activations.

Integers are converted to float32 first. Where torch has a kernel of its own for a composite (silu, gelu,
softplus), the composite here agrees with its value and, at kinks, with its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from saccade.errors import TraceError
from saccade.ir.expr import Expr, const, make
from saccade.ir.ops import Op
from saccade.tracing.operands import float_of
from saccade.tracing.value import Number, Value

__all__ = [
    "ELEMENTARY",
    "elu",
    "gelu",
    "hardtanh",
    "leaky_relu",
    "relu",
    "relu6",
    "softplus",
    "threshold",
]

Rule = Callable[[Value], Value]


def _direct(op: Op) -> Rule:
    """The rule of a function that is one op."""

    def rule(x: Value) -> Value:
        argument, stored = float_of(x)
        return x.derive(make(op, (argument,)), stored, x.shape)

    return rule


def _composite(build: Callable[[Expr], Expr]) -> Rule:
    """The rule of a function that is an expression of its argument."""

    def rule(x: Value) -> Value:
        argument, stored = float_of(x)
        return x.derive(build(argument), stored, x.shape)

    return rule


def _add(a: Expr, b: Expr) -> Expr:
    return make(Op.ADD, (a, b))


def _sub(a: Expr, b: Expr) -> Expr:
    return make(Op.SUB, (a, b))


def _mul(a: Expr, b: Expr | float) -> Expr:
    return make(Op.MUL, (a, b if isinstance(b, Expr) else const(b, a.dtype)))


def _div(a: Expr, b: Expr) -> Expr:
    return make(Op.DIV, (a, b))


def _like(x: Expr, value: float) -> Expr:
    return const(value, x.dtype)


def _softsign(x: Expr) -> Expr:
    return _div(x, _add(_like(x, 1), make(Op.ABS, (x,))))


def _logsigmoid(x: Expr) -> Expr:
    # log(sigmoid(x)) = min(x, 0) - log(1 + e^-|x|), which never overflows.
    tail = make(Op.LOG1P, (make(Op.EXP, (make(Op.NEG, (make(Op.ABS, (x,)),)),)),))
    return _sub(make(Op.MINIMUM, (x, _like(x, 0))), tail)


def _mish(x: Expr) -> Expr:
    return _mul(x, make(Op.TANH, (_softplus(x, _like(x, 1), _like(x, 20)),)))


def _sinh(x: Expr) -> Expr:
    # (expm1(x) - expm1(-x)) / 2 keeps its digits near 0.
    return _mul(_sub(make(Op.EXPM1, (x,)), make(Op.EXPM1, (make(Op.NEG, (x,)),))), 0.5)


def _cosh(x: Expr) -> Expr:
    return _mul(_add(make(Op.EXP, (x,)), make(Op.EXP, (make(Op.NEG, (x,)),))), 0.5)


def _hardsigmoid(x: Expr) -> Expr:
    return _between(_div(_add(x, _like(x, 3)), _like(x, 6)), _like(x, 0), _like(x, 1))


def _between(x: Expr, low: Expr, high: Expr) -> Expr:
    """`x` limited to an interval; as in torch's hard activations, the derivative is 0 at both ends."""
    upper = make(Op.WHERE, (make(Op.LE, (high, x)), high, x))
    return make(Op.WHERE, (make(Op.LE, (x, low)), low, upper))


def _softplus(x: Expr, beta: Expr, limit: Expr) -> Expr:
    scaled = _mul(x, beta)
    curve = _div(make(Op.LOG1P, (make(Op.EXP, (scaled,)),)), beta)
    return make(Op.WHERE, (make(Op.LT, (limit, scaled)), x, curve))


ELEMENTARY: dict[str, Rule] = {
    "exp": _direct(Op.EXP),
    "exp2": _direct(Op.EXP2),
    "expm1": _direct(Op.EXPM1),
    "log": _direct(Op.LOG),
    "log2": _direct(Op.LOG2),
    "log1p": _direct(Op.LOG1P),
    "log10": _composite(lambda x: _mul(make(Op.LOG2, (x,)), math.log10(2))),
    "sqrt": _direct(Op.SQRT),
    "rsqrt": _direct(Op.RSQRT),
    "sin": _direct(Op.SIN),
    "cos": _direct(Op.COS),
    "tan": _direct(Op.TAN),
    "atan": _direct(Op.ATAN),
    "arctan": _direct(Op.ATAN),
    "sinh": _composite(_sinh),
    "cosh": _composite(_cosh),
    "tanh": _direct(Op.TANH),
    "sigmoid": _direct(Op.SIGMOID),
    "expit": _direct(Op.SIGMOID),
    "erf": _direct(Op.ERF),
    "erfc": _composite(lambda x: _sub(_like(x, 1), make(Op.ERF, (x,)))),
    "deg2rad": _composite(lambda x: _mul(x, math.pi / 180)),
    "rad2deg": _composite(lambda x: _mul(x, 180 / math.pi)),
    "softsign": _composite(_softsign),
    "logsigmoid": _composite(_logsigmoid),
    "tanhshrink": _composite(lambda x: _sub(x, make(Op.TANH, (x,)))),
}
"""Functions of one argument, by their name in `torch`, `torch.special` or `torch.nn.functional`."""


def _number(x: Value, value: Number, argument: Expr) -> Expr:
    """A parameter of an activation, as a run-time number."""
    return x.recorder.number(value, argument.dtype)


def silu(x: Value, inplace: bool = False) -> Value:
    """`x * sigmoid(x)`."""
    argument, stored = float_of(x)
    return x.derive(_mul(argument, make(Op.SIGMOID, (argument,))), stored, x.shape)


def mish(x: Value, inplace: bool = False) -> Value:
    """`x * tanh(softplus(x))`."""
    argument, stored = float_of(x)
    return x.derive(_mish(argument), stored, x.shape)


def gelu(x: Value, *, approximate: str = "none") -> Value:
    """The Gaussian error linear unit, exact or by tanh (arXiv 1606.08415)."""
    argument, stored = float_of(x)
    if approximate == "none":
        inner = make(Op.ERF, (_mul(argument, math.sqrt(0.5)),))
    elif approximate == "tanh":
        cubic = _add(argument, _mul(_mul(_mul(argument, argument), argument), 0.044715))
        inner = make(Op.TANH, (_mul(cubic, math.sqrt(2 / math.pi)),))
    else:
        raise TraceError(f"gelu() expects approximate='none' or 'tanh', got approximate={approximate!r}")
    weight = _mul(_add(_like(argument, 1), inner), 0.5)
    return x.derive(_mul(argument, weight), stored, x.shape)


def softplus(x: Value, beta: Number = 1, threshold: Number = 20) -> Value:
    """`log(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x` exceeds the threshold."""
    argument, stored = float_of(x)
    curve = _softplus(argument, _number(x, beta, argument), _number(x, threshold, argument))
    return x.derive(curve, stored, x.shape)


def relu(x: Value, inplace: bool = False) -> Value:
    """`max(x, 0)`, with derivative 0 at 0."""
    return threshold(x, 0, 0)


def threshold(x: Value, threshold: Number, value: Number, inplace: bool = False) -> Value:
    """`x` where it exceeds the threshold, else `value`."""
    limit = _number(x, threshold, x.expr)
    other = _number(x, value, x.expr)
    return x.derive(make(Op.WHERE, (make(Op.LE, (x.expr, limit)), other, x.expr)), x.stored, x.shape)


def leaky_relu(x: Value, negative_slope: Number = 0.01, inplace: bool = False) -> Value:
    """`x` where positive, else `negative_slope * x`."""
    argument, stored = float_of(x)
    low = _mul(argument, _number(x, negative_slope, argument))
    positive = make(Op.LT, (_like(argument, 0), argument))
    return x.derive(make(Op.WHERE, (positive, argument, low)), stored, x.shape)


def elu(x: Value, alpha: Number = 1.0, inplace: bool = False) -> Value:
    """`x` where positive, else `alpha * (exp(x) - 1)`."""
    argument, stored = float_of(x)
    low = _mul(make(Op.EXPM1, (argument,)), _number(x, alpha, argument))
    positive = make(Op.LT, (_like(argument, 0), argument))
    return x.derive(make(Op.WHERE, (positive, argument, low)), stored, x.shape)


def hardtanh(x: Value, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False) -> Value:
    """`x` limited to `[min_val, max_val]`, with derivative 0 at both ends."""
    limited = _between(x.expr, _number(x, min_val, x.expr), _number(x, max_val, x.expr))
    return x.derive(limited, x.stored, x.shape)


def relu6(x: Value, inplace: bool = False) -> Value:
    """`x` limited to `[0, 6]`."""
    return hardtanh(x, 0, 6)


def hardsigmoid(x: Value, inplace: bool = False) -> Value:
    """`(x + 3) / 6` limited to `[0, 1]`."""
    argument, stored = float_of(x)
    return x.derive(_hardsigmoid(argument), stored, x.shape)


def hardswish(x: Value, inplace: bool = False) -> Value:
    """`x * hardsigmoid(x)`."""
    argument, stored = float_of(x)
    return x.derive(_mul(argument, _hardsigmoid(argument)), stored, x.shape)
