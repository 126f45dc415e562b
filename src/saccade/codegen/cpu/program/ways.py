"""In which way contributions to the gradients of captured tensors are added up."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from saccade.codegen.cpu.program.ramps import Ramp, ramp
from saccade.codegen.cpu.program.split import Level, Split
from saccade.codegen.program.contributions import Contribution
from saccade.ir.dtype import DType

__all__ = ["Way", "run_of", "sum_type", "way_of"]

_MOST_KEPT = 128  # values of axes of which lanes are kept


class Way(Enum):
    """How contributions reach their elements, by what the indices read."""

    HEAD = "one element for a head: lanes are kept over rows, and added up once a tile"
    ROW = "one element a row: lanes are kept along the row, and added up at its end"
    COLUMN = "one element a key: lanes are kept over rows, and join their elements once a tile"
    RUN = "neighbours: a vector is added to memory"
    LANES = "any elements: lane by lane"

    __hash__ = object.__hash__  # as in DType: members are singletons


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


_AT_ONCE = {Level.ITEM: Way.HEAD, Level.ROW: Way.ROW, Level.COLUMN: Way.COLUMN}
