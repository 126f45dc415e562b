"""Runs of the GPU measurements on the host, at tiny sizes: everything but the card's own clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender, Workload
from saccade.bench.gpu import clock as clocks
from saccade.bench.gpu import mask_times, run, timed_case
from saccade.bench.gpu import setup as setups
from saccade.bench.gpu.cases import GpuCase, Phase, Selection
from saccade.bench.gpu.ceilings import Bound, Ceilings, Cost
from saccade.bench.gpu.clock import DeviceClock, HostClock
from saccade.bench.gpu.outcome import GpuOutcome, in_a_line
from saccade.bench.gpu.run import GpuRun, bench_gpu
from saccade.bench.gpu.setup import Setup, describe_card, make_setup
from saccade.bench.gpu.speed_charts import speed_charts
from saccade.bench.gpu.timed_case import time_case
from saccade.bench.timing import Timing
from saccade.errors import ArgumentError, MissingPackageError, UnsupportedError

CPU = torch.device("cpu")
HOST = Setup(CPU, HostClock(), "eager", torch.float32, compiled=False, rounds=1)
CAUSAL = GpuCase("causal", 32, 16, 1, 2, 2)
BOTH = (Phase.FORWARD, Phase.BACKWARD)
LIMITS = Ceilings(1e12, 1e11)
TINY = Selection(("causal",), (32, 16), (16,), tokens=32, width=32)
FORWARD_ONLY = replace(TINY, only=Phase.FORWARD)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def limits(setup: Setup) -> Ceilings:
    return LIMITS


def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def entering(monkeypatch: pytest.MonkeyPatch, **attends: Attend) -> None:
    """These contenders in every case, `saccade` and right ones among them."""

    def participants(case: GpuCase, work: Workload, **options: object) -> list[Contender]:
        return [Contender(name, 1.0, attend) for name, attend in attends.items()]

    monkeypatch.setattr(timed_case, "participants", participants)


def test_a_case_is_timed_in_every_phase() -> None:
    forward, backward = time_case(CAUSAL, BOTH, replace(HOST, rounds=3))
    assert (forward.name, backward.name) == (
        "forward causal S=32 D=16 B=1 H=2",
        "backward causal S=32 D=16 B=1 H=2",
    )
    assert forward.cost.flops * 10 == backward.cost.flops * 4 == 4 * 10 * 2 * (32 * 33 // 2) * 16
    for one in (forward, backward):
        assert list(one.timings) == list(one.host_s) == ["saccade", "auto", "SDPA flash"]
        assert set(one.refusals) == {"SDPA cuDNN"}
        assert one.failures == {}
        assert {len(timing.samples_s) for timing in one.timings.values()} == {3}
        assert list(one.masks) == ["saccade", "torch"]
        # Peers are looked at first, so that ours is held against another's.
        assert one.differences["SDPA flash"] == 0.0
        assert 0.0 < one.differences["saccade"] < 1e-4
        assert (one.picked, one.auto_is_ours, one.visible_pairs) == ("cpu", False, 2 * 32 * 33 // 2)
        assert one.slowness_of_auto() == pytest.approx(
            one.timings["auto"].median_s / min(timing.median_s for timing in one.timings.values())
        )


def test_what_auto_picks_is_not_timed_twice() -> None:
    (one,) = time_case(CAUSAL, [Phase.FORWARD], replace(HOST, engine="cpu"))
    assert list(one.timings) == ["saccade", "SDPA flash"]
    assert (one.picked, one.auto_is_ours) == ("cpu", True)
    assert one.slowness_of_auto() is not None


def test_a_decoding_step_is_a_rate_in_bytes() -> None:
    case = GpuCase("sliding_window", 64, 16, 2, 4, 2, is_decode=True)
    (one,) = time_case(case, [Phase.DECODE], HOST)
    assert one.name == "decode sliding_window K=64 D=16 B=2 H=4/2"
    assert one.shape == {"batch": 2, "heads": 4, "q_len": 1, "kv_len": 64, "head_dim": 16, "kv_heads": 2}
    assert one.rate("saccade") == one.cost.bytes / one.timings["saccade"].median_s
    assert one.share("saccade", LIMITS) == one.rate("saccade") / LIMITS.copy_bytes


def test_torch_makes_kernels_for_each_case_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[bool] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case = GpuCase("noop", 32, 16, 1, 2, 2)
    (one,) = time_case(case, [Phase.FORWARD], replace(HOST, compiled=True))
    assert resets == [True]
    assert "flex" in one.timings


def test_a_wrong_contender_is_not_timed_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    entering(monkeypatch, saccade=lambda q, k, v: flash(q, k, 1.1 * v), peer=flash)
    for one in time_case(CAUSAL, BOTH, HOST):
        assert list(one.timings) == ["peer"]
        assert one.failures["saccade"].startswith("saccade: the output must be within")
        assert one.ratio("peer") is None


def failing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    raise NotImplementedError("no such kernel\non this card")


def test_an_error_is_the_refusal_of_a_peer_and_a_failure_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    entering(monkeypatch, saccade=failing, peer=failing, other=flash)
    (one,) = time_case(CAUSAL, [Phase.FORWARD], HOST)
    assert list(one.timings) == ["other"]
    assert one.failures == {"saccade": "NotImplementedError: no such kernel"}
    assert one.refusals == {"peer": "NotImplementedError: no such kernel"}


def test_who_fails_backward_is_timed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward_only(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return failing(query, key, value) if query.requires_grad else flash(query, key, value)

    entering(monkeypatch, saccade=forward_only, peer=forward_only, other=flash)
    forward, backward = time_case(CAUSAL, BOTH, HOST)
    assert list(forward.timings) == ["saccade", "peer", "other"]
    assert forward.failures == forward.refusals == {}
    assert list(backward.timings) == ["other"]
    assert list(backward.failures) == ["saccade"]
    assert list(backward.refusals) == ["peer"]


def test_a_graph_serves_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once(torch.autograd.Function):
        """Right, and like torch's compiled functions it cannot be walked twice."""

        @staticmethod
        def forward(ctx: object, value: Tensor) -> Tensor:
            ctx.walked = False  # type: ignore[attr-defined]
            return value.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            assert not ctx.walked, "walked twice"  # type: ignore[attr-defined]
            ctx.walked = True  # type: ignore[attr-defined]
            return gradient

    entering(monkeypatch, saccade=lambda q, k, v: Once.apply(flash(q, k, v)))
    (one,) = time_case(CAUSAL, [Phase.BACKWARD], replace(HOST, rounds=3))
    assert one.failures == {}
    assert len(one.timings["saccade"].samples_s) == 3


