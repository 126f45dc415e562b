"""Backends by name, each loaded on first use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from saccade.backends.base import Backend
from saccade.backends.registry import ENTRIES, candidates, load


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_finds_its_backend(entry) -> None:
    backend = load(entry.name)
    assert isinstance(backend, Backend)
    assert backend.name == entry.name
    assert load(entry.name) is backend


def test_the_order_in_which_devices_ask() -> None:
    cpu = [name for name in candidates("cpu") if name != "triton"]
    assert cpu == ["cpu", "sdpa", "eager", "flex_attention"]
    exact = ("sdpa", "flash_attention_4", "flash_attention_3", "flash_attention_2")
    assert candidates("cuda") == candidates("xpu")
    assert candidates("cuda")[:4] == exact
    assert [name for name in candidates("cuda")[4:] if name != "triton"] == ["flex_attention", "eager", "cpu"]


def test_an_unknown_name() -> None:
    with pytest.raises(KeyError, match="nothing"):
        load("nothing")


def test_asking_every_backend_loads_no_compiler_of_torch() -> None:
    code = (
        "import sys, torch, saccade\n"
        "query = torch.zeros(1, 1, 4, 8)\n"
        "repr(saccade.explain(query, query, query))\n"
        "saccade.flex_attention(query, query, query)\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'triton')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
