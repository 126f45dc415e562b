"""How long a call keeps the device busy: by its own events, or by the host's clock where the host computes.

Owns what happens around one sample and the turns of contenders. Invariants: caches are cold at every sample
of a device, and the device still has work when a call is made, so that the time of launching it is hidden as
far as it is shorter than the lead; the host's own time is told beside it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, final

import torch
from torch import Tensor

from saccade.bench.timing import Timing, time_once
from saccade.errors import ArgumentError

__all__ = [
    "Clock",
    "DeviceClock",
    "Event",
    "HostClock",
    "Preparation",
    "Sample",
    "Turns",
    "cuda_clock",
    "time_by_turns",
]

E = TypeVar("E")

Preparation: TypeAlias = Callable[[], Callable[[], object]]
"""Makes ready what one call needs, such as the graph that a backward pass consumes, and returns the call."""

_CACHES_READ = 4  # sizes of the last cache that are read before a sample, so that nothing of it is left
_LEAST_BUFFER = 2**26  # bytes, for a card that does not tell its cache
_MOST_PASSES = 64
_LEADS = 2.0  # how many times the host's time of a call the device is kept busy before it
_FEWEST_ROUNDS = 3


class Sample(NamedTuple):
    """One timed call.

    Attributes:
        seconds: How long the work took.
        host_s: Seconds until the call returned; the work may still run on a device.
    """

    seconds: float
    host_s: float


class Clock(Protocol):
    """What tells the time of one call."""

    def finish(self) -> None:
        """Wait until all that was asked for is done."""

    def sample(self, call: Callable[[], object], lead_s: float = 0.0) -> Sample:
        """Time one call, which the device reaches no earlier than `lead_s` after it was made."""


class Event(Protocol):
    """A mark in a device's work, as `torch.cuda.Event` is one."""

    def record(self) -> None:
        """Stand behind all work so far."""

    def elapsed_time(self: E, end_event: E) -> float:
        """Return the milliseconds from this mark to a later one."""


@final
class HostClock:
    """The clock of a device whose calls return when they are done.

    Example:
        >>> HostClock().sample(lambda: sum(range(100))).seconds < 0.1
        True
    """

    def finish(self) -> None:
        """Nothing is ever under way."""

    def sample(self, call: Callable[[], object], lead_s: float = 0.0) -> Sample:
        """Time one call; no lead is needed."""
        seconds = time_once(call)
        return Sample(seconds, seconds)


@final
class DeviceClock:
    """The clock of a device that works beside the host.

    Before a sample the device reads a buffer larger than its caches, as often as the lead takes. It is read,
    not written: lines that were written would go to memory while the call runs.

    Args:
        buffer: What is read, on the device.
        new_event: Makes a mark that can be timed.
        synchronize: Waits until the device has done everything.
    """

    def __init__(
        self, buffer: Tensor, new_event: Callable[[], Event], synchronize: Callable[[], object]
    ) -> None:
        self._buffer, self._new_event, self._synchronize = buffer, new_event, synchronize
        buffer.sum()
        self._pass_s = max(1e-6, self._between(buffer.sum).seconds)

    def finish(self) -> None:
        """Wait for the device."""
        self._synchronize()

    def sample(self, call: Callable[[], object], lead_s: float = 0.0) -> Sample:
        """Time one call between two marks, its inputs in memory."""
        for _ in range(min(_MOST_PASSES, 1 + math.ceil(lead_s / self._pass_s))):
            self._buffer.sum()
        return self._between(call)

    def _between(self, call: Callable[[], object]) -> Sample:
        start, stop = self._new_event(), self._new_event()
        start.record()
        begun = time.perf_counter()
        call()
        host_s = time.perf_counter() - begun
        stop.record()
        self._synchronize()
        return Sample(start.elapsed_time(stop) / 1e3, host_s)


def cuda_clock(device: torch.device) -> DeviceClock:
    """Return the clock of a CUDA device, with a buffer four times its last cache."""
    cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
    size = max(_LEAST_BUFFER, _CACHES_READ * cache)
    buffer = torch.ones(size // 4, dtype=torch.float32, device=device)
    return DeviceClock(
        buffer, partial(torch.cuda.Event, enable_timing=True), partial(torch.cuda.synchronize, device)
    )


@final
@dataclass(frozen=True)
class Turns:
    """What timing in turns found.

    Attributes:
        timings: Name to times.
        host_s: Name to the median of the seconds until a call returned.
    """

    timings: Mapping[str, Timing]
    host_s: Mapping[str, float]


def time_by_turns(
    calls: Mapping[str, Preparation],
    clock: Clock,
    *,
    rounds: int,
    limit_s: float = math.inf,
    first_s: Mapping[str, float] | None = None,
) -> Turns:
    """Time calls in turns: every contender once a round, after two calls each that are not counted.

    Args:
        calls: Name to what prepares a call, outside the clock; may be empty.
        clock: Who times them.
        rounds: Samples of each, at most.
        limit_s: Seconds that all samples together may take; three of each are taken in any case, or `rounds`
            where that is fewer.
        first_s: Name to the seconds of its very first call, where that was made before. Default: the first
            of the two that are not counted.

    Raises:
        ArgumentError: `rounds` is less than 1.

    Example:
        >>> turns = time_by_turns({"sum": lambda: lambda: sum(range(100))}, HostClock(), rounds=3)
        >>> len(turns.timings["sum"].samples_s)
        3
    """
    if rounds < 1:
        raise ArgumentError(f"time_by_turns() expects at least 1 round, got rounds={rounds}")
    warm = {name: clock.sample(prepare()) for name, prepare in calls.items()}
    first = {name: one.seconds for name, one in warm.items()} | dict(first_s or {})
    warm = {name: clock.sample(prepare(), _LEADS * warm[name].host_s) for name, prepare in calls.items()}
    # From here on no call compiles anything, so the host's time is that of launching.
    leads = {name: _LEADS * one.host_s for name, one in warm.items()}
    round_s = sum(max(*one) + leads[name] for name, one in warm.items())
    count = min(rounds, max(_FEWEST_ROUNDS, int(min(limit_s / round_s, rounds)) if round_s else rounds))
    found: dict[str, list[Sample]] = {name: [] for name in calls}
    for _ in range(count):
        for name, prepare in calls.items():
            found[name].append(clock.sample(prepare(), leads[name]))
    return Turns(
        {name: Timing(first[name], tuple(one.seconds for one in found[name])) for name in calls},
        {name: statistics.median(one.host_s for one in found[name]) for name in calls},
    )
