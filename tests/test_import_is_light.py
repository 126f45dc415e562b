"""`import saccade` brings in torch and nothing heavier."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import saccade

HEAVY = (
    "llvmlite",
    "triton",
    "matplotlib",
    "transformers",
    "torch._dynamo",
    "torch._inductor",
    "rich",
    "typer",
)

SCRIPT = """
import sys
import torch
before = set(sys.modules)
import saccade
print(*sorted(set(sys.modules) - before))
"""


def test_importing_saccade_loads_nothing_heavy() -> None:
    source = str(Path(saccade.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "saccade.errors" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []
    assert done.stderr == ""
