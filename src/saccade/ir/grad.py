"""The derivative of a score program: reverse mode on the graph, one rule an op.

`RULES` gives, for each op, the gradient of every argument from the gradient of the node. Conventions at ties
and kinks are torch's: `maximum` and `minimum` share a tie half and half, `amax` and `amin` evenly, `abs` has
slope 0 at 0. Integers, booleans and rounding functions pass no gradient; a cast between floats passes it
unrounded. CUSTOM uses the user's own gradients.

In one thing this is stricter than torch: a gradient that `where` does not let through is 0 all the way down,
past an infinite slope or an index out of range (`where(c, g, 0) * f'` is built as `where(c, g * f', 0)`). So
a derivative has poison only where the program, or a user's own gradient, has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from saccade.errors import ProgramError
from saccade.ir.axes import free_axes, separate_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, axis_bit, cast, const, make, substitute, var, walk
from saccade.ir.ops import REDUCTIONS, Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import ModKind, Structure


@final
@dataclass(frozen=True)
class CaptureGradient:
    """What one load contributes to the gradient of a captured tensor.

    At every pair, and for every value of `axes`, `value` is to be added to element `indices` of the gradient.
    An index may be negative, counting from the end; where it is out of range `value` is 0 unless the program
    itself is poison.

    Attributes:
        slot: The capture.
        indices: One INT64 expression a dimension.
        value: Of the capture's value type; reads the mod's variables, `grad`, and `axes`.
        axes: The reduction axes that `indices` and `value` may read, as (axis, extent).
    """

    slot: int
    indices: tuple[Expr, ...]
    value: Expr
    axes: tuple[tuple[int, int], ...] = ()


@final
@dataclass(frozen=True)
class Derivative:
    """Gradients of a score program, as expressions over its variables and `grad`, the gradient of its result.

    Attributes:
        score: Gradient of the score, of its type; None if the result does not depend on it.
        captures: What each load of a wanted capture contributes, in the order of the program.
    """

    score: Expr | None
    captures: tuple[CaptureGradient, ...]


def differentiate(structure: Structure, wrt: Collection[int] = ()) -> Derivative:
    r"""Differentiate a score program.

    Args:
        structure: A SCORE structure.
        wrt: Slots of the captured tensors whose gradients are wanted; they store floats.

    Returns:
        The gradients, simplified. Everything they contain evaluates without CUSTOM.

    Raises:
        ProgramError: If the structure is a mask, or a slot of `wrt` is not a float capture.

    Example:
        >>> from saccade.ir.text import format_expression, parse_structure
        >>> softcap = parse_structure("score(c0: f32[1]) -> f32\ntanh(score) * c0[h]")
        >>> derivative = differentiate(softcap, wrt=[0])
        >>> print(format_expression(derivative.captures[0].value))
        grad * tanh(score)
    """
    if structure.kind is not ModKind.SCORE:
        raise ProgramError("expected a score program, got a mask: a mask has no gradient")
    for slot in wrt:
        if not 0 <= slot < len(structure.captures) or not structure.captures[slot].dtype.is_float:
            raise ProgramError(f"expected slots of float captures, got wrt={slot}: leave it out")
    root = separate_axes(structure.root)
    gradients = _Sweep(root, wrt).run()
    extents = {node.attr[0]: node.attr[1] for node in walk(root) if node.op in REDUCTIONS}
    score: Expr | None = None
    merged: dict[tuple[int, tuple[Expr, ...], tuple[int, ...]], Expr] = {}
    for node, gradient in gradients.items():
        axes = tuple(sorted(free_axes(node)))
        value = separate_axes(gradient, axes)
        if node.op is Op.VAR:
            score = lower(value)
            continue
        # Loads that differ as written may be one after simplification.
        key = node.attr, tuple(lower(separate_axes(index, axes)) for index in node.args), axes
        merged[key] = make(Op.ADD, (merged[key], value)) if key in merged else value
    captures = tuple(
        CaptureGradient(slot, indices, lower(value), tuple((k, extents[k]) for k in axes))
        for (slot, indices, axes), value in merged.items()
    )
    return Derivative(score, captures)


@dataclass(frozen=True)
class _Flow:
    """A gradient on its way to a node: `value` where all of `guard` hold, else 0."""

    guard: tuple[Expr, ...]
    value: Expr

    def materialise(self, kept: int = 0) -> Expr:
        """The gradient as an expression, leaving the first `kept` conditions to the caller."""
        conditions = self.guard[kept:]
        if not conditions:
            return self.value
        return make(Op.WHERE, (_all(conditions), self.value, const(0, self.value.dtype)))

    def plus(self, other: _Flow) -> _Flow:
        """The sum, guarded by what holds wherever one of the two flows."""
        shared = 0
        while shared < min(len(self.guard), len(other.guard)) and self.guard[shared] is other.guard[shared]:
            shared += 1
        mine, others = self.guard[shared:], other.guard[shared:]
        common = self.guard[:shared]
        if mine and others == (make(Op.NOT, (mine[0],)),) and len(mine) == 1:
            return _Flow(common, make(Op.WHERE, (mine[0], self.value, other.value)))
        if others and mine == (make(Op.NOT, (others[0],)),) and len(others) == 1:
            return _Flow(common, make(Op.WHERE, (others[0], other.value, self.value)))
        value = _add(self.materialise(shared), other.materialise(shared))
        if mine and others:
            return _Flow((*common, make(Op.OR, (_all(mine), _all(others)))), value)
        return _Flow(common, value)

    def summed(self, k: int, extent: int) -> _Flow:
        """The sum over a reduction's axis, for a node outside the reduction."""
        bit = axis_bit(k)
        inside = tuple(condition for condition in self.guard if condition.reads & bit)
        guard = tuple(condition for condition in self.guard if not condition.reads & bit)
        value = make(Op.SUM, (_Flow(inside, self.value).materialise(),), (k, extent))
        if inside:
            some = make(Op.MAX, (cast(_all(inside), DType.INT64),), (k, extent))
            guard = (*guard, make(Op.EQ, (some, const(1, DType.INT64))))
        return _Flow(guard, value)


