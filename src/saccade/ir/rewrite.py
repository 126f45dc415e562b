"""Rewrite rules as data, each with its equation, and the pass that applies them.

A rule keeps the value, NaN and poison of an expression, element by element, down to the sign of a zero. So
what holds of real numbers alone is left out: of floats, `x * 0 -> 0` fails for NaN, `x - x -> 0` for
infinities and `x + 0 -> x` for -0.0. A rule that drops a part asks that it be total: that it cannot be
poison. Which of two poisoned nodes is blamed may change.

`simplify` is for every program; `lower` also drops the derivatives that CUSTOM carries, for evaluation. What
needs facts about the values (intervals, affine forms) is analysis's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from saccade.ir.dtype import DType
from saccade.ir.elementwise import ELEMENTWISE, NUMPY_TYPE, convert
from saccade.ir.expr import Expr, Scalar, axis, axis_bit, const, make, rebuild, substitute, walk
from saccade.ir.ops import REDUCTIONS, Op


@dataclass(frozen=True)
class Hole:
    """A place in a pattern that takes any expression; the same hole takes the same one."""

    name: str


# An op over patterns, a hole, or a literal, which stands for the constant of its value.
Pattern: TypeAlias = Hole | Scalar | tuple[Any, ...]

_INT = (DType.INT64,)
_BOOL = (DType.BOOL,)
_FLOAT = (DType.FLOAT32, DType.FLOAT64)
_NUMERIC = _INT + _FLOAT


@dataclass(frozen=True)
class Rule:
    """An equation read from left to right. Commutative ops match in both orders."""

    before: tuple[Any, ...]  # a pattern with an op
    after: Pattern
    types: tuple[DType, ...] = (*_BOOL, *_NUMERIC)  # of x, or of c where there is no x
    total: tuple[Hole, ...] = ()  # holes whose expressions must not be able to be poison


_ROUNDINGS = (Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND)

X, Y, Z, C = Hole("x"), Hole("y"), Hole("z"), Hole("c")

RULES: tuple[Rule, ...] = (
    # arithmetic
    Rule((Op.ADD, X, 0), X, _INT),  # x + 0 -> x
    Rule((Op.ADD, X, (Op.NEG, Y)), (Op.SUB, X, Y), _NUMERIC),  # x + -y -> x - y
    Rule((Op.SUB, X, 0), X, _NUMERIC),  # x - 0 -> x
    Rule((Op.SUB, 0, X), (Op.NEG, X), _INT),  # 0 - x -> -x
    Rule((Op.SUB, X, (Op.NEG, Y)), (Op.ADD, X, Y), _NUMERIC),  # x - -y -> x + y
    Rule((Op.SUB, X, X), 0, _INT, total=(X,)),  # x - x -> 0
    Rule((Op.SUB, (Op.ADD, X, Y), Y), X, _INT, total=(Y,)),  # (x + y) - y -> x
    Rule((Op.ADD, (Op.SUB, X, Y), Y), X, _INT, total=(Y,)),  # (x - y) + y -> x
    Rule((Op.MUL, X, 1), X, _NUMERIC),  # x * 1 -> x
    Rule((Op.MUL, X, -1), (Op.NEG, X), _NUMERIC),  # x * -1 -> -x
    Rule((Op.MUL, X, 0), 0, _INT, total=(X,)),  # x * 0 -> 0
    Rule((Op.MUL, (Op.NEG, X), (Op.NEG, Y)), (Op.MUL, X, Y), _NUMERIC),  # -x * -y -> x * y
    Rule((Op.DIV, X, 1), X, _FLOAT),  # x / 1 -> x
    Rule((Op.DIV, X, -1), (Op.NEG, X), _FLOAT),  # x / -1 -> -x
    Rule((Op.FLOOR_DIV, X, 1), X, _INT),  # x // 1 -> x
    Rule((Op.REMAINDER, X, 1), 0, _INT, total=(X,)),  # x % 1 -> 0
    Rule((Op.REMAINDER, X, -1), 0, _INT, total=(X,)),  # x % -1 -> 0
    Rule((Op.POW, X, 1), X, _FLOAT),  # x ** 1 -> x
    Rule((Op.POW, X, 0), 1, _FLOAT, total=(X,)),  # x ** 0 -> 1
    Rule((Op.NEG, (Op.NEG, X)), X, _NUMERIC),  # -(-x) -> x
    Rule((Op.NEG, (Op.SUB, X, Y)), (Op.SUB, Y, X), _INT),  # -(x - y) -> y - x
    Rule((Op.ABS, (Op.NEG, X)), (Op.ABS, X), _NUMERIC),  # |-x| -> |x|
    Rule((Op.ABS, (Op.ABS, X)), (Op.ABS, X), _NUMERIC),  # ||x|| -> |x|
    Rule((Op.MINIMUM, X, X), X, _NUMERIC),  # minimum(x, x) -> x
    Rule((Op.MAXIMUM, X, X), X, _NUMERIC),  # maximum(x, x) -> x
    Rule((Op.SHL, X, 0), X, _INT),  # x << 0 -> x
    Rule((Op.SHR, X, 0), X, _INT),  # x >> 0 -> x
    # logic: a decided AND or OR has no poison, by Kleene
    Rule((Op.AND, X, True), X, _BOOL),  # x & True -> x
    Rule((Op.AND, X, False), False, _BOOL),  # x & False -> False
    Rule((Op.AND, X, X), X),  # x & x -> x
    Rule((Op.AND, X, (Op.AND, X, Y)), (Op.AND, X, Y)),  # x & (x & y) -> x & y
    Rule((Op.AND, (Op.AND, X, Y), Y), (Op.AND, X, Y)),  # (x & y) & y -> x & y
    Rule((Op.AND, X, (Op.NOT, X)), False, _BOOL, total=(X,)),  # x & ~x -> False
    Rule((Op.AND, X, -1), X, _INT),  # x & -1 -> x
    Rule((Op.AND, X, 0), 0, _INT, total=(X,)),  # x & 0 -> 0
    Rule((Op.OR, X, False), X, _BOOL),  # x | False -> x
    Rule((Op.OR, X, True), True, _BOOL),  # x | True -> True
    Rule((Op.OR, X, X), X),  # x | x -> x
    Rule((Op.OR, X, (Op.OR, X, Y)), (Op.OR, X, Y)),  # x | (x | y) -> x | y
    Rule((Op.OR, (Op.OR, X, Y), Y), (Op.OR, X, Y)),  # (x | y) | y -> x | y
    Rule((Op.OR, X, (Op.NOT, X)), True, _BOOL, total=(X,)),  # x | ~x -> True
    Rule((Op.OR, X, 0), X, _INT),  # x | 0 -> x
    Rule((Op.OR, X, -1), -1, _INT, total=(X,)),  # x | -1 -> -1
    Rule((Op.XOR, X, False), X, _BOOL),  # x ^ False -> x
    Rule((Op.XOR, X, True), (Op.NOT, X), _BOOL),  # x ^ True -> ~x
    Rule((Op.XOR, X, X), False, _BOOL, total=(X,)),  # x ^ x -> False
    Rule((Op.XOR, X, 0), X, _INT),  # x ^ 0 -> x
    Rule((Op.XOR, X, -1), (Op.NOT, X), _INT),  # x ^ -1 -> ~x
    Rule((Op.XOR, X, X), 0, _INT, total=(X,)),  # x ^ x -> 0
    Rule((Op.NOT, (Op.NOT, X)), X),  # ~~x -> x
    # comparisons: NaN is unordered, so the negation of < is >= on integers alone
    Rule((Op.NOT, (Op.EQ, X, Y)), (Op.NE, X, Y)),  # ~(x == y) -> x != y
    Rule((Op.NOT, (Op.NE, X, Y)), (Op.EQ, X, Y)),  # ~(x != y) -> x == y
    Rule((Op.NOT, (Op.LT, X, Y)), (Op.LE, Y, X), _INT),  # ~(x < y) -> y <= x
    Rule((Op.NOT, (Op.LE, X, Y)), (Op.LT, Y, X), _INT),  # ~(x <= y) -> y < x
    Rule((Op.EQ, X, X), True, _INT + _BOOL, total=(X,)),  # x == x -> True
    Rule((Op.NE, X, X), False, _INT + _BOOL, total=(X,)),  # x != x -> False
    Rule((Op.LT, X, X), False, total=(X,)),  # x < x -> False
    Rule((Op.LE, X, X), True, _INT + _BOOL, total=(X,)),  # x <= x -> True
    Rule((Op.EQ, X, True), X, _BOOL),  # x == True -> x
    Rule((Op.EQ, X, False), (Op.NOT, X), _BOOL),  # x == False -> ~x
    Rule((Op.NE, X, False), X, _BOOL),  # x != False -> x
    Rule((Op.NE, X, True), (Op.NOT, X), _BOOL),  # x != True -> ~x
    # choice
    Rule((Op.WHERE, True, X, Y), X),  # where(True, x, y) -> x
    Rule((Op.WHERE, False, X, Y), Y),  # where(False, x, y) -> y
    Rule((Op.WHERE, C, X, X), X, total=(C,)),  # where(c, x, x) -> x
    Rule((Op.WHERE, C, True, False), C),  # where(c, True, False) -> c
    Rule((Op.WHERE, C, False, True), (Op.NOT, C)),  # where(c, False, True) -> ~c
    Rule((Op.WHERE, (Op.NOT, C), X, Y), (Op.WHERE, C, Y, X)),  # where(~c, x, y) -> where(c, y, x)
    # where(c, where(c, x, y), z) -> where(c, x, z)
    Rule((Op.WHERE, C, (Op.WHERE, C, X, Y), Z), (Op.WHERE, C, X, Z)),
    # where(c, x, where(c, y, z)) -> where(c, x, z)
    Rule((Op.WHERE, C, X, (Op.WHERE, C, Y, Z)), (Op.WHERE, C, X, Z)),
    # rounding what is whole: floor(ceil(x)) -> ceil(x)
    *(Rule((outer, (inner, X)), (inner, X)) for outer in _ROUNDINGS for inner in _ROUNDINGS),
)

_BY_OP: dict[Op, tuple[Rule, ...]] = {op: tuple(rule for rule in RULES if rule.before[0] is op) for op in Op}

_COMMUTATIVE = frozenset({Op.ADD, Op.MUL, Op.AND, Op.OR, Op.XOR, Op.EQ, Op.NE})


def simplify(root: Expr) -> Expr:
    r"""Apply the rules, everywhere, until none applies.

    Args:
        root: Any expression.

    Returns:
        One of the same value, NaN and poison, in which no rule applies.

    Example:
        >>> from saccade.ir.text import format_expression, parse_structure
        >>> mask = parse_structure("mask() -> bool\n~(q_idx < kv_idx * 1) & True")
        >>> print(format_expression(simplify(mask.root)))
        kv_idx <= q_idx
    """
    while True:
        simpler = _pass(root)
        if simpler is root:
            return root
        root = simpler


def lower(root: Expr) -> Expr:
    """Simplify for evaluation: CUSTOM becomes its value, and the derivatives it carries are gone."""
    lowered: dict[Expr, Expr] = {}
    for node in walk(root):
        args = tuple(lowered[arg] for arg in node.args)
        lowered[node] = args[0] if node.op is Op.CUSTOM else rebuild(node, args)
    return simplify(lowered[root])


def is_total(root: Expr) -> bool:
    """Whether an expression has a value whatever its variables are: it cannot be poison."""
    for node in walk(root):
        if node.op is Op.LOAD and node.args:
            return False
        if node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64:
            divisor = node.args[1]
            if divisor.op is not Op.CONST or divisor.attr == 0:
                return False
    return True


def _pass(root: Expr) -> Expr:
    """One pass from the leaves up."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        better: Expr | None = rebuild(node, tuple(done[arg] for arg in node.args))
        while better is not None:
            done[node] = better
            better = _improve(better)
    return done[root]


