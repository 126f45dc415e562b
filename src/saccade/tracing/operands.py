"""Bringing the operands of an operation to one type and one shape.

Every elementwise rule starts here. `pair` is the fast way for two operands, `align` the general one.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const
from saccade.tracing.promotion import NUMBER_DTYPE, WITH_NUMBER, as_float, common_dtype, join
from saccade.tracing.recorder import Recorder, plain_number
from saccade.tracing.value import Number, Operand, Shape, Value, broadcast, broadcast_shapes

__all__ = ["EVERY_TYPE", "INTEGERS", "Aligned", "Pair", "align", "float_of", "pair", "traced", "value_of"]


# Two operands as expressions of one type and shape, after the traced one from which results derive. A plain
# tuple: every operator makes one.
Pair: TypeAlias = tuple[Value, DType, Shape, Expr, Expr]


class Aligned(NamedTuple):
    """Any number of operands as expressions of one type and shape."""

    model: Value
    stored: DType
    shape: Shape
    exprs: tuple[Expr, ...]


INTEGERS = frozenset(stored for stored in DType if not stored.is_float)
EVERY_TYPE = frozenset(DType)
_NONE: frozenset[DType] = frozenset()


def pair(x: Operand, y: Operand, *, specialise: frozenset[DType] = _NONE, real: bool = False) -> Pair:
    """Align two operands, at least one of them traced.

    Args:
        x: A value, tensor or number.
        y: A value, tensor or number.
        specialise: The types of the operation in which code is specialised on `y` if it is a number.
        real: Whether integers are computed as floats.
    """
    if isinstance(x, Value):
        if isinstance(y, Value):
            if x.shape == y.shape:
                if x.stored is y.stored and not real:
                    return x, x.stored, x.shape, x.expr, y.expr
                common = join(x.stored, y.stored)
                if real:
                    common = as_float(common)
                return x, common, x.shape, x.of_type(common), y.of_type(common)
        else:
            stored = WITH_NUMBER.get((x.stored, type(y)))
            if stored is not None:
                if real:
                    stored = as_float(stored)
                a = x.expr if stored is x.stored else x.of_type(stored)
                fixed = stored in specialise
                b = const(y, a.dtype) if fixed else x.recorder.number(y, a.dtype)  # type: ignore[arg-type]
                return x, stored, x.shape, a, b
    elif isinstance(y, Value):
        stored = WITH_NUMBER.get((y.stored, type(x)))
        if stored is not None:
            if real:
                stored = as_float(stored)
            b = y.expr if stored is y.stored else y.of_type(stored)
            return y, stored, y.shape, y.recorder.number(x, b.dtype), b  # type: ignore[arg-type]
    model, promoted, shape, (a, b) = align(x, y, specialise=specialise, real=real)
    return model, promoted, shape, a, b


def align(
    *operands: Operand,
    model: Value | None = None,
    specialise: frozenset[DType] = _NONE,
    real: bool = False,
) -> Aligned:
    """Promote and broadcast operands.

    Args:
        *operands: Values, tensors or numbers.
        model: A value of the trace, needed where no operand is one.
        specialise: The types of the operation in which code is specialised on a number in the last place.
        real: Whether integers are computed as floats.
    """
    if model is None:
        model = traced(*operands)
    lifted = [_lift(operand, model.recorder) for operand in operands]
    shaped: DType | None = None
    scalar: DType | None = None
    number: DType | None = None
    for operand in lifted:
        if not isinstance(operand, Value):
            kind = NUMBER_DTYPE[type(operand)]
            number = kind if number is None else join(number, kind)
        elif operand.shape:
            shaped = operand.stored if shaped is None else join(shaped, operand.stored)
        else:
            scalar = operand.stored if scalar is None else join(scalar, operand.stored)
    stored = common_dtype(shaped, scalar, number)
    if real:
        stored = as_float(stored)
    shape = () if shaped is None else broadcast_shapes(*(v.shape for v in lifted if isinstance(v, Value)))
    last = len(lifted) - 1
    exprs = tuple(
        broadcast(operand.of_type(stored), operand.shape, shape)
        if isinstance(operand, Value)
        else const(operand, stored.value_type)
        if position == last and stored in specialise
        else model.recorder.number(operand, stored.value_type)
        for position, operand in enumerate(lifted)
    )
    return Aligned(model, stored, shape, exprs)


def value_of(operand: Operand, model: Value, stored: DType | None = None) -> Value:
    """Any operand as a value of `model`'s trace; a number becomes one of type `stored`, or of its own."""
    lifted = _lift(operand, model.recorder)
    if isinstance(lifted, Value):
        return lifted
    stored = stored or NUMBER_DTYPE[type(lifted)]
    return model.derive(model.recorder.number(lifted, stored.value_type), stored)


def traced(*operands: object) -> Value:
    """The first operand that belongs to a trace."""
    return next(operand for operand in operands if isinstance(operand, Value))


def float_of(x: Value) -> tuple[Expr, DType]:
    """The argument of a function of real numbers: integers are converted."""
    stored = as_float(x.stored)
    return x.of_type(stored), stored


def _lift(operand: Operand, recorder: Recorder) -> Value | Number:
    if isinstance(operand, Value) or type(operand) in NUMBER_DTYPE:
        return operand  # type: ignore[return-value]
    number = plain_number(operand)
    if isinstance(number, (bool, int, float)):
        # A subclass (an IntEnum, numpy.float64) counts as what it extends.
        return next(kind(number) for kind in (bool, int, float) if isinstance(number, kind))
    return recorder.lift(operand)  # type: ignore[arg-type]
