"""Reports as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saccade.bench.machine import describe_machine
from saccade.bench.report import Measurement, Report, ratio
from saccade.bench.timing import Timing
from saccade.errors import ArgumentError

OURS = Measurement("causal", "saccade", {"q_len": 8}, Timing(0.5, (0.25, 0.25)), {"mask_bytes": 12})
THEIRS = Measurement("causal", "torch", {"q_len": 8}, Timing(1.0, (1.0, 1.0)))


def test_a_report_writes_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    Report("masks", describe_machine(), (OURS, THEIRS)).write_json(path)
    content = json.loads(path.read_text())
    assert content["format"] == 1
    assert content["benchmark"] == "masks"
    assert content["machine"]["versions"]["torch"]
    ours, theirs = content["measurements"]
    assert ours["case"] == theirs["case"] == "causal"
    assert (ours["median_s"], ours["first_s"], ours["shape"], ours["facts"]) == (
        0.25,
        0.5,
        {"q_len": 8},
        {"mask_bytes": 12},
    )
    assert theirs["contender"] == "torch"


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"expected a file that can be written, got .*No such file or directory"
    ):
        Report("masks", describe_machine(), ()).write_json(tmp_path / "missing" / "report.json")


def test_a_ratio_is_of_medians() -> None:
    assert ratio(THEIRS, OURS) == 4.0
