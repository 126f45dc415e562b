"""Reduction axes: which are free in an expression, and giving each reduction an axis of its own.

A reduction binds its axis in its body, as a function binds its parameter. Programs that are joined or
differentiated may come to use one axis twice; `separate_axes` renames, as `verify` wants it on every path and
a derivative wants it everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from saccade.ir.expr import READS, Expr, axis, make, rebuild
from saccade.ir.ops import REDUCTIONS, Op


def free_axes(node: Expr) -> frozenset[int]:
    """The axes that an expression reads and no reduction in it binds."""
    bits = node.reads >> len(READS)
    return frozenset(k for k in range(bits.bit_length()) if bits >> k & 1)


def separate_axes(root: Expr, taken: Iterable[int] = ()) -> Expr:
    """Rename axes so that every reduction binds one of its own.

    Args:
        root: Any expression; axes that are free in it stay.
        taken: Axes that no reduction may bind, beside the free ones.

    Returns:
        An expression of the same value, with axes numbered from 0 in the order of a walk.

    Example:
        >>> from saccade.ir.dtype import DType
        >>> from saccade.ir.expr import load
        >>> from saccade.ir.text import format_expression
        >>> total = make(Op.SUM, (load(0, [axis(5)], DType.INT64),), (5, 3))
        >>> print(format_expression(separate_axes(make(Op.SUM, (total,), (5, 2)))))
        sum(axis0 < 2, sum(axis1 < 3, c0[axis1]))
    """
    kept = free_axes(root) | frozenset(taken)
    return _rename(root, {}, (k for k in count() if k not in kept), {})


def _rename(root: Expr, scope: dict[int, Expr], fresh: Iterator[int], closed: dict[Expr, Expr]) -> Expr:
    """Replace the axes in `scope`; `closed` holds what reads no axis and so is the same in every scope."""
    renamed: dict[Expr, Expr] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        done = renamed if free_axes(node) else closed
        if node in done:
            stack.pop()
            continue
        if node.op in REDUCTIONS:
            k, extent = node.attr
            own = next(fresh)
            body = _rename(node.args[0], {**scope, k: axis(own)}, fresh, closed)
            done[node] = make(node.op, (body,), (own, extent))
            continue
        missing = [arg for arg in node.args if arg not in renamed and arg not in closed]
        if missing:
            stack.extend(reversed(missing))
        elif node.op is Op.AXIS:
            done[node] = scope.get(node.attr, node)
        else:
            args = (renamed[arg] if arg in renamed else closed[arg] for arg in node.args)
            done[node] = rebuild(node, tuple(args))
    return renamed[root] if root in renamed else closed[root]
