"""Expressions: immutable nodes, hash-consed, so that equal expressions are one object.

`make` is the only way to a node. It interns: structural equality is `is`, hashing is by identity, and an
`Expr` may key any dictionary. The intern table holds nodes weakly: an expression nobody uses is forgotten
once some thousands of others were made, so that a mod traced at every call finds its nodes again.

This module owns nodes and the facts every layer asks of them (what they read, their order). It does not
simplify (`rewrite`), check (`verify`) or evaluate (`interpret`).
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, final
from weakref import KeyedRef

from saccade.ir.dtype import DType
from saccade.ir.ops import OPS, REDUCTIONS, VARIABLES, Op, TypeRule

Scalar = bool | int | float

# One bit a variable; reduction axes take the bits above.
READS = {name: 1 << position for position, name in enumerate(VARIABLES)}
_FIRST_AXIS_BIT = len(VARIABLES)


@final
class Expr:
    """One node of a program. Never construct it: call `make` or one of the builders below."""

    __slots__ = ("__weakref__", "args", "attr", "dtype", "op", "reads")

    op: Op
    args: tuple[Expr, ...]
    attr: Any  # what OPS says for this op; None for most
    dtype: DType  # a value type
    reads: int  # union of READS bits of the variables (and free reduction axes) it depends on

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Expr is immutable; expected no assignment, got {name}={value!r}")

    def __reduce__(self) -> tuple[Callable[..., Expr], tuple[object, ...]]:
        return make, (self.op, self.args, self.attr, self.dtype)

    def __repr__(self) -> str:
        detail = "" if self.attr is None else f" {self.attr}"
        return f"<Expr {OPS[self.op].text}{detail} {self.dtype.value}>"

    def depends_on(self, *names: str) -> bool:
        """Whether the value can change with any of the named variables."""
        return any(self.reads & READS[name] for name in names)


_table: dict[tuple[Any, ...], KeyedRef[tuple[Any, ...], Expr]] = {}
_recent: deque[Expr] = deque(maxlen=4096)
_lock = threading.RLock()  # a finaliser may build expressions while `make` holds it

if hasattr(os, "register_at_fork"):
    # A child forked while another thread is in `make` would wait for that thread, which it does not have.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def make(op: Op, args: tuple[Expr, ...] = (), attr: Any = None, dtype: DType | None = None) -> Expr:
    """Return the one node of this op, arguments and attribute.

    Args:
        op: The operation.
        args: Its arguments, already interned.
        attr: What `OPS` says for this op.
        dtype: The type, for ops whose rule is GIVEN; elsewhere ignored, as it follows from the arguments.
    """
    # The class of attr tells True, 1 and 1.0 apart, which are equal as keys.
    key: tuple[Any, ...] = (op, args, attr, dtype, attr.__class__) if op in _GIVEN else (op, args, attr)
    known = _table.get(key)
    node = None if known is None else known()
    if node is not None:
        return node
    with _lock:
        known = _table.get(key)
        node = None if known is None else known()
        if node is None:
            node = object.__new__(Expr)
            put = object.__setattr__
            put(node, "op", op)
            put(node, "args", args)
            put(node, "attr", attr)
            put(node, "dtype", _TYPE_OF[OPS[op].rule](args, attr, dtype))
            put(node, "reads", _reads(op, args, attr))
            _table[key] = KeyedRef(node, _forget, key)
            _recent.append(node)
    return node


def _forget(dead: KeyedRef[tuple[Any, ...], Expr]) -> None:
    """Remove a node that is gone, unless its like was made again meanwhile."""
    with _lock:
        if _table.get(dead.key) is dead:
            del _table[dead.key]


_GIVEN = frozenset(op for op, info in OPS.items() if info.rule is TypeRule.GIVEN)


def _given(args: tuple[Expr, ...], attr: Any, dtype: DType | None) -> DType:
    assert dtype is not None, "this op states its type"
    return dtype


_TYPE_OF: dict[TypeRule, Callable[[tuple[Expr, ...], Any, DType | None], DType]] = {
    TypeRule.GIVEN: _given,
    TypeRule.NUMERIC: lambda args, attr, dtype: args[0].dtype,
    TypeRule.FLOAT: lambda args, attr, dtype: args[0].dtype,
    TypeRule.INTEGER: lambda args, attr, dtype: args[0].dtype,
    TypeRule.LOGIC: lambda args, attr, dtype: args[0].dtype,
    TypeRule.COMPARE: lambda args, attr, dtype: DType.BOOL,
    TypeRule.CHOICE: lambda args, attr, dtype: args[1].dtype,
    TypeRule.CAST: lambda args, attr, dtype: attr.value_type,
    TypeRule.FIRST: lambda args, attr, dtype: args[0].dtype,
}


def _reads(op: Op, args: tuple[Expr, ...], attr: Any) -> int:
    if op is Op.VAR:
        return READS[attr]
    if op is Op.AXIS:
        return axis_bit(attr)
    union = 0
    for arg in args:
        union |= arg.reads
    if op in REDUCTIONS:
        union &= ~axis_bit(attr[0])
    elif op is Op.CUSTOM:
        # The gradients bind `cotangent`; the value and the inputs may still read an outer one.
        outer = 0
        for arg in args[: 1 + attr]:
            outer |= arg.reads
        union &= ~READS["cotangent"] | outer
    return union


def axis_bit(axis: int) -> int:
    """The bit of `Expr.reads` that says a reduction axis is free in an expression."""
    return 1 << (_FIRST_AXIS_BIT + axis)


def var(name: str, dtype: DType = DType.INT64) -> Expr:
    """An input of the mod; `name` is one of `VARIABLES`."""
    return make(Op.VAR, (), name, dtype)


def const(value: Scalar, dtype: DType) -> Expr:
    """A number that code is specialised on, converted to `dtype` (a value type)."""
    if dtype is DType.BOOL:
        return make(Op.CONST, (), bool(value), dtype)
    if dtype is DType.INT64:
        return make(Op.CONST, (), int(value), dtype)
    value = float(value)
    if math.isnan(value):
        value = math.nan  # one object, so that interning finds it
    elif value == 0.0 and math.copysign(1.0, value) < 0:
        # 0.0 == -0.0 as dictionary keys, so the negative zero needs a node of its own.
        return make(Op.NEG, (make(Op.CONST, (), 0.0, dtype),))
    return make(Op.CONST, (), value, dtype)


def number(slot: int, dtype: DType) -> Expr:
    """The run-time number in `slot` of the program's numbers."""
    return make(Op.NUMBER, (), slot, dtype)


