"""Whether two programs are one rule, however their captures and numbers are laid out in slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from saccade.block_mask.snapshot import host_arrays
from saccade.ir.expr import Expr, const, load, rebuild, walk
from saccade.ir.ops import Op
from saccade.ir.program import Program

__all__ = ["is_same_rule"]


def is_same_rule(first: Program, second: Program) -> bool:
    """Whether two programs do the same with the same data.

    Args:
        first: A program.
        second: Another one.

    Returns:
        True where they are one expression once numbers and captured arrays stand in place of their slots.

    Example:
        >>> from saccade.tracing import trace
        >>> def window(size):
        ...     return trace(lambda b, h, q_idx, kv_idx: q_idx - kv_idx < size)
        >>> is_same_rule(window(3), window(3)), is_same_rule(window(3), window(4))
        (True, False)
    """
    if first.kind is not second.kind:
        return False
    arrays: list[npt.NDArray[Any]] = []
    return _resolved(first, arrays) is _resolved(second, arrays)


def _resolved(program: Program, arrays: list[npt.NDArray[Any]]) -> Expr:
    """The program's root with numbers for slots, and captures numbered by their place in `arrays`."""
    slots = [_place(array, arrays) for array in host_arrays(program)]
    done: dict[Expr, Expr] = {}
    for node in walk(program.root):
        if node.op is Op.NUMBER:
            done[node] = const(program.numbers[node.attr], node.dtype)
        else:
            args = tuple(done[arg] for arg in node.args)
            is_load = node.op is Op.LOAD
            done[node] = load(slots[node.attr], args, node.dtype) if is_load else rebuild(node, args)
    return done[program.root]


def _place(array: npt.NDArray[Any], arrays: list[npt.NDArray[Any]]) -> int:
    """Where an array, or its equal, stands; it is added where it does not."""
    for place, known in enumerate(arrays):
        if known is array or (known.dtype == array.dtype and _is_equal(known, array)):
            return place
    arrays.append(array)
    return len(arrays) - 1


def _is_equal(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
