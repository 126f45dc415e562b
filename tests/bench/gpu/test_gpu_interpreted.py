"""The measurements of the engine that they are for, where Triton interprets it: right, timed and counted."""

from __future__ import annotations

import pytest
import torch

from backends.triton.interpreted import interpreted
from saccade.bench.gpu.cases import GpuCase, Phase
from saccade.bench.gpu.clock import HostClock
from saccade.bench.gpu.setup import ENGINE, Setup, make_setup
from saccade.bench.gpu.timed_case import time_case

# float32: the interpreter has no arithmetic of bfloat16.
HOST = Setup(torch.device("cpu"), HostClock(), ENGINE, torch.float32, compiled=False, rounds=1)


@pytest.mark.parametrize("pattern", ["document", "alibi_table"])
@interpreted
def test_sequences_forward_and_backward(pattern: str) -> None:
    phases = (Phase.FORWARD, Phase.BACKWARD)
    for one in time_case(GpuCase(pattern, 24, 16, 1, 2, 2), phases, HOST):
        assert one.failures == {}
        assert {"saccade", "auto", "SDPA + mask"} <= one.timings.keys()


@interpreted
def test_a_decoding_step() -> None:
    (one,) = time_case(GpuCase("softcap", 40, 16, 1, 2, 1, is_decode=True), [Phase.DECODE], HOST)
    assert one.failures == {}
    assert list(one.timings) == ["saccade", "auto"]


@interpreted
def test_the_setup_knows_the_engine() -> None:
    assert make_setup("cpu").engine == "triton"
