"""Whole-number ranges of a mask's integers, whatever the lengths of a call.

Indices and captured integers are taken to fit 32 bits, signed. Whoever uses a range sees to it that they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saccade.analysis.affine import Range
from saccade.analysis.interval import INT_MAX, INT_MIN
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, walk
from saccade.ir.ops import Op

__all__ = ["LONGEST", "ranges_of"]

LONGEST = 2**31 - 1
"""The most queries, keys, heads or batches for which a range is true."""

_UNKNOWN = Range(INT_MIN, INT_MAX, is_constant=False)
_CAPTURED = Range(-(2**31), 2**31 - 1, is_constant=False)
_INDEX = Range(0, LONGEST, is_constant=False)


def ranges_of(root: Expr, numbers: Sequence[int | float]) -> dict[Expr, Range]:
    """Return the range of each INT64 expression of a mask.

    Args:
        root: The mask.
        numbers: Its run-time numbers, by slot.
    """
    ranges: dict[Expr, Range] = {}
    for node in walk(root):
        if node.dtype is DType.INT64:
            ranges[node] = _range(node, ranges, numbers)
    return ranges


def _range(node: Expr, ranges: dict[Expr, Range], numbers: Sequence[int | float]) -> Range:
    if node.op is Op.VAR:
        return _INDEX
    if node.op is Op.LOAD:
        return _CAPTURED
    if node.op in (Op.CONST, Op.NUMBER):
        value = int(node.attr if node.op is Op.CONST else numbers[node.attr])
        return Range(value, value, is_constant=True)
    bounds = _BOUNDS.get(node.op)
    if bounds is None or any(arg not in ranges for arg in node.args):
        return _UNKNOWN
    low, high = bounds(*(ranges[arg] for arg in node.args))
    if node.op is Op.CAST:
        least, most = node.attr.int_range
        if low < least or high > most:
            return _UNKNOWN
    if low < INT_MIN or high > INT_MAX:
        return _UNKNOWN
    return Range(low, high, is_constant=False)


def _product(a: Range, b: Range) -> tuple[int, int]:
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return min(corners), max(corners)


_BOUNDS: dict[Op, Callable[..., tuple[int, int]]] = {
    Op.ADD: lambda a, b: (a.low + b.low, a.high + b.high),
    Op.SUB: lambda a, b: (a.low - b.high, a.high - b.low),
    Op.NEG: lambda a: (-a.high, -a.low),
    Op.ABS: lambda a: (0, max(-a.low, a.high)),
    Op.MUL: _product,
    Op.CAST: lambda a: (a.low, a.high),
}
