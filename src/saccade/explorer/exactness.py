"""Whether a program's integers stay where a double holds every one of them.

Owns the evaluation of a program on one box, the whole mask: a range for each node, by the analysis's own
table. Of a captured tensor only its extremes count, whatever the indices. Invariant: a program called exact
computes no integer beyond ±(2^53 - 1) at any pair of the box where that integer matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.interval import NUMPY_TYPE, Number, Truth, Value, whole
from saccade.analysis.transfer import TRANSFER
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import INDEX_VARIABLES, REDUCTIONS, Op

__all__ = ["evaluated", "evaluated_args", "is_exact"]

Array = npt.NDArray[Any]

_LARGEST = 2**53 - 1


def evaluated_args(node: Expr) -> tuple[Expr, ...]:
    """Return the arguments that a node's value follows from: of a CUSTOM node, the value it is given."""
    return node.args[:1] if node.op is Op.CUSTOM else node.args


def evaluated(root: Expr) -> list[Expr]:
    r"""Return every node that the value of `root` follows from, arguments first.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> evaluated(parse_structure("mask() -> bool\nkv_idx <= q_idx").root)
        [<Expr var kv_idx i64>, <Expr var q_idx i64>, <Expr le bool>]
    """
    order: dict[Expr, None] = {}
    stack = [root]
    while stack:
        missing = [arg for arg in evaluated_args(stack[-1]) if arg not in order]
        if missing:
            stack.extend(reversed(missing))
        else:
            order.setdefault(stack.pop())
    return list(order)


def is_exact(
    nodes: Iterable[Expr],
    captures: Sequence[Array],
    numbers: Sequence[int | float],
    shape: tuple[int, int, int, int],
) -> bool:
    r"""Prove that no integer of a program passes ±(2^53 - 1).

    Args:
        nodes: The program's nodes, arguments first (`evaluated`).
        captures: The captured arrays by slot.
        numbers: The run-time numbers by slot.
        shape: Batches, heads, queries and keys, each at least 1.

    Returns:
        True where that is proven; False says nothing.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> def proven(text, length):
        ...     return is_exact(evaluated(parse_structure(text).root), (), (), (1, 1, length, length))
        >>> square = "mask() -> bool\nq_idx * kv_idx < 100"
        >>> proven(square, 1024), proven(square, 1 << 30)
        (True, False)
    """
    order = list(nodes)
    scene = _Box(captures, numbers, shape, _extents(order))
    values: dict[Expr, Value] = {}
    with np.errstate(all="ignore"):
        for node in order:
            value = TRANSFER[node.op](node, [values[arg] for arg in evaluated_args(node)], scene)
            if node.dtype is DType.INT64:
                assert isinstance(value, Number), "an integer is described by a range"
                if value.lo.min() < -_LARGEST or value.hi.max() > _LARGEST:
                    return False
            values[node] = value
    return True


def _extents(nodes: Iterable[Expr]) -> dict[int, int]:
    """The greatest extent that a reduction gives each axis, at least 1."""
    extents: dict[int, int] = {}
    for node in nodes:
        if node.op in REDUCTIONS:
            k, extent = node.attr
            extents[k] = max(extent, extents.get(k, 1))
    return extents


def _between(least: int, most: int) -> Number:
    return Number(np.array([least]), np.array([most]))


@final
class _Box:
    """What leaves may be anywhere in the mask."""

    def __init__(
        self,
        captures: Sequence[Array],
        numbers: Sequence[int | float],
        shape: tuple[int, int, int, int],
        extents: dict[int, int],
    ) -> None:
        self._captures = captures
        self._numbers = numbers
        self._sizes = dict(zip(INDEX_VARIABLES, shape, strict=True))
        self._extents = extents

    def variable(self, name: str) -> Number:
        """The positions along one axis of the mask."""
        return _between(0, self._sizes[name] - 1)

    def number(self, slot: int) -> int | float:
        """A run-time number."""
        return self._numbers[slot]

    def axis(self, k: int) -> Number:
        """The index of the reductions over an axis."""
        return _between(0, self._extents[k] - 1)

    def load(self, node: Expr, indices: list[Number]) -> Value:
        """The elements of a captured tensor, all of them."""
        values = self._captures[node.attr]
        if node.dtype is DType.BOOL:
            return Truth(np.array([values.any()]), np.array([not values.all()]))
        if not node.dtype.is_float:
            return _between(int(values.min()), int(values.max())) if values.size else _between(0, 0)
        numbers = values[~np.isnan(values)].astype(NUMPY_TYPE[node.dtype])
        if not numbers.size:
            return whole(node.dtype)
        nan = np.array([numbers.size < values.size])
        return Number(numbers.min(keepdims=True), numbers.max(keepdims=True), nan)
