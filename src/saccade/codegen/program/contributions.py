"""What a score program adds to the gradients of captured tensors.

The contributions of a program are evaluated beside the gradient of its score: they share what they read. How
they are added up is each engine's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import final

from saccade.codegen.program.derivative import derivative
from saccade.ir.axes import separate_axes
from saccade.ir.expr import Expr, cast, load, make
from saccade.ir.grad import differentiate
from saccade.ir.ops import Op
from saccade.ir.structure import Structure

__all__ = ["Contribution", "contributions", "roots_of", "summed_derivative"]


@final
@dataclass(frozen=True)
class Contribution:
    """What one load gives: at every pair, and for every value of `axes`, `value` joins `element`.

    Attributes:
        element: A LOAD that says where: the slot of the capture, and an index a dimension.
        value: Of a float type; 0 where an index is out of range and the score is none the less defined.
        axes: The reduction axes that both may read, as (axis, extent).
    """

    element: Expr
    value: Expr
    axes: tuple[tuple[int, int], ...] = ()

    @property
    def slot(self) -> int:
        """The capture."""
        slot: int = self.element.attr
        return slot

    @property
    def values(self) -> int:
        """How many values the axes have together; 1 without axes."""
        return prod(extent for _, extent in self.axes)


@lru_cache(maxsize=1024)
def contributions(structure: Structure, wanted: tuple[bool, ...]) -> tuple[Contribution, ...]:
    r"""Return what a score program contributes to the captures that are wanted, in the order of its loads.

    Args:
        structure: A SCORE structure.
        wanted: For each capture, whether its gradient is wanted; () for none.

    Example:
        >>> from saccade.ir.text import format_expression, parse_structure
        >>> alibi = parse_structure("score(c0: f32[1]) -> f32\nscore + c0[h] * f32(kv_idx - q_idx)")
        >>> (slope,) = contributions(alibi, (True,))
        >>> format_expression(slope.element), format_expression(slope.value)
        ('c0[h]', 'grad * f32(kv_idx - q_idx)')
    """
    slots = [slot for slot, is_wanted in enumerate(wanted) if is_wanted]
    if not slots:
        return ()
    return tuple(
        Contribution(load(each.slot, each.indices, each.value.dtype), each.value, each.axes)
        for each in differentiate(structure, wrt=slots).captures
    )


def roots_of(root: Expr, found: Sequence[Contribution]) -> tuple[Expr, ...]:
    """Return a lowered program's result and what is evaluated beside it: facts number the nodes below."""
    return (root, *(part for each in found for part in (each.element, each.value)))


def summed_derivative(structure: Structure, wanted: tuple[bool, ...]) -> Structure:
    """Return the derivative and all contributions added up: poison where any of them is."""
    total = derivative(structure).root
    for each in contributions(structure, wanted):
        value = each.value
        for axis in each.axes:
            value = make(Op.SUM, (value,), axis)
        total = make(Op.ADD, (total, cast(value, total.dtype)))
    return replace(derivative(structure), root=separate_axes(total))
