"""Who runs what: the order of `auto`, its limit, refusals with every reason."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from saccade.attention import AuxRequest, flex_attention
from saccade.backends.flex import _DEVICE_REASONS, FlexBackend
from saccade.errors import ArgumentError, BackendError, SettingError
from saccade.ir.dtype import DType
from saccade.planner import backend_names, plan, reasons_against
from saccade.problem import AttentionProblem, ModFacts, Outputs
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cpu", DType.FLOAT32, 2, 2, 4, 4, 64, 64, 32, 32, scale=0.25)


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
        assert list(caught.value.reasons) == ["cpu", "sdpa", "eager", "flex_attention"]
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


def test_other_devices_ask_the_compiler_before_eager() -> None:
    on_gpu = dataclasses.replace(CHANGED, device="cuda")
    chosen = plan(on_gpu)
    expected = "eager" if FlexBackend().unsupported_reasons(on_gpu) else "flex_attention"
    assert chosen.backend == expected
    assert plan(dataclasses.replace(CHANGED, device="meta")).refusals.keys() == {"sdpa", "flex_attention"}


def test_a_plan_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="saccade"):
        plan(PLAIN)
    assert caplog.messages[0].startswith("cpu runs AttentionProblem(device='cpu'")


def test_every_backend_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: True)
    for name in backend_names():
        assert reasons_against(PLAIN, name, asked_by_name=True) == []