def _improve(node: Expr) -> Expr | None:
    """The expression that the first fitting rule makes of a node."""
    special = _SPECIAL.get(node.op, _fold)(node)
    if special is not None and special is not node:
        return special
    if node.op in _COMMUTATIVE and node.args[0].op is Op.CONST and node.args[1].op is not Op.CONST:
        return make(node.op, node.args[::-1])  # 2 * x -> x * 2
    for rule in _BY_OP[node.op]:
        holes = _match(rule.before, node, {})
        if holes is None:
            continue
        typed = holes[X] if X in holes else holes[C]
        if typed.dtype in rule.types and all(is_total(holes[hole]) for hole in rule.total):
            return _build(rule.after, holes, node.dtype)
    return None


def _match(pattern: Pattern, node: Expr, holes: dict[Hole, Expr]) -> dict[Hole, Expr] | None:
    """What the holes stand for if `node` is of the pattern, given what they already stand for."""
    if isinstance(pattern, Hole):
        known = holes.setdefault(pattern, node)
        return holes if known is node else None
    if not isinstance(pattern, tuple):
        same = node.op is Op.CONST and node.attr == pattern
        return holes if same and isinstance(node.attr, bool) == isinstance(pattern, bool) else None
    if node.op is not pattern[0]:
        return None
    orders = [node.args, node.args[::-1]] if node.op in _COMMUTATIVE else [node.args]
    for args in orders:
        found: dict[Hole, Expr] | None = dict(holes)
        for part, arg in zip(pattern[1:], args, strict=True):
            found = None if found is None else _match(part, arg, found)
        if found is not None:
            return found
    return None


