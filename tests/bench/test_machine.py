"""What a report says of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saccade.bench import machine
from saccade.bench.machine import describe_machine, find_compiler, package_version

CPUINFO = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC 9005
flags\t\t: fpu avx2 fma avx512f avx512_bf16 rdrand
"""


def test_a_machine_is_plain_data() -> None:
    found = describe_machine()
    assert found.cores >= 1
    assert found.threads == torch.get_num_threads()
    assert found.versions["torch"] == torch.__version__
    assert found.versions["python"]
    assert json.loads(json.dumps(found.as_json()))["cores"] == found.cores


def test_the_processor_and_its_instruction_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert describe_machine().features == ()
    assert describe_machine().processor
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert describe_machine().features == ("avx2", "fma", "avx512f", "avx512_bf16")
    assert describe_machine().processor == "AMD EPYC 9005 (family 26, model 2)"


def test_packages_and_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_version("torch")
    assert package_version("no-such-package") is None
    monkeypatch.setenv("PATH", "")
    assert find_compiler() is None


def test_memory_that_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(machine.os, "sysconf", refuse)
    assert describe_machine().memory_bytes is None
