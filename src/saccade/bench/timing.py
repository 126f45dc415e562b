"""Timing contenders side by side: in turns, with medians and spread.

Owns the one clock of the project's measurements. Contenders take turns within a round, so that a machine that
slows down slows all of them. Invariant: what is timed is the call alone; preparation, collection of garbage
and checks happen outside the clock.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from saccade.errors import ArgumentError

__all__ = ["Timing", "time_in_turns", "time_once", "timed"]

T = TypeVar("T")

_LONGEST_SERIES = 100_000  # calls in one sample; bounds the search for a sample long enough for the clock


@dataclass(frozen=True)
class Timing:
    """The times of one contender.

    Attributes:
        first_s: Seconds of its very first call, with whatever it compiles or caches.
        samples_s: Seconds a call, one entry a round.
        calls: Calls in a sample; a sample is their mean.
    """

    first_s: float
    samples_s: tuple[float, ...]
    calls: int = 1

    @property
    def median_s(self) -> float:
        """The median of the samples, in seconds."""
        return statistics.median(self.samples_s)

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, as a fraction of the median; None below three samples."""
        if len(self.samples_s) < 3:
            return None
        low, _, high = statistics.quantiles(self.samples_s, n=4, method="inclusive")
        return (high - low) / 2 / self.median_s

    def as_json(self) -> dict[str, object]:
        """The timing as plain data: medians and spread (0 where there is none) beside their samples."""
        return {
            "first_s": self.first_s,
            "median_s": self.median_s,
            "low_s": min(self.samples_s),
            "high_s": max(self.samples_s),
            "spread": self.spread or 0.0,
            "calls": self.calls,
            "samples_s": list(self.samples_s),
        }


def time_once(call: Callable[[], object], calls: int = 1) -> float:
    """Return the seconds one call takes, as the mean over a series of `calls`."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls
    finally:
        if was_enabled:
            gc.enable()


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Return what one call returns, and the seconds it took."""
    results: list[T] = []
    seconds = time_once(lambda: results.append(call()))
    return results[0], seconds


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    check: Callable[[str, object], object] | None = None,
    rounds: int = 7,
    sample_s: float = 0.0,
    before: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time calls in turns: every contender once a round.

    Args:
        contenders: Name to call. Their first calls come in this order, before all rounds.
        check: Called with a contender's name and what its first call returned, before anything else is timed;
            raises where that is wrong.
        rounds: Samples of each contender; at least 1.
        sample_s: The least seconds of a sample. A call that is shorter is repeated within a sample; 0 for one
            call a sample.
        before: Called before every sample, outside the clock: a torch matmul, say, to time what follows one.

    Returns:
        Name to timing, in the order given.

    Raises:
        ArgumentError: `rounds` is less than 1, or there is no contender.

    Example:
        >>> timings = time_in_turns({"sum": lambda: sum(range(100)), "len": lambda: len("a")}, rounds=3)
        >>> len(timings["sum"].samples_s), timings["len"].median_s < 0.1
        (3, True)
    """
    if rounds < 1 or not contenders:
        raise ArgumentError(
            "time_in_turns() expects a contender and at least 1 round, "
            f"got {len(contenders)} contenders, rounds={rounds}"
        )
    first: dict[str, float] = {}
    for name, call in contenders.items():
        result, first[name] = timed(call)
        if check is not None:
            check(name, result)
    calls = {name: _calls_for(call, sample_s) for name, call in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            if before is not None:
                before()
            samples[name].append(time_once(call, calls[name]))
    return {name: Timing(first[name], tuple(samples[name]), calls[name]) for name in contenders}


def _calls_for(call: Callable[[], object], sample_s: float) -> int:
    """How many calls make a sample of at least `sample_s` seconds."""
    calls = 1
    while sample_s > 0 and calls < _LONGEST_SERIES and (taken := time_once(call, calls) * calls) < sample_s:
        calls = min(_LONGEST_SERIES, max(2 * calls, int(calls * sample_s / max(taken, 1e-9))))
    return calls
