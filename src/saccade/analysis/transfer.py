"""The table of transfer functions: from what is known of the arguments to what is known of the value.

A row takes the node, what is known of its arguments, and the `Scene`: the rectangles and the data the leaves
read. The table is total over `Op`. Evaluation order and affine forms are the business of `bounds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from saccade.analysis import floats, integers, logic
from saccade.analysis.interval import Number, Value, exactly, whole
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op


class Scene(Protocol):
    """What leaves read: the rectangles, the captured tensors and the numbers of one analysis."""

    def variable(self, name: str) -> Number:
        """The range of an index variable on every rectangle."""

    def number(self, slot: int) -> int | float:
        """A run-time number."""

    def axis(self, k: int) -> Number:
        """The range of a reduction's index."""

    def load(self, node: Expr, indices: list[Number]) -> Value:
        """The range of a captured tensor over ranges of its indices."""


Transfer = Callable[[Expr, list[Any], Scene], Value]


def _typed(of_integers: Callable[..., Value], of_floats: Callable[..., Value]) -> Transfer:
    """A row that differs between integers and floats."""

    def apply(node: Expr, args: list[Any], scene: Scene) -> Value:
        return (of_integers if node.args[0].dtype is DType.INT64 else of_floats)(*args)

    return apply


def _either_logic(of_integers: Callable[..., Value], of_truths: Callable[..., Value]) -> Transfer:
    """A row that differs between numbers and booleans."""

    def apply(node: Expr, args: list[Any], scene: Scene) -> Value:
        return (of_truths if node.args[0].dtype is DType.BOOL else of_integers)(*args)

    return apply


def _plain(function: Callable[..., Value]) -> Transfer:
    """A row for one kind of arguments."""

    def apply(node: Expr, args: list[Any], scene: Scene) -> Value:
        return function(*args)

    return apply


def _variable(node: Expr, args: list[Any], scene: Scene) -> Value:
    # Scores and gradients are no business of masks: nothing is known of them.
    return scene.variable(node.attr) if node.dtype is DType.INT64 else whole(node.dtype)


def _constant(node: Expr, args: list[Any], scene: Scene) -> Value:
    return exactly(np.asarray(node.attr), node.dtype)


def _number(node: Expr, args: list[Any], scene: Scene) -> Value:
    return exactly(np.asarray(scene.number(node.attr)), node.dtype)


def _where(node: Expr, args: list[Any], scene: Scene) -> Value:
    choose: Callable[..., Value] = logic.where_truth if node.dtype is DType.BOOL else logic.where_number
    return choose(*args)


def _cast(node: Expr, args: list[Any], scene: Scene) -> Value:
    target: DType = node.attr
    source = node.args[0].dtype
    if target is DType.BOOL:
        return args[0] if source is DType.BOOL else logic.to_truth(args[0])
    number = logic.from_truth(args[0], target) if source is DType.BOOL else args[0]
    if target.is_int:
        return logic.to_integer(number, target)
    return logic.to_float(number, target)


def _sum(node: Expr, args: list[Any], scene: Scene) -> Value:
    (a,) = args
    extent = node.attr[1]
    if extent == 0:
        return exactly(np.asarray(0), node.dtype)
    if node.dtype is DType.INT64:
        count = np.int64(extent)
        # Terms differ, so of their congruence only the common modulus would remain.
        term = Number(a.lo, a.hi, None, a.poison)
        return integers.mul(term, Number(count, count))
    return floats.total(a, extent)


def _extremum(node: Expr, args: list[Any], scene: Scene) -> Value:
    (a,) = args
    return Number(a.lo, a.hi, a.nan, a.poison)


def _custom(node: Expr, args: list[Any], scene: Scene) -> Value:
    return args[0]  # type: ignore[no-any-return]


TRANSFER: dict[Op, Transfer] = {
    Op.VAR: _variable,
    Op.CONST: _constant,
    Op.NUMBER: _number,
    Op.AXIS: lambda node, args, scene: scene.axis(node.attr),
    Op.LOAD: lambda node, args, scene: scene.load(node, args),
    Op.ADD: _typed(integers.add, floats.add),
    Op.SUB: _typed(integers.sub, floats.sub),
    Op.MUL: _typed(integers.mul, floats.mul),
    Op.DIV: _plain(floats.div),
    Op.FLOOR_DIV: _plain(integers.floor_div),
    Op.REMAINDER: _typed(integers.remainder, floats.remainder),
    Op.POW: _plain(floats.power),
    Op.NEG: _typed(integers.neg, floats.neg),
    Op.ABS: _typed(integers.absolute, floats.absolute),
    Op.MINIMUM: _typed(integers.minimum, floats.minimum),
    Op.MAXIMUM: _typed(integers.maximum, floats.maximum),
    Op.AND: _either_logic(integers.bit_and, logic.conjunction),
    Op.OR: _either_logic(integers.bit_or, logic.disjunction),
    Op.XOR: _either_logic(integers.bit_xor, logic.parity),
    Op.NOT: _either_logic(integers.bit_not, logic.negation),
    Op.SHL: _plain(integers.shl),
    Op.SHR: _plain(integers.shr),
    Op.EQ: _either_logic(logic.equal, logic.equal_truth),
    Op.NE: _either_logic(logic.not_equal, logic.parity),
    Op.LT: _either_logic(logic.less, logic.less_truth),
    Op.LE: _either_logic(logic.less_equal, logic.less_equal_truth),
    Op.WHERE: _where,
    Op.EXP: _plain(floats.increasing(Op.EXP)),
    Op.EXP2: _plain(floats.increasing(Op.EXP2)),
    Op.EXPM1: _plain(floats.increasing(Op.EXPM1)),
    Op.LOG: _plain(floats.increasing(Op.LOG, 0.0)),
    Op.LOG2: _plain(floats.increasing(Op.LOG2, 0.0)),
    Op.LOG1P: _plain(floats.increasing(Op.LOG1P, -1.0)),
    Op.SQRT: _plain(floats.increasing(Op.SQRT, 0.0)),
    Op.RSQRT: _plain(floats.rsqrt),
    Op.SIN: _plain(floats.within(Op.SIN, -1.0, 1.0)),
    Op.COS: _plain(floats.within(Op.COS, -1.0, 1.0)),
    Op.TAN: _plain(floats.within(Op.TAN, -np.inf, np.inf)),
    Op.ATAN: _plain(floats.increasing(Op.ATAN)),
    Op.TANH: _plain(floats.increasing(Op.TANH)),
    Op.SIGMOID: _plain(floats.increasing(Op.SIGMOID)),
    Op.ERF: _plain(floats.erf),
    Op.FLOOR: _plain(floats.rounding(Op.FLOOR)),
    Op.CEIL: _plain(floats.rounding(Op.CEIL)),
    Op.TRUNC: _plain(floats.rounding(Op.TRUNC)),
    Op.ROUND: _plain(floats.rounding(Op.ROUND)),
    Op.CAST: _cast,
    Op.SUM: _sum,
    Op.MAX: _extremum,
    Op.MIN: _extremum,
    Op.CUSTOM: _custom,
}
