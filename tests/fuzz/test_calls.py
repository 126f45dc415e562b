"""Random calls of the CPU engine, the same at every run; `make fuzz` makes others, for as long as told."""

from __future__ import annotations

import shlex

import pytest
import torch
from torch import Tensor

from fuzz import __main__ as fuzzer
from fuzz import check
from fuzz.call import Call, Mod, Table
from fuzz.draw import family
from fuzz.simplify import simplest
from saccade.runtime.host import this_host

FAMILIES, CALLS = 200, 10
AT_ONCE = 5  # families in a test


@pytest.mark.parametrize("first", range(0, FAMILIES, AT_ONCE))
def test_the_engine_is_right(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        for call in family(seed, CALLS, this_host().isas):
            assert check.complaint(call) is None, call


def test_a_seed_is_a_family() -> None:
    assert family(3, 4, ["avx2"]) == family(3, 4, ["avx2"])
    assert family(3, 4, ["avx2"]) != family(4, 4, ["avx2"])
    assert eval(repr(family(3, 4, ["avx2"])), {**fuzzer._NAMES}) == family(3, 4, ["avx2"])


WRONG_BY = 1e-4
_answer = check._answer


def off_in_long_rows(*given: object) -> dict[str, Tensor | None]:
    """An engine that is wrong where there are more than six keys."""
    found = _answer(*given)
    if given[0].lengths[1] > 6 and given[2] == "cpu":
        found["out"] = found["out"] + WRONG_BY
    return found


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(check, "_answer", off_in_long_rows)
    score = Mod("score(c0: f32[1], n0: f32) -> f32\nscore * n0 + c0[h]", (0.5,), (Table("f32", (4,), 1),))
    return Call((9, 40), (4, 2), (16, 8), batch=2, score=score, mask=Mod("(causal) & (chunked(8))"), seed=5)


def test_a_fault_is_seen(broken: Call) -> None:
    said = check.complaint(broken)
    assert said is not None
    assert said.startswith("out[0, 0, 0, 0] is ")
    assert check.complaint(Call((3, 6))) is None


def test_a_fault_is_simplified(broken: Call) -> None:
    found = simplest(broken, lambda call: check.complaint(call) is not None)
    assert found == Call((1, 7), (1, 1), (1, 1), batch=1)


def test_a_missing_error_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = Call((3, 5), mask=Mod("mask(c0: bool[1]) -> bool\nc0[kv_idx]", (), (Table("bool", (4,), 1),)))
    assert check.complaint(beyond) is None
    monkeypatch.setattr(check, "_answer", lambda *given: {"out": torch.zeros(1, 1, 3, 8)})
    assert "did not raise" in (check.complaint(beyond) or "")


def test_the_death_of_a_process_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call((3, 5))
    script = f"import os\nprint({f'call 7 {call!r}'!r}, flush=True)\nos.abort()"
    monkeypatch.setattr(fuzzer, "_COMMAND", ["-c", script])
    steps = list(fuzzer._watch(7, seconds=60))
    assert steps[0] == 7
    assert steps[1].call == call
    assert steps[1].complaint.startswith("the process ended with SIGABRT")
    (*_, reported) = shlex.split(steps[1].report())
    assert eval(reported, dict(fuzzer._NAMES)) == call


def test_silence_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "PATIENCE", 1)
    monkeypatch.setattr(fuzzer, "_COMMAND", ["-c", "import time; time.sleep(60)"])
    (step,) = fuzzer._watch(7, seconds=60)
    assert step.complaint == "hang: no answer in 1 s"
