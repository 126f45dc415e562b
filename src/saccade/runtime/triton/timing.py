"""How long work takes on a device, by the device's own clock.

Owns measuring for the choice of tiles; benchmarks, which compare contenders, have a method of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter

import torch

from saccade.runtime.triton.devices import active_driver, device_index, on_device

__all__ = ["median_seconds"]


def median_seconds(
    work: Callable[[], object], device: torch.device, *, repeats: int = 15, warm_up: int = 3
) -> float:
    """Time work that is queued on the current stream of a device.

    The clock is read by the stream between two pieces of work, so what Python does meanwhile does not count
    unless the device waits for it. On the CPU, where kernels are interpreted, the wall clock is read.

    Args:
        work: Queues the work, the same every time.
        device: Where it runs.
        repeats: How often it is timed.
        warm_up: How often it runs before.

    Returns:
        Seconds of one piece of work, the median.
    """
    for _ in range(warm_up):
        work()
    if device.type == "cpu":
        return statistics.median(_wall_clock(work) for _ in range(repeats))
    with on_device(device_index(device)):
        event = active_driver().get_device_interface().Event
        marks = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(repeats)]
        for begin, end in marks:
            begin.record()
            work()
            end.record()
        marks[-1][1].synchronize()
        milliseconds: list[float] = [begin.elapsed_time(end) for begin, end in marks]
    return statistics.median(milliseconds) / 1e3


def _wall_clock(work: Callable[[], object]) -> float:
    begun = perf_counter()
    work()
    return perf_counter() - begun
