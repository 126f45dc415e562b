"""Integer ranges on plain Python integers: what an INT64 node may be, from what its arguments may be.

`analysis` has intervals for many rectangles at once, with congruences and poison. A kernel asks less, and at
every call: one rectangle, the least and the greatest, in microseconds. Integers here do not wrap; a range
that passes the ends of int64 becomes all of it, since the program wraps there. Of floats nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import OPS, Op, TypeRule

__all__ = ["ANY", "ELSEWHERE", "RANGES", "Range", "range_of"]

Range: TypeAlias = tuple[int, int]
"""The least and the greatest value."""

ANY: Range = DType.INT64.int_range


def range_of(node: Expr, args: Sequence[Range]) -> Range:
    """Return the range of an INT64 node that is in the table.

    Args:
        node: The node.
        args: The ranges of its arguments; of one that is no INT64 anything.

    Example:
        >>> from saccade.ir.expr import make, var
        >>> range_of(make(Op.SUB, (var("q_idx"), var("kv_idx"))), [(0, 7), (0, 9)])
        (-9, 7)
    """
    low, high = RANGES[node.op](node, args)
    return (low, high) if ANY[0] <= low and high <= ANY[1] else ANY


def _mul(node: Expr, args: Sequence[Range]) -> Range:
    corners = [x * y for x in args[0] for y in args[1]]
    return min(corners), max(corners)


def _floor_div(node: Expr, args: Sequence[Range]) -> Range:
    a, (least, most) = args
    divisors = {d for d in (least, most, -1, 1) if least <= d <= most and d != 0}
    corners = [x // d for x in a for d in divisors] or [0]
    return min(corners), max(corners)


def _remainder(node: Expr, args: Sequence[Range]) -> Range:
    (low, high), (least, most) = args
    if least == most != 0 and low // least == high // least:
        # One quotient: a plain difference.
        return low - low // least * least, high - low // least * least
    top = min(most - 1, high) if low >= 0 and least > 0 else most - 1
    return min(least + 1, 0), max(top, 0)


def _absolute(node: Expr, args: Sequence[Range]) -> Range:
    ((low, high),) = args
    return max(low, -high, 0), max(-low, high)


def _bits(args: Sequence[Range]) -> int:
    """The least 2**n such that -2**n <= x < 2**n for every x of both."""
    return 1 << max((x if x >= 0 else ~x).bit_length() for arg in args for x in arg)


def _and(node: Expr, args: Sequence[Range]) -> Range:
    # No more than an operand that is not negative.
    tops = [high for low, high in args if low >= 0]
    return (0, min(tops)) if tops else (-_bits(args), _bits(args) - 1)


def _or(node: Expr, args: Sequence[Range]) -> Range:
    return (0 if all(low >= 0 for low, _ in args) else -_bits(args)), _bits(args) - 1


def _shl(node: Expr, args: Sequence[Range]) -> Range:
    (low, high), (least, most) = args
    if least != most:
        return ANY
    return (low << least, high << least) if 0 <= least <= 63 else (0, 0)


def _shr(node: Expr, args: Sequence[Range]) -> Range:
    (low, high), (least, most) = args
    if least == most:
        places = least if 0 <= least <= 63 else 63
        return low >> places, high >> places
    return min(low, 0), max(high, -1)


def _cast(node: Expr, args: Sequence[Range]) -> Range:
    if node.args[0].dtype is DType.BOOL:
        return 0, 1
    least, most = node.attr.int_range
    if node.args[0].dtype.is_float:
        return least, most
    ((low, high),) = args
    return (low, high) if least <= low and high <= most else (least, most)


def _sum(node: Expr, args: Sequence[Range]) -> Range:
    extent = node.attr[1]
    return extent * args[0][0], extent * args[0][1]


RANGES: dict[Op, Callable[[Expr, Sequence[Range]], Range]] = {
    Op.CONST: lambda node, args: (node.attr, node.attr),
    Op.ADD: lambda node, args: (args[0][0] + args[1][0], args[0][1] + args[1][1]),
    Op.SUB: lambda node, args: (args[0][0] - args[1][1], args[0][1] - args[1][0]),
    Op.MUL: _mul,
    Op.FLOOR_DIV: _floor_div,
    Op.REMAINDER: _remainder,
    Op.NEG: lambda node, args: (-args[0][1], -args[0][0]),
    Op.ABS: _absolute,
    Op.MINIMUM: lambda node, args: (min(args[0][0], args[1][0]), min(args[0][1], args[1][1])),
    Op.MAXIMUM: lambda node, args: (max(args[0][0], args[1][0]), max(args[0][1], args[1][1])),
    Op.AND: _and,
    Op.OR: _or,
    Op.XOR: _or,
    Op.NOT: lambda node, args: (~args[0][1], ~args[0][0]),
    Op.SHL: _shl,
    Op.SHR: _shr,
    Op.WHERE: lambda node, args: (min(args[1][0], args[2][0]), max(args[1][1], args[2][1])),
    Op.CAST: _cast,
    Op.SUM: _sum,
    Op.MAX: lambda node, args: args[0],
    Op.MIN: lambda node, args: args[0],
}

_NOT_WHOLE = "its value is no INT64"

ELSEWHERE: dict[Op, str] = {
    Op.VAR: "from the sizes: `prover`",
    Op.NUMBER: "from the call: `prover`",
    Op.AXIS: "from the extents: `prover`",
    Op.LOAD: "from the stored type: `prover`",
    Op.CUSTOM: "gone: a program is lowered before it is looked at",
    **{op: _NOT_WHOLE for op in Op if OPS[op].rule in (TypeRule.FLOAT, TypeRule.COMPARE)},
}