def axis(k: int) -> Expr:
    """The index of the reduction that binds axis `k`."""
    return make(Op.AXIS, (), k, DType.INT64)


def load(slot: int, indices: Iterable[Expr], dtype: DType) -> Expr:
    """Element `indices` of capture `slot`; `dtype` is its value type."""
    return make(Op.LOAD, tuple(indices), slot, dtype)


def cast(value: Expr, target: DType) -> Expr:
    """`value` converted to the stored type `target` and widened; itself where nothing changes."""
    if value.dtype is target:
        return value
    return make(Op.CAST, (value,), target)


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below and including `roots`, once, arguments first, in a deterministic order."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))


def rebuild(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same op and attribute over other arguments."""
    return node if args == node.args else make(node.op, args, node.attr, node.dtype)


def substitute(root: Expr, replacements: Mapping[Expr, Expr]) -> Expr:
    """Replace nodes by others, everywhere they are free.

    Gradients inside a CUSTOM node bind `cotangent`, so a replacement of that variable stops there.
    """
    replaced = dict(replacements)
    inner = {
        old: new for old, new in replacements.items() if not (old.op is Op.VAR and old.attr == "cotangent")
    }
    binds = len(inner) != len(replacements)
    for node in walk(root):
        if node in replaced:
            continue
        args = tuple(replaced[arg] for arg in node.args)
        if binds and node.op is Op.CUSTOM:
            outer = 1 + node.attr
            args = args[:outer] + tuple(substitute(arg, inner) for arg in node.args[outer:])
        replaced[node] = rebuild(node, args)
    return replaced[root]


def relocate(root: Expr, captures: int, numbers: int) -> Expr:
    """`root` with its capture slots moved up by `captures` and its number slots by `numbers`."""
    moved: dict[Expr, Expr] = {}
    for node in walk(root):
        args = tuple(moved[arg] for arg in node.args)
        if node.op is Op.LOAD:
            moved[node] = load(node.attr + captures, args, node.dtype)
        elif node.op is Op.NUMBER:
            moved[node] = number(node.attr + numbers, node.dtype)
        else:
            moved[node] = rebuild(node, args)
    return moved[root]
