"""Work cut into slices short enough for Ctrl-C: after each, Python looks for signals.

A slice has whole items. Those of a backward pass are large where there are few heads and long rows: of one
head and 65,536 queries and keys, an item takes seconds, and so does the answer to Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt

__all__ = ["is_long", "paced", "slices"]

_SECONDS = 0.08  # of a slice: 0.1 are wanted, and a slice may take longer than the one before it foretold
_FIRST = 4e8  # multiply-adds of the first slice: 0.1 s for the slowest processor, few ms for a fast one
_GROWTH = 8.0  # a slice has at most so many times the work of the one before


def slices(
    count: int, multiply_adds: float, cost: npt.NDArray[np.float64] | None = None
) -> Sequence[int] | Iterator[int]:
    """Return for each slice the item after its last, as `runtime.team.run_sliced` takes it.

    Args:
        count: How many items there are.
        multiply_adds: The work of them all.
        cost: float64[count], what the items up to each cost together, in any unit; None where all are alike.

    Example:
        >>> slices(5, multiply_adds=1e6)
        (5,)
    """
    if not is_long(multiply_adds):
        return (count,)
    if cost is None:
        cost = np.arange(1.0, count + 1.0)
    return paced(cost, multiply_adds / cost.item(-1))


def is_long(multiply_adds: float) -> bool:
    """Return whether work is cut at all."""
    return multiply_adds > _FIRST


def paced(
    cost: npt.NDArray[np.float64], multiply_adds: float, clock: Callable[[], float] = perf_counter
) -> Iterator[int]:
    """Yield the slices of work that may take long.

    The first is small; how long it took says how large the next may be. An item is never cut, however long it
    takes.

    Args:
        cost: As for `slices`.
        multiply_adds: What a unit of cost is.
        clock: Seconds since any moment.

    Example:
        >>> times = iter([0.0, 0.16, 0.2, 0.36, 0.4, 0.56, 0.6, 0.76])
        >>> list(paced(np.arange(1.0, 6.0), 2e8, clock=times.__next__))
        [2, 3, 4, 5]
    """
    count, stop, done, budget = len(cost), 0, 0.0, _FIRST / multiply_adds
    while stop < count:
        start = clock()
        stop = min(max(stop + 1, int(np.searchsorted(cost, done + budget, side="right"))), count)
        yield stop
        work = cost.item(stop - 1) - done
        done += work
        budget = min(work / max(clock() - start, 1e-9) * _SECONDS, work * _GROWTH)
