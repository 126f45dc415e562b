"""Who runs what: the order of `auto`, its limit, refusals with every reason."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from backends.flash.stand_in import FLASH_2, FLASH_3, installed
from saccade.attention import AuxRequest, explain, flex_attention
from saccade.backends.flex import _DEVICE_REASONS
from saccade.backends.registry import candidates
from saccade.errors import ArgumentError, BackendError, SettingError
from saccade.ir.dtype import DType
from saccade.masks import sliding_window
from saccade.planner import backend_names, plan, reasons_against
from saccade.problem import AttentionProblem, ModFacts, Outputs
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cpu", DType.FLOAT32, 2, 2, 4, 4, 64, 64, 32, 32, scale=0.25)


ON_MPS = """\
no backend takes this call (backend='auto'); each says why:
  sdpa: it changes no scores, and there is a score_mod
  flash_attention_4: it runs on NVIDIA GPUs (cuda devices), and the tensors are on mps
  flash_attention_3: it runs on NVIDIA GPUs (cuda devices), and the tensors are on mps
  flash_attention_2: it runs on NVIDIA GPUs (cuda devices), and the tensors are on mps
  triton: it has no kernels for mps devices
  flex_attention: it runs on cuda and cpu devices, and the tensors are on mps
  eager: it would hold 536,870,912 scores, and 'auto' takes it for at most 16,777,216; \
name it with backend='eager' to use it all the same, or raise SACCADE_EAGER_LIMIT
  cpu: it runs on cpu devices, and the tensors are on mps