class _Sweep:
    """One walk from the result to the leaves, summing what each node's users pass to it."""

    def __init__(self, root: Expr, wrt: Collection[int]) -> None:
        self._root = root
        self._order = list(walk(root))
        self._extents = {node.attr[0]: node.attr[1] for node in self._order if node.op in REDUCTIONS}
        self._active: set[Expr] = set()
        for node in self._order:
            passes = (
                node.op in RULES and node.dtype.is_float and any(arg in self._active for arg in _inputs(node))
            )
            score = node.op is Op.VAR and node.attr == "score"
            if passes or score or (node.op is Op.LOAD and node.attr in wrt):
                self._active.add(node)

    def run(self) -> dict[Expr, Expr]:
        """The gradients of the wanted leaves, in the order of the walk."""
        flows: dict[Expr, _Flow] = {}
        if self._root in self._active:
            flows[self._root] = _Flow((), var("grad", self._root.dtype))
        for node in reversed(self._order):
            if node in flows and node.op in RULES:
                for arg, flow in self._passed(node, flows[node]):
                    flows[arg] = flows[arg].plus(flow) if arg in flows else flow
        leaves = (node for node in self._order if node in flows and node.op in (Op.VAR, Op.LOAD))
        return {node: flows[node].materialise() for node in leaves}

    def _passed(self, node: Expr, flow: _Flow) -> Iterator[tuple[Expr, _Flow]]:
        """What a node's gradient becomes for each argument that wants one."""
        inside = free_axes(node) | ({node.attr[0]} if node.op in REDUCTIONS else frozenset())
        inputs = _inputs(node)
        for arg, value, guard in zip(inputs, RULES[node.op](node, flow.value), _guards(node), strict=True):
            if value is None or arg not in self._active:
                continue
            part = _Flow(flow.guard + guard, value)
            leaving = sorted(inside - free_axes(arg), reverse=True)
            if all(self._extents[k] for k in leaving):
                for k in leaving:
                    part = part.summed(k, self._extents[k])
                yield arg, part


