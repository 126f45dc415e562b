"""What a score program adds to the gradients of captured tensors, and in which way it is added up.

The contributions of a program are evaluated beside the gradient of its score: they share what they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from math import prod
from typing import final

from saccade.codegen.cpu.program.derivative import derivative
from saccade.codegen.cpu.program.ramps import Ramp, ramp
from saccade.codegen.cpu.program.split import Level, Split
from saccade.ir.axes import separate_axes
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, cast, load, make
from saccade.ir.grad import differentiate
from saccade.ir.ops import Op
from saccade.ir.structure import Structure

__all__ = [
    "Contribution",
    "Way",
    "contributions",
    "roots_of",
    "run_of",
    "sum_type",
    "summed_derivative",
    "way_of",
]


_MOST_KEPT = 128  # values of axes of which lanes are kept


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


class Way(Enum):
    """How contributions reach their elements, by what the indices read."""

    HEAD = "one element for a head: lanes are kept over rows, and added up once a tile"
    ROW = "one element a row: lanes are kept along the row, and added up at its end"
    COLUMN = "one element a key: lanes are kept over rows, and join their elements once a tile"
    RUN = "neighbours: a vector is added to memory"
    LANES = "any elements: lane by lane"

    __hash__ = object.__hash__  # as in DType: members are singletons


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


def run_of(split: Split, contribution: Contribution) -> Ramp | None:
    """Return the form of the last index, if the elements of consecutive keys are neighbours."""
    if not contribution.element.args:
        return None
    *others, last = contribution.element.args
    return None if any(split.level(other) & Level.COLUMN for other in others) else ramp(last)


def way_of(split: Split, contribution: Contribution) -> Way:
    """Return how a contribution is added up."""
    level = Level.ITEM
    for index in contribution.element.args:
        level |= split.level(index)
    if level is not Level.PAIR and contribution.values <= _MOST_KEPT:
        return _AT_ONCE[level]
    return Way.LANES if run_of(split, contribution) is None else Way.RUN


def sum_type(found: Sequence[Contribution], split: Split, slot: int, precise: DType) -> DType:
    """Return the type that contributions to a capture are summed in.

    An element of a run gets at most one a row, and is summed in the precise type. What is added up before it
    joins may come from every pair, and is summed in FLOAT64.
    """
    ways = {way_of(split, each) for each in found if each.slot == slot}
    return precise if ways <= {Way.RUN} else DType.FLOAT64


def summed_derivative(structure: Structure, wanted: tuple[bool, ...]) -> Structure:
    """Return the derivative and all contributions added up: poison where any of them is."""
    total = derivative(structure).root
    for each in contributions(structure, wanted):
        value = each.value
        for axis in each.axes:
            value = make(Op.SUM, (value,), axis)
        total = make(Op.ADD, (total, cast(value, total.dtype)))
    return replace(derivative(structure), root=separate_axes(total))


_AT_ONCE = {Level.ITEM: Way.HEAD, Level.ROW: Way.ROW, Level.COLUMN: Way.COLUMN}
