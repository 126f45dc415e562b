"""Slices: small first, then as long as they may be."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.backends.cpu.pace import paced, slices


class Machine:
    """A clock that work moves on: `speed` multiply-adds a second."""

    def __init__(self, speed: float) -> None:
        self.speed, self.now = speed, 0.0

    def run(self, cost: np.ndarray, multiply_adds: float) -> list[tuple[int, float]]:
        """(stop, seconds) of each slice."""
        done, found = 0.0, []
        for stop in paced(cost, multiply_adds, clock=lambda: self.now):
            seconds = (cost[stop - 1] - done) * multiply_adds / self.speed
            self.now += seconds
            done = cost[stop - 1]
            found.append((stop, seconds))
        return found


@pytest.mark.parametrize("speed", [4e9, 5e10, 1e12])
def test_no_slice_is_long_and_few_are_short(speed: float) -> None:
    cost = np.arange(1.0, 10_001.0)
    found = Machine(speed).run(cost, speed / 1000)  # ten seconds of work
    assert found[-1][0] == len(cost)
    assert max(seconds for _, seconds in found) <= 0.1
    assert len(found) <= 10 / 0.08 + 8


def test_each_slice_goes_on_where_the_last_ended() -> None:
    stops = [stop for stop, _ in Machine(1e9).run(np.cumsum(np.linspace(3.0, 0.1, 500)), 1e7)]
    assert stops == sorted(set(stops))
    assert stops[-1] == 500


def test_an_item_too_long_is_a_slice() -> None:
    assert [stop for stop, _ in Machine(1e9).run(np.arange(1.0, 4.0), 1e10)] == [1, 2, 3]


def test_short_work_is_one_slice() -> None:
    assert slices(7, 1e8) == (7,)
    assert slices(7, 1e8, np.arange(1.0, 8.0)) == (7,)
    assert next(iter(slices(4, 1.6e9))) == 1
