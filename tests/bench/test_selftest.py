"""The selftest passes here, and reports what is broken."""

from __future__ import annotations

import pytest
import torch

from saccade.backends import dense
from saccade.backends.base import Results
from saccade.bench import selftest
from saccade.bench.selftest import SelftestCase, run_selftest, selftest_cases
from saccade.masks import causal
from saccade.scores import softcap

CASES = selftest_cases()


def test_every_case_passes_and_compares_something() -> None:
    steps: list[str] = []
    results = run_selftest(CASES, progress=steps.append)
    assert [result.faults for result in results if result.faults] == []
    assert steps == [case.name for case in CASES] == [result.name for result in results]
    # Blocks and eager attention at two shapes, or the latter alone.
    assert min(result.checks for result in results) >= 2
    assert all(result.seconds > 0 for result in results)


def test_names_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_wrong_backend_is_a_fault_of_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = dense.DenseAttention.__call__
    monkeypatch.setattr(
        dense.DenseAttention,
        "__call__",
        lambda kernel, operands: Results(attend(kernel, operands).out.roll(1, dims=-1)),
    )
    results = run_selftest([SelftestCase("causal", causal), SelftestCase("cap", softcap(2.0), causal)])
    for result in results:
        assert any(fault.startswith("eager at B2 H2/1 5×9: the output is off by") for fault in result.faults)


def test_a_mod_that_cannot_be_read_is_a_fault() -> None:
    (result,) = run_selftest([SelftestCase("branch", lambda b, h, q, kv: q if q > 2 else kv)])
    assert result.checks == 0
    assert result.faults[0].startswith("ControlFlowError: ")


def test_a_mod_that_fails_at_a_shape_is_a_fault() -> None:
    short = torch.ones(9, dtype=torch.bool)
    (result,) = run_selftest([SelftestCase("short", lambda b, h, q, kv: short[kv])])
    (fault,) = result.faults
    assert fault.startswith("B1 H1 12×12: the function itself fails: IndexError: index 9 is out of bounds")


def test_text_that_does_not_parse_back_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "format_structure", lambda structure: "mask() -> bool\nTrue")
    (result,) = run_selftest([SelftestCase("causal", causal)])
    assert result.faults == ("its program does not survive printing and parsing",)