Change what one of them objects to, or name a backend with backend=. \
On mps, backend='eager' runs and holds every score; \
for tensors moved to a CPU with .cpu() there is the engine of backend='cpu', which holds none."""


def twice(score, b, h, q_idx, kv_idx):
    return 2 * score


CHANGED = dataclasses.replace(PLAIN, score=ModFacts(trace(twice).structure, (2.0,)))
# More dimensions than the engine has, and a gradient that torch's flex_attention has not.
WANTING = dataclasses.replace(CHANGED, head_dim=513, needs_grad=True)


def test_the_engine_of_the_cpu_goes_first() -> None:
    chosen = plan(CHANGED, schedule=Schedule(q_tile=8))
    assert (chosen.backend, chosen.refusals, chosen.schedule) == ("cpu", {}, Schedule(q_tile=8))


def test_a_gradient_changes_nothing() -> None:
    assert plan(dataclasses.replace(CHANGED, needs_grad=True)).backend == "cpu"


def test_plain_attention_that_it_cannot_goes_to_sdpa() -> None:
    assert plan(dataclasses.replace(PLAIN, head_dim=1024, value_dim=1024)).backend == "sdpa"


def test_small_problems_that_it_cannot_go_to_eager() -> None:
    chosen = plan(WANTING)
    assert chosen.backend == "eager"
    assert chosen.refusals["sdpa"] == ("it changes no scores, and there is a score_mod",)


class TestLimit:
    def test_beyond_it_the_compiler_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(_DEVICE_REASONS, "cpu", lambda problem: [])
        large = dataclasses.replace(WANTING, q_len=2**12, kv_len=2**10)
        assert plan(large).backend == "flex_attention"
        assert plan(dataclasses.replace(large, kv_len=2**9)).backend == "eager"

    def test_where_none_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "1000")
        monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: False)
        with pytest.raises(BackendError, match=r"no backend takes this call \(backend='auto'\)") as caught:
            plan(WANTING)
        assert list(caught.value.reasons) == list(candidates("cpu"))
        text = str(caught.value)
        assert "sdpa: it changes no scores" in text
        assert "eager: it would hold 32,768 scores, and 'auto' takes it for at most 1,000" in text
        assert "SACCADE_EAGER_LIMIT" in text
        assert "torch gives it no gradient on a CPU" in text
        assert "none of c++, g++, clang++" in text
        assert "name a backend with backend=" in text

    def test_naming_eager_lifts_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "1000")
        assert plan(CHANGED, "eager").backend == "eager"

    def test_weights_lift_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "0")
        assert plan(dataclasses.replace(CHANGED, outputs=Outputs(weights=True))).backend == "eager"

    def test_a_bad_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "many")
        with pytest.raises(SettingError, match="SACCADE_EAGER_LIMIT"):
            plan(WANTING)


class TestByName:
    def test_it_runs_or_raises(self) -> None:
        assert plan(PLAIN, "sdpa").backend == "sdpa"
        with pytest.raises(
            BackendError, match=r"backend='sdpa' does not take this call:\n  sdpa: it changes no scores"
        ):
            plan(CHANGED, "sdpa")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(
            ArgumentError, match=r"backend must be one of 'auto', 'cpu'.*, got backend='cuda'"
        ):
            plan(PLAIN, "cuda")

    def test_the_call_raises_it_too(self) -> None:
        query = torch.zeros(1, 1, 4, 8)
        with pytest.raises(BackendError, match="it has no sinks"):
            flex_attention(query, query, query, sinks=torch.zeros(1), backend="sdpa")
        with pytest.raises(NotImplementedError, match="it never forms the weights"):
            flex_attention(query, query, query, return_aux=AuxRequest(weights=True), backend="flex_attention")


class TestDevicesWithoutAnEngine:
    """What `auto` does with tensors on mps or xpu, where Saccade has no kernels of its own."""

    @pytest.fixture(params=["mps", "xpu"])
    def changed(self, request: pytest.FixtureRequest) -> AttentionProblem:
        return dataclasses.replace(CHANGED, device=request.param)

    def test_exact_patterns_are_torchs(self, changed: AttentionProblem) -> None:
        plain = dataclasses.replace(changed, score=None)
        assert plan(plain).backend == "sdpa"
        windowed = ModFacts(trace(sliding_window(8)).structure, (8,))
        assert plan(dataclasses.replace(plain, mask_mod=windowed)).backend == "eager"

    def test_small_ones_are_eagers(self, changed: AttentionProblem) -> None:
        chosen = plan(changed)
        assert chosen.backend == "eager"
        for name, reasons in chosen.refusals.items():
            assert reasons, name
        assert chosen.refusals["flex_attention"] == (
            f"it runs on cuda and cpu devices, and the tensors are on {changed.device}",
        )
        assert chosen.refusals["flash_attention_2"] == (
            f"it runs on NVIDIA GPUs (cuda devices), and the tensors are on {changed.device}",
        )

    def test_large_ones_are_told_what_to_do(self, changed: AttentionProblem) -> None:
        large = dataclasses.replace(changed, q_len=2**13, kv_len=2**13)
        with pytest.raises(BackendError, match="no backend takes this call") as caught:
            plan(large)
        device = changed.device
        assert list(caught.value.reasons) == list(candidates(device))
        for name, reasons in caught.value.reasons.items():
            assert reasons, name
        text = str(caught.value)
        assert f"cpu: it runs on cpu devices, and the tensors are on {device}" in text
        assert f"On {device}, backend='eager' runs and holds every score" in text
        assert "moved to a CPU with .cpu() there is the engine of backend='cpu'" in text
        assert "compute capability" not in text
        assert "C++" not in text

    def test_the_whole_text_reads_well(self) -> None:
        large = dataclasses.replace(CHANGED, device="mps", q_len=2**13, kv_len=2**13)
        with pytest.raises(BackendError, match="no backend takes this call") as caught:
            plan(large)
        assert str(caught.value) == ON_MPS

    def test_by_name(self, changed: AttentionProblem) -> None:
        assert plan(changed, "eager").backend == "eager"
        for name in ("cpu", "flex_attention", "flash_attention_3"):
            with pytest.raises(BackendError, match=f"the tensors are on {changed.device}"):
                plan(changed, name)


def test_a_cpu_has_nowhere_else_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_EAGER_LIMIT", "1")
    with pytest.raises(BackendError) as caught:
        plan(dataclasses.replace(WANTING, outputs=Outputs(max_scores=True)))
    assert ".cpu()" not in str(caught.value)


def test_exact_patterns_are_a_librarys_where_torch_has_none() -> None:
    windowed = ModFacts(trace(sliding_window(8)).structure, (8,))
    problem = dataclasses.replace(
        PLAIN, device="cuda", dtype=DType.BFLOAT16, head_dim=64, value_dim=64, mask_mod=windowed
    )
    with installed(FLASH_2, FLASH_3, capability=(9, 0)):
        chosen = plan(problem)
    assert chosen.backend == "flash_attention_3"
    assert list(chosen.refusals) == ["sdpa", "flash_attention_4"]
    with installed(FLASH_2, FLASH_3, capability=(8, 0)):
        assert plan(problem).backend == "flash_attention_2"
        assert plan(dataclasses.replace(problem, mask_mod=None)).backend == "sdpa"


def test_a_plan_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="saccade"):
        plan(PLAIN)
    assert caplog.messages[0].startswith("cpu runs AttentionProblem(device='cpu'")


def test_every_backend_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: True)
    assert set(candidates("cpu")) <= set(backend_names()) == set(candidates("cuda"))
    for name in ("cpu", "sdpa", "flex_attention", "eager"):
        assert reasons_against(PLAIN, name, asked_by_name=True) == []
    for name in backend_names():
        assert all(
            reason[:3] in ("it ", "its") for reason in reasons_against(PLAIN, name, asked_by_name=True)
        )


def test_explain_tells_of_a_backend_that_auto_does_not_ask() -> None:
    query = torch.zeros(1, 1, 4, 8)
    told = repr(explain(query, query, query, backend="flash_attention_2"))
    assert "none takes this call" in told
    assert "it runs on NVIDIA GPUs (cuda devices), and the tensors are on cpu" in told
    assert "flash_attention" not in repr(explain(query, query, query))
