"""Training cases at tiny sizes: gradients are checked, counted, refused and timed as they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender
from saccade.bench.cpu import measured_run, pauses
from saccade.bench.cpu import peers as cpu_peers
from saccade.bench.cpu.fresh_calls import memory_target
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.cpu.speed_charts import speed_charts
from saccade.bench.oracle import mask_rows
from saccade.bench.timing import Timing
from saccade.bench.train import run, timed_case
from saccade.bench.train.cases import Phase, Selection, TrainCase
from saccade.bench.train.long_step import measure_step_memory
from saccade.bench.train.patterns import TrainPattern, train_pattern
from saccade.bench.train.run import bench_train
from saccade.bench.train.small_calls import time_dropout, time_tiny_steps
from saccade.bench.train.timed_case import checked_participants, gradient_call, make_workload, time_case
from saccade.errors import ArgumentError, CheckError

CAUSAL = TrainCase("causal", "float32", 64, 16)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rests, and single calls."""
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, None, 1e11))


def timed(case: TrainCase, backend: str = "eager") -> list[Outcome]:
    return time_case(case, backend=backend, phases=Phase, rounds=1)


@pytest.mark.parametrize("pattern", ["full", "causal", "window", "documents", "alibi", "t5", "dropout"])
def test_work_is_five_products_and_two_more_of_the_visible_pairs(pattern: str) -> None:
    backward, step = timed(replace(CAUSAL, pattern=pattern))
    mask = train_pattern(pattern, 64, 8).mask_mod
    seen = 64 * 64 if mask is None else int(mask_rows(mask, 0, 0, range(64), 64).sum())
    assert (backward.work, step.work) == (10 * 8 * seen * 16, 14 * 8 * seen * 16)
    assert (backward.group, step.group) == ("backward", "forward and backward")
    assert backward.limit is step.limit is Limit.MULTIPLY_ADD


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_takes_part(dtype: str) -> None:
    for pattern, peers in {
        "full": ["SDPA"],
        "causal": ["SDPA", "SDPA + mask"],
        "window": ["SDPA + mask"],
        "documents": ["SDPA + mask"],
        "alibi": ["SDPA + bias"],
        "t5": ["SDPA + bias"],
        "dropout": ["SDPA"],
    }.items():
        for outcome in timed(replace(CAUSAL, pattern=pattern, dtype=dtype)):
            assert list(outcome.timings) == ["saccade", *peers]
            assert outcome.refusals == {}


def test_gradients_are_those_of_inputs_and_of_what_is_learned() -> None:
    pattern = train_pattern("alibi", 64, 8)
    work = make_workload(pattern, replace(CAUSAL, pattern="alibi").size, torch.float32)
    found = {}
    for one in checked_participants(pattern, work, backend="eager"):
        step, backward = (gradient_call(phase, one, work)() for phase in (Phase.STEP, Phase.BACKWARD))
        found[one.name] = step
        assert isinstance(step, tuple)
        assert [tuple(each.shape) for each in step] == [(1, 8, 64, 16)] * 3 + [(8,)]
        torch.testing.assert_close(step, backward)
    torch.testing.assert_close(found["saccade"], found["SDPA + bias"], rtol=1e-3, atol=1e-3)


def test_backward_alone_runs_on_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        calls.append(query.requires_grad)
        return scaled_dot_product_attention(query, key, value, is_causal=True)

    work = make_workload(train_pattern("causal", 64, 8), CAUSAL.size, torch.float32)
    for phase, expected in {Phase.BACKWARD: 1, Phase.STEP: 4}.items():
        calls.clear()
        call = gradient_call(phase, Contender("one", 1.0, attend), work)
        for _ in range(3):
            call()
        assert calls == [True] * expected


def entering(monkeypatch: pytest.MonkeyPatch, name: str, attend: Attend, *, is_same: bool = True) -> None:
    """One contender in every case."""

    def participants(pattern: TrainPattern, work: object, **options: object) -> list[Contender]:
        return [Contender(name, 1.0, attend, is_same=is_same)]

    monkeypatch.setattr(timed_case, "participants", participants)


def test_a_wrong_gradient_stops_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        twice = 2 * value - value.detach()  # of equal value, and of twice the gradient
        return scaled_dot_product_attention(query, key, twice, is_causal=True)

    entering(monkeypatch, "SDPA", doubled)
    with pytest.raises(CheckError, match="SDPA: the gradient of value must be within"):
        timed(CAUSAL)


def test_a_wrong_gradient_of_what_is_learned_stops_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = train_pattern("t5", 64, 8)
    assert pattern.learned is not None
    assert pattern.dense_bias is not None
    numbers, dense_bias = pattern.learned.numbers, pattern.dense_bias

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = dense_bias()
        return scaled_dot_product_attention(query, key, value, attn_mask=2 * bias - bias.detach())

    entering(monkeypatch, "SDPA + bias", attend)
    work = make_workload(pattern, replace(CAUSAL, pattern="t5").size, torch.float32)
    with pytest.raises(CheckError, match=r"SDPA \+ bias: the gradient of what is learned must be within"):
        checked_participants(pattern, work, backend="eager")
    assert numbers.grad is None