def _build(template: Pattern, holes: dict[Hole, Expr], dtype: DType) -> Expr:
    if isinstance(template, Hole):
        return holes[template]
    if not isinstance(template, tuple):
        return const(template, dtype)
    return make(template[0], tuple(_build(part, holes, dtype) for part in template[1:]))


def _literal(node: Expr) -> Scalar | None:
    """The number a node is, if it is one; -0.0 is written as a negation."""
    if node.op is Op.CONST:
        value: Scalar = node.attr
        return value
    if node.op is Op.NEG and node.args[0].op is Op.CONST and node.args[0].attr == 0 and node.dtype.is_float:
        return -0.0
    return None


def _fold(node: Expr) -> Expr | None:
    """f(1, 2) -> 3, computed as the interpreter computes it."""
    if node.op not in ELEMENTWISE:
        return None
    values = [_literal(arg) for arg in node.args]
    if None in values or not is_total(node):
        return None
    arrays = [np.asarray(value, NUMPY_TYPE[arg.dtype]) for value, arg in zip(values, node.args, strict=True)]
    with np.errstate(all="ignore"):
        return const(np.asarray(ELEMENTWISE[node.op](*arrays), NUMPY_TYPE[node.dtype]).item(), node.dtype)


def _improve_cast(node: Expr) -> Expr | None:
    (given,), target = node.args, node.attr
    if given.dtype is target:
        return given  # i64(x) -> x for an i64 x
    value = _literal(given)
    if value is not None:
        with np.errstate(all="ignore"):
            return const(convert(np.asarray(value, NUMPY_TYPE[given.dtype]), target).item(), node.dtype)
    if given.op is not Op.CAST:
        return None
    source = given.args[0]
    if given.attr is target:
        return given  # f16(f16(x)) -> f16(x)
    if source.dtype is DType.BOOL:
        return make(Op.CAST, (source,), target)  # f32(i64(c)) -> f32(c)
    if source.dtype is target is DType.FLOAT32 and given.attr is DType.FLOAT64:
        return source  # f32(f64(x)) -> x
    return None


def _improve_reduction(node: Expr) -> Expr | None:
    (body,), (k, extent) = node.args, node.attr
    if extent == 0:
        return const(0, node.dtype)  # sum(axis < 0, x) -> 0
    if extent == 1 and not any(inner.op in REDUCTIONS and inner.attr[0] == k for inner in walk(body)):
        return substitute(body, {axis(k): const(0, DType.INT64)})  # sum(axis < 1, x) -> x at axis = 0
    if body.reads & axis_bit(k):
        return None
    if node.op is not Op.SUM:
        return body  # max(axis < n, x) -> x
    if node.dtype is DType.INT64:
        return make(Op.MUL, (body, const(extent, DType.INT64)))  # sum(axis < n, x) -> x * n
    return None


_SPECIAL: dict[Op, Callable[[Expr], Expr | None]] = {
    Op.CAST: _improve_cast,
    Op.SUM: _improve_reduction,
    Op.MAX: _improve_reduction,
    Op.MIN: _improve_reduction,
}
