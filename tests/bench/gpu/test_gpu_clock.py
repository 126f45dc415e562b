"""The clocks of the GPU measurements: what a sample holds, what comes before it, and whose turn it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from saccade.bench.gpu import clock as clocks
from saccade.bench.gpu.ceilings import Bound, Ceilings, Cost, measure_ceilings
from saccade.bench.gpu.clock import DeviceClock, HostClock, Sample, time_by_turns
from saccade.errors import ArgumentError


class Mark:
    """An event of a device that works as fast as the host: a time, in milliseconds."""

    def __init__(self, log: list[str]) -> None:
        self._log, self.at = log, 0.0

    def record(self) -> None:
        self._log.append("mark")
        self.at = time.perf_counter() * 1e3

    def elapsed_time(self, end_event: Mark) -> float:
        return end_event.at - self.at


class Buffer:
    """Memory that only tells when it is read."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def sum(self) -> None:
        self._log.append("read")
        time.sleep(0.001)


def device_clock(log: list[str]) -> DeviceClock:
    return DeviceClock(
        Buffer(log),  # type: ignore[arg-type]
        lambda: Mark(log),
        lambda: log.append("wait"),
    )


def test_a_device_reads_its_buffer_before_a_sample_and_is_waited_for_after_it() -> None:
    log: list[str] = []
    clock = device_clock(log)
    log.clear()
    sample = clock.sample(lambda: log.append("call"))
    assert log == ["read", "mark", "call", "mark", "wait"]
    assert 0.0 <= sample.seconds < 0.1
    clock.finish()
    assert log[-1] == "wait"


def test_a_device_is_kept_busy_for_the_lead() -> None:
    log: list[str] = []
    clock = device_clock(log)
    log.clear()
    clock.sample(lambda: None, lead_s=0.005)
    # A pass takes a millisecond or, on a busy machine, more.
    assert 2 <= log.count("read") <= 6
    log.clear()
    clock.sample(lambda: None, lead_s=1e9)
    assert log.count("read") == clocks._MOST_PASSES


def test_events_count_in_milliseconds_and_samples_in_seconds() -> None:
    sample = device_clock([]).sample(lambda: time.sleep(0.02))
    assert 0.02 <= sample.seconds < 0.5
    assert 0.02 <= sample.host_s <= sample.seconds
    found = HostClock().sample(lambda: time.sleep(0.02))
    assert found.seconds == found.host_s >= 0.02


class Scripted:
    """A clock that says a second for every call and keeps the leads asked for."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds, self.leads = seconds, list[float]()

    def finish(self) -> None:
        pass

    def sample(self, call: Callable[[], object], lead_s: float = 0.0) -> Sample:
        call()
        self.leads.append(lead_s)
        return Sample(self.seconds, 0.25)


def test_contenders_take_turns_after_two_calls_that_do_not_count() -> None:
    made: list[str] = []
    calls = {name: (lambda name=name: lambda: made.append(name)) for name in "ab"}
    clock = Scripted()
    turns = time_by_turns(calls, clock, rounds=3, first_s={"b": 7.0})
    assert "".join(made) == "ab" * 5
    assert clock.leads == [0.0] * 2 + [0.5] * 8
    assert turns.timings["a"].samples_s == (1.0,) * 3
    assert (turns.timings["a"].first_s, turns.timings["b"].first_s) == (1.0, 7.0)
    assert turns.host_s == {"a": 0.25, "b": 0.25}


@pytest.mark.parametrize(
    ("rounds", "limit_s", "expected"), [(20, 1e9, 20), (20, 7.0, 4), (20, 0.5, 3), (2, 0.5, 2)]
)
def test_long_calls_get_fewer_rounds(rounds: int, limit_s: float, expected: int) -> None:
    # A round is a second of work and half a second of lead.
    turns = time_by_turns({"a": lambda: lambda: None}, Scripted(), rounds=rounds, limit_s=limit_s)
    assert len(turns.timings["a"].samples_s) == expected


def test_what_a_call_needs_is_prepared_outside_the_clock_and_used_once() -> None:
    made: list[int] = []

    def prepare() -> Callable[[], object]:
        time.sleep(0.02)
        made.append(len(made))
        return lambda: None

    turns = time_by_turns({"a": prepare}, HostClock(), rounds=2)
    assert len(made) == 4
    assert turns.timings["a"].median_s < 0.01


def test_nobody_and_no_round() -> None:
    assert time_by_turns({}, HostClock(), rounds=1).timings == {}
    with pytest.raises(ArgumentError, match="at least 1 round, got rounds=0"):
        time_by_turns({}, HostClock(), rounds=0)


def test_ceilings_count_products_of_two_and_bytes_both_ways() -> None:
    found = measure_ceilings(Scripted(0.5), torch.device("cpu"), side=8, copied=1024, rounds=1)
    assert found == Ceilings(matrix_flops=2 * 8**3 / 0.5, copy_bytes=2 * 1024 / 0.5)
    assert found.larger(Ceilings(1.0, 1e6)) == Ceilings(2048.0, 1e6)
    assert found.as_json() == {"bfloat16_matrix_flop_s": 2048.0, "copy_bytes_s": 4096.0}


def test_the_floor_is_the_larger_of_two_times() -> None:
    ceilings = Ceilings(matrix_flops=100.0, copy_bytes=10.0)
    by_matrix, by_bytes = ceilings.floor(Cost(400.0, 20.0)), ceilings.floor(Cost(100.0, 20.0))
    assert (by_matrix.seconds, by_matrix.bound) == (4.0, Bound.MATRIX)
    assert (by_bytes.seconds, by_bytes.bound) == (2.0, Bound.BANDWIDTH)