def test_torch_makes_no_mask_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_times, "free_bytes", lambda device: 20 * 32 * 32)
    (one,) = time_case(CAUSAL, [Phase.FORWARD], HOST)
    assert list(one.masks) == ["saccade"]
    (one,) = time_case(replace(CAUSAL, pattern="noop"), [Phase.FORWARD], HOST)
    assert one.masks == {}


def test_a_run_measures_every_case_between_two_measurements_of_the_limits() -> None:
    steps: list[tuple[str, int, int]] = []
    measured = iter([Ceilings(1e12, 3e11), Ceilings(2e12, 1e11)])
    found = bench_gpu(
        HOST, FORWARD_ONLY, ceilings=lambda setup: next(measured), progress=lambda *step: steps.append(step)
    )
    assert found.ceilings == Ceilings(2e12, 3e11)
    assert [one.case for one in found.outcomes] == list(FORWARD_ONLY.cases())
    assert (found.left, found.broken, found.is_right) == ((), {}, True)
    assert [done for _, done, _ in steps] == list(range(5))
    assert {total for _, _, total in steps} == {4}
    assert (steps[0][0], steps[-1][0]) == ("the card's limits", "done")


def test_what_there_is_no_time_for_is_named() -> None:
    found = bench_gpu(HOST, FORWARD_ONLY, ceilings=limits, minutes=1e-6)
    cases = FORWARD_ONLY.cases()
    assert {one.case for one in found.outcomes} == {cases[0]}
    assert found.left == cases[1:]
    refused = found.report().refusals
    assert [one.case for one in refused if one.contender == "everyone"] == list(map(str, cases[1:]))
    assert refused[-1].reason == "the 1e-06 minutes of the run were spent"
    with pytest.raises(ArgumentError, match="minutes must be above 0, got minutes=0"):
        bench_gpu(HOST, TINY, minutes=0.0)


