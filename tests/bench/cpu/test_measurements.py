"""Cases, small calls and fresh processes at tiny sizes: they measure, refuse and stop as they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from saccade.bench.contenders import Contender
from saccade.bench.cpu import fresh_calls, measured_run, onnx_runtime, pauses, peers, run, timed_case
from saccade.bench.cpu.cases import Case, Phase, Selection
from saccade.bench.cpu.fresh_calls import measure_memory, memory_target, time_first_calls
from saccade.bench.cpu.outcome import Limit, Outcome
from saccade.bench.cpu.peaks import Peaks
from saccade.bench.cpu.run import bench_cpu
from saccade.bench.cpu.small_calls import time_overheads, time_tiny_calls
from saccade.bench.cpu.speed_charts import speed_charts
from saccade.bench.cpu.timed_case import make_workload, time_case
from saccade.bench.machine import describe_machine
from saccade.bench.oracle import mask_rows
from saccade.bench.timing import Timing
from saccade.errors import ArgumentError, CheckError

FORWARD = Case(Phase.FORWARD, "causal", "float32", 64, 16)
DECODE = Case(Phase.DECODE, "full", "float32", 96, 16)
EAGER = {"backend": "eager", "compiled": False, "rounds": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rests, single calls, and two small caches."""
    monkeypatch.setattr(pauses, "_REST_S", 0.0)
    monkeypatch.setattr(pauses, "_SAMPLE_S", 0.0)
    monkeypatch.setattr(timed_case, "beyond_caches", lambda: 1)
    monkeypatch.setattr(measured_run, "measure_peaks", lambda: Peaks(1e12, None, 1e11))


@pytest.mark.parametrize("pattern", ["full", "causal", "window", "documents", "prefix_lm", "natten", "alibi"])
def test_work_is_that_of_the_visible_pairs(pattern: str) -> None:
    case = replace(FORWARD, pattern=pattern)
    work = make_workload(case)
    seen = 64 * 64 if work.mask_mod is None else int(mask_rows(work.mask_mod, 0, 0, range(64), 64).sum())
    assert work.visible_pairs == 8 * seen
    assert time_case(case, **EAGER).work == 4 * 8 * seen * 16  # type: ignore[arg-type]


def test_who_takes_part_forward() -> None:
    for pattern, expected in {
        "causal": ["saccade", "SDPA", "SDPA + mask"],
        "window": ["saccade", "SDPA + mask"],
        "softcap": ["saccade"],
    }.items():
        outcome = time_case(replace(FORWARD, pattern=pattern), **EAGER)  # type: ignore[arg-type]
        assert list(outcome.timings) == expected
        assert outcome.limit is Limit.MULTIPLY_ADD
    assert outcome.refusals == {"SDPA + mask": "SDPA only adds to scores, and this score_mod does more"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoding_reads_the_keys_and_values_seen(dtype: str) -> None:
    outcome = time_case(replace(DECODE, dtype=dtype), **EAGER)  # type: ignore[arg-type]
    assert list(outcome.timings) == ["saccade", "SDPA", "SDPA, heads repeated", "SDPA, heads folded"]
    width = 4 if dtype == "float32" else 2
    assert (outcome.limit, outcome.work) == (Limit.BANDWIDTH, 96 * 2 * 16 * width * 8)
    windowed = time_case(replace(DECODE, pattern="window", length=600), **EAGER)  # type: ignore[arg-type]
    assert windowed.work == 512 * 2 * 16 * 4 * 8
    assert list(windowed.timings) == ["saccade", "SDPA + mask"]


def test_every_decoding_call_reads_another_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(case: Case, work: object, **options: object) -> list[Contender]:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            seen.append(key.data_ptr())
            return peers._grouped(query, key, value)

        return [Contender(name, 1.0, attend) for name in ("saccade", "other")]

    monkeypatch.setattr(timed_case, "participants", watched)
    monkeypatch.setattr(timed_case, "beyond_caches", lambda: 3 * 2 * 96 * 16 * 8 * 4)
    time_case(DECODE, backend="eager", compiled=False, rounds=2)
    timed = seen[2:]  # behind the checks, which read the first
    assert len(timed) == 6
    assert len(set(timed)) == 3
    assert timed[:3] == timed[3:]


def test_after_a_matmul_a_sample_is_one_call() -> None:
    outcome = time_case(replace(FORWARD, after_matmul=True), **EAGER)  # type: ignore[arg-type]
    assert outcome.name.endswith(", after a matmul")
    assert {timing.calls for timing in outcome.timings.values()} == {1}


def test_what_refuses_says_so_and_the_others_run() -> None:
    outcome = time_case(replace(FORWARD, pattern="documents"), backend="sdpa", compiled=False, rounds=1)
    assert list(outcome.timings) == ["SDPA + mask"]
    assert outcome.refusals["saccade"].startswith("its only patterns are no mask and causal")
    nobody = time_case(replace(FORWARD, pattern="softcap"), backend="sdpa", compiled=False, rounds=1)
    assert nobody.timings == {}
    assert set(nobody.refusals) == {"saccade", "SDPA + mask"}


def test_a_mask_too_large_for_the_memory_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "free_bytes", lambda device: 1000)
    outcome = time_case(FORWARD, **EAGER)  # type: ignore[arg-type]
    assert outcome.refusals == {"SDPA + mask": "its mask takes about 0.0 GB, and 0.0 GB are free"}


