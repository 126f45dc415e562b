"""What the GPU engine takes and refuses, when `auto` asks it, and what it says of its choice."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from saccade.backends.registry import candidates
from saccade.backends.triton import TritonBackend, backend
from saccade.ir.dtype import DType
from saccade.masks import causal
from saccade.problem import AttentionProblem, ModFacts, Outputs
from saccade.runtime.triton import Device, Target
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cuda", DType.BFLOAT16, 2, 2, 8, 8, 512, 512, 64, 64, scale=0.125)
CAUSAL = ModFacts(trace(causal).structure)
DIMS = "its kernels have head dimensions that are multiples of 8 up to 256"


def score_that_reads(*shape: int, mod) -> ModFacts:
    program = trace(mod)
    return ModFacts(program.structure, program.numbers, (shape,), (True,))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> TritonBackend:
    """The engine where a device is at hand."""
    monkeypatch.setattr(backend, "is_available", lambda device: None)
    monkeypatch.setattr(
        backend, "describe_device", lambda device: Device(Target.parse("cuda:90"), 132, 227 << 10)
    )
    return TritonBackend()


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (
                {"dtype": DType.FLOAT64},
                "its kernels take float16, bfloat16, float32, and the tensors are float64",
            ),
            (
                {"needs_tangent": True},
                "it has no forward-mode derivative, and a tangent travels with an input",
            ),
            ({"outputs": Outputs(weights=True)}, "it never forms the weights"),
            ({"kv_len": 2**31}, "it counts queries and keys to 2147483647, got Q=512 and K=2147483648"),
            ({"head_dim": 12}, f"{DIMS}, got D=12 and Dv=64"),
            ({"value_dim": 264}, f"{DIMS}, got D=64 and Dv=264"),
            ({"value_dim": 0}, f"{DIMS}, got D=64 and Dv=0"),
        ],
    )
    def test_what_it_has_not(self, engine: TritonBackend, change: dict[str, object], reason: str) -> None:
        assert engine.unsupported_reasons(replace(PLAIN, **change)) == [reason]

    def test_it_takes_everything_else(self, engine: TritonBackend) -> None:
        odd = replace(
            PLAIN, dtype=DType.FLOAT32, sinks=DType.FLOAT64, dropout_p=0.5, q_len=0, mask_mod=CAUSAL,
            head_dim=8, value_dim=256, needs_grad=True,
        )  # fmt: skip
        assert engine.unsupported_reasons(odd) == []

    def test_without_its_interpreter_it_runs_on_no_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        (reason,) = TritonBackend().unsupported_reasons(replace(PLAIN, device="cpu"))
        assert reason.startswith("it runs on accelerators, and on the CPU only in triton's interpreter")

    def test_a_program_that_takes_too_long_to_compile(
        self, engine: TritonBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend, "_MOST_NODES", 2)
        backend._reasons.cache_clear()
        assert engine.unsupported_reasons(replace(PLAIN, mask_mod=CAUSAL)) == [
            "it compiles programs of at most 2 operations, and the mask has 3"
        ]
        backend._reasons.cache_clear()

    def test_sums_in_no_fixed_order(self, engine: TritonBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        table = torch.ones(9)
        distances = score_that_reads(9, mod=lambda s, b, h, q, k: s + table[(q - k) % 9])
        heads = score_that_reads(9, mod=lambda s, b, h, q, k: s + table[h])
        problems = [replace(PLAIN, score=score, needs_grad=True) for score in (distances, heads)]
        assert [engine.unsupported_reasons(each) for each in problems] == [[], []]
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        told = "it adds up the gradient of a tensor that the score_mod reads in no fixed order, and torch.use"
        (reason,), none = (engine.unsupported_reasons(each) for each in problems)
        assert re.match(re.escape(told), reason)
        assert none == []
        assert engine.unsupported_reasons(replace(problems[0], needs_grad=False)) == []


def test_when_auto_asks() -> None:
    assert "triton" not in candidates("cpu")  # where it can only be interpreted, for checking kernels
    order = candidates("cuda")
    assert order.index("sdpa") < order.index("triton") < order.index("flex_attention")
    assert order.index("triton") > max(order.index(f"flash_attention_{version}") for version in (2, 3, 4))


class TestSchedule:
    def test_tells_the_tile_and_the_kernel(self, engine: TritonBackend) -> None:
        told = engine.schedule(PLAIN, Schedule(kv_tile=32))
        assert told.kv_tile == 32
        assert told.q_tile is not None
        assert dict(told.engine_options)["kernel"] == "forward"
        assert dict(told.engine_options)["target"] == "cuda:90"

    def test_tells_of_few_queries(self, engine: TritonBackend) -> None:
        decoding = replace(PLAIN, q_len=1, kv_heads=2, kv_len=32768)
        told = dict(engine.schedule(decoding, Schedule()).engine_options)
        assert (told["kernel"], told["packed"]) == ("split", True)
        assert told["splits"] == 66

    def test_of_nothing_there_is_nothing_to_tell(self, engine: TritonBackend) -> None:
        assert engine.schedule(replace(PLAIN, q_len=0), Schedule(q_tile=32)) == Schedule(q_tile=32)