def _inputs(node: Expr) -> tuple[Expr, ...]:
    """The arguments a gradient may flow to: of CUSTOM, its inputs and not how its value was computed."""
    return node.args[1 : 1 + node.attr] if node.op is Op.CUSTOM else node.args


def _guards(node: Expr) -> Sequence[tuple[Expr, ...]]:
    """For each argument, on what condition a gradient reaches it."""
    if node.op is Op.WHERE:
        return (), node.args[:1], (make(Op.NOT, node.args[:1]),)
    return [()] * len(_inputs(node))


def _all(conditions: Sequence[Expr]) -> Expr:
    joined = conditions[0]
    for condition in conditions[1:]:
        joined = make(Op.AND, (joined, condition))
    return joined


def _add(a: Expr, b: Expr) -> Expr:
    return make(Op.ADD, (a, b))


def _mul(a: Expr, b: Expr) -> Expr:
    return make(Op.MUL, (a, b))


def _div(a: Expr, b: Expr) -> Expr:
    return make(Op.DIV, (a, b))


def _neg(a: Expr) -> Expr:
    return make(Op.NEG, (a,))


def _where(c: Expr, a: Expr, b: Expr) -> Expr:
    return make(Op.WHERE, (c, a, b))


def _num(value: float, like: Expr) -> Expr:
    return const(value, like.dtype)


_Rule: TypeAlias = Callable[[Expr, Expr], Sequence[Expr | None]]


def _unary(slope: Callable[[Expr, Expr], Expr]) -> _Rule:
    """The rule of y = f(a), from its slope as a function of a and y."""
    return lambda node, g: (_mul(g, slope(node.args[0], node)),)


def _pow(node: Expr, g: Expr) -> Sequence[Expr]:
    a, b = node.args
    zero, one = _num(0, node), _num(1, node)
    base = _mul(g, _mul(b, make(Op.POW, (a, make(Op.SUB, (b, one))))))
    exponent = _mul(g, _mul(node, make(Op.LOG, (a,))))
    flat = make(Op.AND, (make(Op.EQ, (a, zero)), make(Op.LE, (zero, b))))  # 0 ** b is 0 for all b > 0
    return _where(make(Op.EQ, (b, zero)), zero, base), _where(flat, zero, exponent)


def _extremum(node: Expr, g: Expr) -> Sequence[Expr]:
    """Of `maximum` and `minimum`: all to the winner, half each at a tie, all to both where one is NaN."""
    a, b = node.args
    smaller = make(Op.LT, (a, b)), make(Op.LT, (b, a))
    shared = _where(make(Op.EQ, (a, b)), _mul(g, _num(0.5, g)), g)
    to_a, to_b = (_where(lost, _num(0, g), shared) for lost in smaller)
    return (to_a, to_b) if node.op is Op.MAXIMUM else (to_b, to_a)


def _reduced_extremum(node: Expr, g: Expr) -> Sequence[Expr]:
    """Of `amax` and `amin`: evenly to all that attain it."""
    tie = make(Op.EQ, (node.args[0], node))
    ties = make(Op.SUM, (cast(tie, node.dtype),), node.attr)
    return (_where(tie, _div(g, ties), _num(0, g)),)


def _abs(node: Expr, g: Expr) -> Sequence[Expr]:
    a, zero = node.args[0], _num(0, g)
    return (_where(make(Op.LT, (zero, a)), g, _where(make(Op.LT, (a, zero)), _neg(g), zero)),)