def test_dropout_is_checked_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    dropping = replace(CAUSAL, pattern="dropout")

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, dropout_p=0.1, is_causal=True)

    entering(monkeypatch, "saccade", attend)  # as many pairs, but others
    with pytest.raises(CheckError, match="saccade: the output must be within"):
        timed(dropping)
    # A peer that draws its own is held against the same call without dropout, which this one is not.
    entering(monkeypatch, "SDPA", attend, is_same=False)
    with pytest.raises(CheckError, match="SDPA: the output must be within"):
        timed(dropping)


def test_the_check_leaves_the_users_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pattern = train_pattern("dropout", 64, 8)
    checked_participants(pattern, make_workload(pattern, CAUSAL.size, torch.float32), backend="eager")
    assert torch.equal(torch.rand(3), expected)


def test_peers_that_fail_are_left_out_and_ours_is_not_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("no such thing\nmore")

    entering(monkeypatch, "peer", failing)
    assert [one.refusals for one in timed(CAUSAL)] == [{"peer": "RuntimeError: no such thing"}] * 2
    entering(monkeypatch, "saccade", failing)
    with pytest.raises(RuntimeError, match="no such thing"):
        timed(CAUSAL)


def test_a_backend_without_gradients_says_so_and_the_peers_run() -> None:
    for outcome in timed(CAUSAL, backend="flex_attention"):
        assert list(outcome.timings) == ["SDPA", "SDPA + mask"]
        assert "gradient" in outcome.refusals["saccade"]


def test_what_does_not_fit_the_memory_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_peers, "free_bytes", lambda device: 1000)
    for pattern, refusals in {
        "causal": {"SDPA + mask": "its mask takes about 0.0 GB, and 0.0 GB are free"},
        "t5": {"SDPA + bias": "its bias and weights take about 0.0 GB, and 0.0 GB are free"},
        "dropout": {"SDPA": "its weights take about 0.0 GB, and 0.0 GB are free"},
    }.items():
        assert [one.refusals for one in timed(replace(CAUSAL, pattern=pattern))] == [refusals] * 2


def test_after_a_matmul_a_sample_is_one_call() -> None:
    for outcome in timed(replace(CAUSAL, after_matmul=True)):
        assert outcome.name.endswith(", after a matmul")
        assert {timing.calls for timing in outcome.timings.values()} == {1}


def test_dropout_is_measured_against_ourselves() -> None:
    found = time_dropout("float32", backend="eager", rounds=1, length=64, head_dim=8)
    assert [one.labels["phase"] for one in found] == ["forward", "backward", "forward and backward"]
    for outcome in found:
        base, dropping = (outcome.timings[name].median_s for name in ("causal", "dropout"))
        assert outcome.facts["dropout"]["per_pair_overhead"] == pytest.approx(dropping / base - 1.0)
    for outcome in time_dropout("float32", backend="sdpa", rounds=1, length=64, head_dim=8):
        assert list(outcome.timings) == ["causal"]
        assert "dropout" in outcome.refusals["dropout"]


def test_tiny_steps() -> None:
    forward, backward = time_tiny_steps(backend="eager", rounds=1)
    assert "forward that records" in forward.name
    for outcome in (forward, backward):
        assert list(outcome.timings) == ["saccade", "SDPA"]
        assert outcome.group == "tiny"


def test_memory_is_that_of_a_step_in_a_process_of_its_own() -> None:
    outcome = measure_step_memory("bfloat16", backend="eager", length=512)
    facts, tensor_bytes = outcome.facts["saccade"], 2 * 512 * 64 * 2
    assert facts["target_bytes"] == memory_target(8 * tensor_bytes)
    if facts["growth_bytes"] is not None:
        assert facts["call_bytes"] == 4 * tensor_bytes + facts["growth_bytes"]
        assert facts["growth_bytes"] > 0
    refused = measure_step_memory("bfloat16", backend="sdpa", length=640)
    assert "its only patterns are" in refused.refusals["saccade"]


def named(name: str) -> Outcome:
    return Outcome(name, "tiny", {}, {}, {"saccade": Timing(1.0, (1.0,))})


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Selection, "cases", lambda self: (CAUSAL,))
    for name in ("time_dropout", "time_tiny_steps"):
        monkeypatch.setattr(run, name, lambda *given, name=name, **options: [named(name)])
    monkeypatch.setattr(run, "measure_step_memory", lambda dtype, **options: named(f"memory {dtype}"))
    steps: list[tuple[str, int, int]] = []
    found = bench_train(
        backend="eager", memory=True, rounds=1, progress=lambda *step: steps.append(step)
    )  # fmt: skip
    assert [one.name for one in found.outcomes] == [
        f"backward {CAUSAL}", f"forward and backward {CAUSAL}", "time_dropout", "time_dropout",
        "time_tiny_steps", "memory float32", "memory bfloat16",
    ]  # fmt: skip
    assert steps[-1] == ("done", 8, 8)
    report = found.report()
    assert report.benchmark == "train"
    assert report.measurements[0].labels["phase"] == "backward"
    titles = [chart.title for chart in speed_charts(found)]
    assert titles == [f"{phase.heading}, float32, 64 tokens, D=16" for phase in Phase]


def test_a_choice_leaves_out_what_was_not_chosen() -> None:
    chosen = Selection(("causal",), ("float32",), (64,), (16,), only=Phase.STEP)
    found = bench_train(chosen, backend="eager", rounds=1)
    assert [one.group for one in found.outcomes] == ["forward and backward"]


def test_unknown_backends() -> None:
    with pytest.raises(ArgumentError, match=r"backend must be one of .*, got 'nothing'"):
        bench_train(backend="nothing")
