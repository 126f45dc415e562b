"""Tiny jagged batches: results are checked by sequence, counted, refused and timed as they should be."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender
from saccade.bench.cpu import measured_run, pauses
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.cpu.speed_charts import speed_charts
from saccade.bench.jagged import timed_case
from saccade.bench.jagged.batches import BATCHES, Batch
from saccade.bench.jagged.cases import JaggedCase, Selection
from saccade.bench.jagged.peers import torch_unheard
from saccade.bench.jagged.run import bench_jagged
from saccade.bench.jagged.timed_case import (
    checked_participants,
    make_workload,
    sequence_by_sequence,
    time_case,
)
from saccade.errors import ArgumentError, CheckError

FULL, CAUSAL = (JaggedCase("short", pattern, "float32") for pattern in ("full", "causal"))
NO_KERNEL = "RuntimeError: No viable backend for scaled_dot_product_attention was found."
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sequences, among them one of a single token; no rests, and single calls."""
    monkeypatch.setitem(BATCHES, "short", Batch(6, 9, heads=2, head_dim=8))
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, None, 1e11))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_takes_part(dtype: str) -> None:
    for pattern, peers, refusals in (
        ("full", ["SDPA nested", "padded + mask", "SDPA each"], {}),
        ("causal", ["padded + mask", "padded, no mask", "SDPA each"], {"SDPA nested": NO_KERNEL}),
    ):
        for outcome in time_case(JaggedCase("short", pattern, dtype), backend="eager", rounds=1):
            assert list(outcome.timings) == ["saccade", *peers]
            assert outcome.refusals == refusals


@pytest.mark.parametrize("case", [FULL, CAUSAL], ids=str)
def test_work_is_that_of_pairs_within_sequences(case: JaggedCase) -> None:
    lengths = BATCHES["short"].lengths.tolist()
    pairs = sum(n * n if case is FULL else n * (n + 1) // 2 for n in lengths)
    outcomes = time_case(case, backend="eager", rounds=1)
    assert [one.group for one in outcomes] == ["forward", "backward", "forward and backward"]
    assert [one.work for one in outcomes] == [flops * 2 * 8 * pairs for flops in (4, 10, 14)]
    assert [one.labels["phase"] for one in outcomes] == ["forward", "backward", "step"]


@pytest.mark.parametrize("case", [FULL, CAUSAL], ids=str)
def test_the_oracle_is_the_attention_of_each_sequence(case: JaggedCase) -> None:
    batch = BATCHES["short"]
    query, key, value = (one.double() for one in batch.inputs(torch.float32))
    found = sequence_by_sequence(case, query, key, value)
    start = 0
    for length in batch.lengths.tolist():
        q, k, v = (one[:, :, start : start + length] for one in (query, key, value))
        expected = scaled_dot_product_attention(q, k, v, is_causal=case is CAUSAL)
        torch.testing.assert_close(found[:, :, start : start + length], expected)
        start += length
    assert start == found.shape[2]


def entering(monkeypatch: pytest.MonkeyPatch, name: str, attend: Attend) -> None:
    """One contender in every case."""

    def participants(case: JaggedCase, work: object, **options: object) -> list[Contender]:
        return [Contender(name, 1.0, attend)]

    monkeypatch.setattr(timed_case, "participants", participants)


def test_sequences_that_see_each_other_stop_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    entering(monkeypatch, "SDPA each", scaled_dot_product_attention)
    with pytest.raises(CheckError, match="SDPA each: the output must be within"):
        checked_participants(FULL, make_workload(FULL), backend="eager")


def test_a_wrong_gradient_in_the_last_sequence_stops_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        last = torch.zeros(value.shape[2], 1)
        last[-1] = 1.0
        twice = value + last * (value - value.detach())  # of equal value; the last token's gradient is twice
        return sequence_by_sequence(FULL, query, key, twice)

    entering(monkeypatch, "SDPA each", doubled)
    with pytest.raises(CheckError, match="SDPA each: the gradient of value must be within"):
        checked_participants(FULL, make_workload(FULL), backend="eager")


def test_a_backend_without_gradients_says_so_and_the_peers_run() -> None:
    for outcome in time_case(FULL, backend="sdpa", rounds=1):
        assert list(outcome.timings) == ["SDPA nested", "padded + mask", "SDPA each"]
        assert "its only patterns are" in outcome.refusals["saccade"]


def test_torchs_log_is_as_it_was_afterwards() -> None:
    log = logging.getLogger("torch.nested._internal.sdpa")
    before = log.level
    with torch_unheard():
        assert not log.isEnabledFor(logging.WARNING)
        warnings.warn("The PyTorch API of nested tensors is in prototype stage", stacklevel=1)
        with pytest.raises(UserWarning, match="of something else"):
            warnings.warn("of something else", stacklevel=1)
    assert log.level == before


def test_a_whole_run() -> None:
    steps: list[tuple[str, int, int]] = []
    found = bench_jagged(
        Selection(("short",), (), ("float32",)),
        backend="eager",
        rounds=1,
        progress=lambda *step: steps.append(step),
    )
    assert [step[0] for step in steps[1:3]] == [str(FULL), str(CAUSAL)]
    assert steps[-1] == ("done", 4, 4)
    assert [one.name for one in found.outcomes] == [
        f"{phase} {case}"
        for case in (FULL, CAUSAL)
        for phase in ("forward", "backward", "forward and backward")
    ]
    report = found.report()
    assert report.benchmark == "jagged"
    assert {one.contender for one in report.refusals} == {"SDPA nested"}
    assert [list(chart.speeds) for chart in speed_charts(found)] == [["short, full", "short, causal"]] * 3


def test_unknown_backends() -> None:
    with pytest.raises(ArgumentError, match=r"backend must be one of .*, got 'nothing'"):
        bench_jagged(backend="nothing")