def entering(attend: Callable[[Tensor, Tensor, Tensor], Tensor], name: str) -> object:
    return lambda case, work, **options: [Contender(name, 1.0, attend)]


def test_peers_that_fail_are_left_out_and_wrong_results_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("no such thing\nmore")

    monkeypatch.setattr(timed_case, "participants", entering(failing, "peer"))
    assert time_case(FORWARD, **EAGER).refusals == {"peer": "RuntimeError: no such thing"}  # type: ignore[arg-type]
    monkeypatch.setattr(timed_case, "participants", entering(failing, "saccade"))
    with pytest.raises(RuntimeError, match="no such thing"):
        time_case(FORWARD, **EAGER)  # type: ignore[arg-type]
    monkeypatch.setattr(timed_case, "participants", entering(lambda query, key, value: query, "peer"))
    with pytest.raises(CheckError, match="peer: the output must be within"):
        time_case(FORWARD, **EAGER)  # type: ignore[arg-type]


def test_onnx_runtime_is_never_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(onnx_runtime, "import_module", absent)
    outcome = time_case(replace(FORWARD, pattern="full"), **EAGER)  # type: ignore[arg-type]
    assert outcome.refusals == {"ONNX Runtime": "onnxruntime is not installed"}
    monkeypatch.setattr(onnx_runtime, "import_module", lambda name: SimpleNamespace())
    outcome = time_case(replace(FORWARD, pattern="full"), **EAGER)  # type: ignore[arg-type]
    assert "SessionOptions" in outcome.refusals["ONNX Runtime"]


def test_onnx_runtime_takes_part_where_it_is_installed() -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    outcome = time_case(replace(FORWARD, pattern="full"), **EAGER)  # type: ignore[arg-type]
    assert "ONNX Runtime" in outcome.timings


def test_overheads_are_those_of_a_visible_pair() -> None:
    outcome = time_overheads("float32", backend="eager", rounds=1, length=64, head_dim=8)
    a_pair = {
        name: timing.median_s / make_workload(replace(FORWARD, pattern=name, head_dim=8)).visible_pairs
        for name, timing in outcome.timings.items()
    }
    for name, facts in outcome.facts.items():
        assert facts["per_pair_overhead"] == pytest.approx(a_pair[name] / a_pair["causal"] - 1.0)
    refused = time_overheads("float32", backend="sdpa", rounds=1, length=64, head_dim=8)
    assert list(refused.timings) == ["causal"]
    assert set(refused.refusals) == {"alibi", "softcap", "documents"}


def test_tiny_calls() -> None:
    outcome = time_tiny_calls(backend="eager", rounds=1)
    assert list(outcome.timings) == ["saccade", "SDPA"]
    assert outcome.rate("SDPA") == 0.0
    assert outcome.share("SDPA", Peaks(1.0, 1.0, 1.0)) is None


