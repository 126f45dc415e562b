"""Functions in a process of their own: they answer, refuse and die there, and their process tells."""

from __future__ import annotations

import platform
from types import SimpleNamespace

from saccade.bench.cpu.fresh_calls import first_calls
from saccade.bench.fresh_process import ask


def test_the_function_runs_elsewhere_with_its_options() -> None:
    answer = ask(first_calls, backend="eager")
    assert set(answer) == {"first_s", "next_s"}
    assert float(answer["first_s"] or 0) > 0


def test_a_process_that_dies_is_a_refusal() -> None:
    absent = SimpleNamespace(__module__="platform", __name__="nothing")
    refusal = str(ask(absent)["refusal"])  # type: ignore[arg-type]
    assert refusal.startswith("its process ended with code 1: AttributeError")
    assert not hasattr(platform, "nothing")


def test_variables_are_those_of_the_process() -> None:
    where = {"SACCADE_CPU_ISA": "no such instructions"}
    assert "no such instructions" in str(ask(first_calls, where, backend="cpu")["refusal"])
