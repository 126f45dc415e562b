"""Timing in turns: order, medians, spread, and what is refused."""

from __future__ import annotations

import gc
import time

import pytest

from saccade.bench.timing import Timing, time_in_turns, time_once, timed
from saccade.errors import ArgumentError


def test_contenders_take_turns_and_nothing_else_is_timed() -> None:
    calls: list[str] = []
    timings = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        check=lambda name, result: calls.append(f"check {name} {result}"),
        rounds=2,
        before=lambda: calls.append("before"),
    )
    a_turn = ["before", "a", "before", "b"]
    assert calls == ["a", "check a None", "b", "check b None", *a_turn, *a_turn]
    assert list(timings) == ["a", "b"]
    assert all(len(timing.samples_s) == 2 and timing.first_s > 0 for timing in timings.values())


def test_a_wrong_result_stops_before_any_sample() -> None:
    calls: list[int] = []

    def check(name: str, result: object) -> None:
        raise AssertionError(f"{name} is wrong")

    with pytest.raises(AssertionError, match="a is wrong"):
        time_in_turns({"a": lambda: calls.append(1)}, check=check)
    assert calls == [1]


def test_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    timing = time_in_turns({"short": lambda: None}, rounds=1, sample_s=1e-3)["short"]
    assert timing.calls > 100
    assert timing.median_s < 1e-4
    slow = time_in_turns({"slow": lambda: time.sleep(2e-3)}, rounds=1, sample_s=1e-3)["slow"]
    assert slow.calls == 1
    assert slow.median_s >= 2e-3


def test_medians_and_spread() -> None:
    timing = Timing(first_s=9.0, samples_s=(1.0, 2.0, 3.0, 4.0, 10.0))
    assert timing.median_s == 3.0
    assert timing.spread == pytest.approx((4.0 - 2.0) / 2 / 3.0)
    few = Timing(1.0, (1.0, 3.0))
    assert (few.spread, few.as_json()["spread"]) == (None, 0.0)
    assert timing.as_json() == {
        "first_s": 9.0,
        "median_s": 3.0,
        "low_s": 1.0,
        "high_s": 10.0,
        "spread": timing.spread,
        "calls": 1,
        "samples_s": [1.0, 2.0, 3.0, 4.0, 10.0],
    }


def test_the_collector_rests_while_the_clock_runs_and_only_then() -> None:
    states: list[bool] = []
    time_once(lambda: states.append(gc.isenabled()))
    gc.disable()
    try:
        time_once(lambda: None)
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert states == [False]


def test_timed_gives_the_result_and_its_seconds() -> None:
    value, seconds = timed(lambda: "result")
    assert value == "result"
    assert 0 < seconds < 1


@pytest.mark.parametrize(("contenders", "rounds"), [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_time_is_an_error(contenders: dict[str, object], rounds: int) -> None:
    with pytest.raises(
        ArgumentError, match=rf"a contender and at least 1 round, got {len(contenders)} .*rounds={rounds}"
    ):
        time_in_turns(contenders, rounds=rounds)  # type: ignore[arg-type]