def test_first_calls_are_those_of_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first, following = time_first_calls(backend="eager", compiled=False, rounds=1)
    assert (list(first.timings), list(following.timings)) == (["saccade"], ["saccade"])
    asked: list[tuple[object, ...]] = []

    def answer(task: FunctionType, environment: object = None, /, **options: object) -> dict[str, object]:
        asked.append((task.__name__, options["backend"], environment is not None))
        return {"refusal": "tired"} if environment else {"first_s": 2.0, "next_s": 1.0}

    monkeypatch.setattr(fresh_calls, "ask", answer)
    first, following = time_first_calls(backend="eager", compiled=True, rounds=2)
    assert asked == [("first_calls", "eager", False)] * 2 + [("first_calls", "flex_attention", True)]
    assert first.timings["saccade"].samples_s == (2.0, 2.0)
    assert following.refusals == {"flex_attention": "tired"}


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    outcome = measure_memory("bfloat16", backend="sdpa", length=512)
    facts = outcome.facts["saccade"]
    tensor_bytes = 2 * 512 * 64 * 2
    assert facts["target_bytes"] == memory_target(4 * tensor_bytes) == 3 * 4 * tensor_bytes + (64 << 20)
    if facts["growth_bytes"] is not None:
        assert facts["call_bytes"] == 3 * tensor_bytes + facts["growth_bytes"]


def test_a_process_that_dies_is_a_refusal() -> None:
    refused = measure_memory("float32", backend="nobody", length=8)
    assert "saccade" in refused.refusals
    assert refused.timings == {}


def test_a_backend_that_refuses_says_why_from_its_process() -> None:
    first, _ = time_first_calls(backend="sdpa", compiled=False, rounds=1)
    assert "it changes no scores" in first.refusals["saccade"]


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Selection, "cases", lambda self: (FORWARD, DECODE))
    for name in ("time_overheads", "time_tiny_calls", "measure_memory"):
        monkeypatch.setattr(run, name, lambda *given, name=name, **options: named(name))
    monkeypatch.setattr(run, "time_first_calls", lambda **options: [named("first"), named("next")])
    steps: list[tuple[str, int, int]] = []
    found = bench_cpu(
        Selection(), backend="eager", compiled=False, memory=True, rounds=1,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [one.name for one in found.outcomes][:2] == [str(FORWARD), str(DECODE)]
    assert [one.name for one in found.outcomes][2:] == [
        "time_overheads", "time_overheads", "time_tiny_calls", "first", "next",
        "measure_memory", "measure_memory",
    ]  # fmt: skip
    assert steps[-1] == ("done", 10, 10)
    assert [done for _, done, _ in steps] == list(range(11))
    report = found.report()
    ours = report.measurements[0]
    assert ours.labels["pattern"] == "causal"
    assert ours.facts["share_of_peak"] == pytest.approx(float(ours.facts["flop_s"] or 0) / 1e12)
    assert report.facts["read_bytes_s"] == 1e11
    titles = [chart.title for chart in speed_charts(found)]
    assert titles == ["forward, float32, 64 tokens, D=16", "decode, float32, 96 tokens, D=16"]
    assert [chart.limit for chart in speed_charts(found)] == [1000.0, 100.0]


def named(name: str) -> Outcome:
    return Outcome(name, "tiny", {}, {}, {"saccade": Timing(1.0, (1.0,))})


def test_a_choice_leaves_out_what_was_not_chosen() -> None:
    found = bench_cpu(
        Selection(("causal",), ("float32",), (64,), (16,), only=Phase.FORWARD),
        **EAGER,  # type: ignore[arg-type]
    )
    assert [one.group for one in found.outcomes] == ["forward"]
    assert found.machine.threads == describe_machine().threads == torch.get_num_threads()


def test_unknown_backends() -> None:
    with pytest.raises(ArgumentError, match=r"backend must be one of .*, got 'nothing'"):
        bench_cpu(backend="nothing")


def test_ratios_need_both() -> None:
    one = Outcome("x", "forward", {}, {}, {"a": Timing(1.0, (1.0,)), "b": Timing(3.0, (3.0,))})
    assert one.ratio("b", "a") == 3.0
    assert one.ratio("b", "c") is None