def _remainder(node: Expr, g: Expr) -> Sequence[Expr]:
    return g, _neg(_mul(g, make(Op.FLOOR, (_div(*node.args),))))


def _custom(node: Expr, g: Expr) -> Sequence[Expr]:
    cotangent = var("cotangent", node.dtype)
    return [substitute(gradient, {cotangent: g}) for gradient in node.args[1 + node.attr :]]


# From a node and its gradient g, the gradient of each argument; None where none flows.
RULES: dict[Op, _Rule] = {
    Op.ADD: lambda node, g: (g, g),
    Op.SUB: lambda node, g: (g, _neg(g)),
    Op.MUL: lambda node, g: (_mul(g, node.args[1]), _mul(g, node.args[0])),
    Op.DIV: lambda node, g: (_div(g, node.args[1]), _neg(_mul(g, _div(node, node.args[1])))),
    Op.REMAINDER: _remainder,
    Op.POW: _pow,
    Op.NEG: lambda node, g: (_neg(g),),
    Op.ABS: _abs,
    Op.MINIMUM: _extremum,
    Op.MAXIMUM: _extremum,
    Op.WHERE: lambda node, g: (None, g, g),  # `_guards` says on what condition
    Op.EXP: _unary(lambda a, y: y),
    Op.EXP2: _unary(lambda a, y: _mul(y, _num(math.log(2), y))),
    Op.EXPM1: _unary(lambda a, y: _add(y, _num(1, y))),
    Op.LOG: lambda node, g: (_div(g, node.args[0]),),
    Op.LOG2: lambda node, g: (_div(g, _mul(node.args[0], _num(math.log(2), g))),),
    Op.LOG1P: lambda node, g: (_div(g, _add(node.args[0], _num(1, g))),),
    Op.SQRT: lambda node, g: (_div(g, _mul(node, _num(2, g))),),
    Op.RSQRT: _unary(lambda a, y: _mul(_mul(y, _mul(y, y)), _num(-0.5, y))),
    Op.SIN: _unary(lambda a, y: make(Op.COS, (a,))),
    Op.COS: _unary(lambda a, y: _neg(make(Op.SIN, (a,)))),
    Op.TAN: _unary(lambda a, y: _add(_mul(y, y), _num(1, y))),
    Op.ATAN: lambda node, g: (_div(g, _add(_mul(node.args[0], node.args[0]), _num(1, g))),),
    Op.TANH: _unary(lambda a, y: make(Op.SUB, (_num(1, y), _mul(y, y)))),
    Op.SIGMOID: _unary(lambda a, y: _mul(y, make(Op.SUB, (_num(1, y), y)))),
    Op.ERF: _unary(lambda a, y: _mul(make(Op.EXP, (_neg(_mul(a, a)),)), _num(2 / math.sqrt(math.pi), y))),
    Op.CAST: lambda node, g: (cast(g, node.args[0].dtype) if node.args[0].dtype.is_float else None,),
    Op.SUM: lambda node, g: (g,),
    Op.MAX: _reduced_extremum,
    Op.MIN: _reduced_extremum,
    Op.CUSTOM: _custom,
}

# Why the other ops pass none.
_LEAF = "a leaf: it has no arguments"
_WHOLE = "integers and booleans have no gradient"
_FLAT = "constant between its jumps"
NO_GRADIENT: dict[Op, str] = {
    **dict.fromkeys((Op.VAR, Op.CONST, Op.NUMBER, Op.AXIS), _LEAF),
    Op.LOAD: "its arguments are indices; its own gradient is a CaptureGradient",
    **dict.fromkeys((Op.FLOOR_DIV, Op.AND, Op.OR, Op.XOR, Op.NOT, Op.SHL, Op.SHR), _WHOLE),
    **dict.fromkeys((Op.EQ, Op.NE, Op.LT, Op.LE), _WHOLE),
    **dict.fromkeys((Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND), _FLAT),
}