def test_a_case_that_breaks_ends_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(case: GpuCase, phases: Sequence[Phase], setup: Setup) -> list[GpuOutcome]:
        if case.length == 32:
            raise torch.OutOfMemoryError("no memory\nat all")
        return time_case(case, phases, setup)

    monkeypatch.setattr(run, "time_case", broken)
    found = bench_gpu(HOST, FORWARD_ONLY, ceilings=limits)
    assert found.broken == {"causal S=32 D=16 B=1 H=2": "OutOfMemoryError: no memory"}
    assert {one.case.length for one in found.outcomes} == {16}
    assert not found.is_right
    assert found.report().refusals[-1].reason == "FAILED: OutOfMemoryError: no memory"


def test_a_device_that_gave_up_leaves_what_was_found() -> None:
    calls: list[int] = []

    def measure(setup: Setup) -> Ceilings:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("an illegal memory access was encountered")
        return LIMITS

    found = bench_gpu(HOST, replace(TINY, lengths=(16,), only=Phase.FORWARD), ceilings=measure)
    assert found.ceilings == LIMITS
    assert list(found.broken) == ["the card's limits, again"]
    assert len(found.outcomes) == 1


def test_a_wrong_result_of_ours_makes_the_run_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    only = replace(TINY, lengths=(32,), only=Phase.FORWARD)
    entering(monkeypatch, saccade=flash, peer=lambda q, k, v: flash(q, k, 1.1 * v))
    found = bench_gpu(HOST, only, ceilings=limits)
    assert list(found.outcomes[0].failures) == ["peer"]
    assert found.is_right
    entering(monkeypatch, saccade=lambda q, k, v: flash(q, k, 1.1 * v), peer=flash)
    assert not bench_gpu(HOST, only, ceilings=limits).is_right


def test_the_report_tells_everything(tmp_path: Path) -> None:
    found = bench_gpu(HOST, replace(TINY, lengths=(32,)), ceilings=limits)
    path = tmp_path / "gpu.json"
    found.report().write_json(path)
    content = json.loads(path.read_text())
    assert content["benchmark"] == "gpu"
    assert content["facts"] == {"bfloat16_matrix_flop_s": 1e12, "copy_bytes_s": 1e11}
    assert content["machine"]["versions"]["torch"] == torch.__version__
    one = content["measurements"][0]
    assert one["labels"] == {
        "phase": "forward", "pattern": "causal", "dtype": "float32", "auto_picks": "cpu",
        "bound": "bandwidth",
    }  # fmt: skip
    facts = one["facts"]
    assert facts["floor_s"] == max(4 * 2 * 528 * 16 / 1e12, 4 * 2 * 32 * 16 * 4 / 1e11)
    assert facts["times_floor"] == pytest.approx(one["median_s"] / facts["floor_s"])
    assert facts["flop_s"] == pytest.approx(4 * 2 * 528 * 16 / one["median_s"])
    assert facts["share_of_peak"] == pytest.approx(facts["flop_s"] / 1e12)
    assert facts["times_saccade"] == 1.0
    assert facts["saccade_block_mask_s"] > 0.0
    step = next(one for one in content["measurements"] if one["labels"]["phase"] == "decode")
    assert "bytes_s" in step["facts"]
    assert {one["contender"] for one in content["refusals"]} == {"SDPA cuDNN"}


def timing(seconds: float) -> Timing:
    return Timing(1.0, (seconds,))


def outcome(pattern: str, phase: Phase = Phase.FORWARD, length: int = 4096, **options: object) -> GpuOutcome:
    case = GpuCase(pattern, length, 64, 4, 32, 32, is_decode=phase is Phase.DECODE)
    timings = {"saccade": timing(1e-3), "flex": timing(2e-3)}
    return replace(
        GpuOutcome(case, phase, {"batch": 4, "kv_len": length}, timings, Cost(6e11, 2e9)), **options
    )


def finished(*outcomes: GpuOutcome) -> GpuRun:
    machine, card = describe_card(CPU)
    return GpuRun(machine, card, "triton", Ceilings(8e14, 4e12), outcomes, (), {}, 9.0)


def test_charts_are_of_one_phase_and_width_and_of_few_groups() -> None:
    names = [f"pattern_{number}" for number in range(9)]
    found = finished(
        outcome("noop", Phase.DECODE),
        *(outcome(name) for name in names),
        outcome("causal", length=2048),
        outcome("causal", timings={}),
    )
    charts = speed_charts(found)
    assert [(chart.title, len(chart.speeds), chart.unit, chart.limit) for chart in charts] == [
        ("forward, D=64", 8, "TFLOP/s", 800.0),
        ("forward, D=64, from 9", 2, "TFLOP/s", 800.0),
        ("decode, D=64", 1, "TB/s", 4.0),
    ]
    assert list(charts[0].speeds)[:2] == ["causal\n4 × 2,048", "pattern\n0\n4 × 4,096"]
    assert charts[0].speeds["pattern\n0\n4 × 4,096"] == {
        "saccade": pytest.approx(600.0), "flex": pytest.approx(300.0),
    }  # fmt: skip
    assert charts[2].speeds["noop\n4 × 4,096"]["saccade"] == pytest.approx(2.0)


def test_ratios_and_floors_of_an_outcome() -> None:
    one = outcome("causal")
    assert (one.ratio("flex"), one.ratio("SDPA")) == (2.0, None)
    assert one.floor(Ceilings(8e14, 4e12)).bound is Bound.MATRIX
    assert one.slowness_of_auto() is None
    picked = replace(one, picked="flex_attention", timings={**one.timings, "auto": timing(2.5e-3)})
    assert picked.slowness_of_auto() == pytest.approx(2.5)
    assert replace(one, auto_is_ours=True).slowness_of_auto() == 1.0


def test_an_error_is_told_in_a_line() -> None:
    assert in_a_line(ValueError("first\nsecond")) == "ValueError: first"
    long = in_a_line(ValueError("word " * 100))
    assert len(long) <= 161
    assert long.startswith("ValueError: word word")
    assert long.endswith("…")


def test_without_a_gpu_the_setup_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UnsupportedError, match=r"needs a CUDA device, and torch .* is built without CUDA"):
        make_setup(engine="eager")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(
        UnsupportedError, match=r"finds no device .*or measure this machine with: saccade bench"
    ):
        make_setup(engine="eager")
    with pytest.raises(ArgumentError, match="device must be cuda or cpu, got device='xpu'"):
        make_setup("xpu", engine="eager")
    with pytest.raises(ArgumentError, match=r"backend must be one of .* got 'nothing'"):
        make_setup("cpu", engine="nothing")
    monkeypatch.setattr(setups, "backend_names", lambda: ("triton",))
    monkeypatch.setattr(setups.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="needs the package triton, and that is not installed"):
        make_setup("cpu", engine="triton")


CARD = SimpleNamespace(
    name="A Card", major=9, minor=0, multi_processor_count=132, total_memory=10**11, L2_cache_size=2**20
)


def test_a_card_is_described_with_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: CARD)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    machine, card = describe_card(torch.device("cuda", 0))
    assert (machine.accelerator, machine.versions["driver"], machine.versions["cuda"]) == (
        "A Card",
        None,
        "13.0",
    )
    assert card == {
        "capability": 90, "multiprocessors": 132, "memory_bytes": 10**11, "l2_bytes": 2**20,
    }  # fmt: skip
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.1.2\n")
    tool.chmod(0o755)
    assert describe_card(torch.device("cuda", 0))[0].versions["driver"] == "580.1.2"


def test_the_clock_of_a_card_reads_four_times_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Mark:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def elapsed_time(self, end_event: Mark) -> float:
            return 3.0

    def ones(size: int, **options: object) -> Tensor:
        sizes.append(4 * size)
        return torch.zeros(1)

    monkeypatch.setattr(clocks.torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    for cache in (2**26, 2**10):
        card = SimpleNamespace(L2_cache_size=cache)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        clock = clocks.cuda_clock(CPU)
        assert isinstance(clock, DeviceClock)
        assert clock.sample(lambda: None).seconds == 0.003
    assert sizes == [2**28, 2**26]
