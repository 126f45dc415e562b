"""What the GPU engine takes and refuses, when `auto` asks it, and what it says of its choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from saccade import flex_attention
from saccade.backends.registry import candidates
from saccade.backends.triton import TritonBackend, backend
from saccade.errors import BackendError
from saccade.ir.dtype import DType
from saccade.ir.expr import walk
from saccade.ir.rewrite import lower
from saccade.masks import causal
from saccade.problem import AttentionProblem, ModFacts, Outputs
from saccade.runtime.triton import Device, Target
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cuda", DType.BFLOAT16, 2, 2, 8, 8, 512, 512, 64, 64, scale=0.125)
CAUSAL = ModFacts(trace(causal).structure)
PAIR_READ = "a read at every pair counts as 200"
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
        assert engine.unsupported_reasons(replace(PLAIN, mask_mod=CAUSAL)) == [
            f"it compiles programs of at most 2 operations, where {PAIR_READ}, and the mask has 3"
        ]

    @pytest.mark.parametrize(
        ("reads", "at_pairs"), [(8, True), (40, True), (40, False)], ids=["some", "many", "many of keys"]
    )
    def test_many_reads_at_pairs_take_too_long_to_compile(
        self, engine: TritonBackend, reads: int, at_pairs: bool
    ) -> None:
        table = torch.arange(64) % 7

        def nested(b, h, q_idx, kv_idx):
            place = kv_idx + q_idx if at_pairs else kv_idx
            for _ in range(reads):
                place = table[place % 64] + kv_idx
            return place > q_idx

        program = trace(nested)
        problem = replace(PLAIN, mask_mod=ModFacts(program.structure, program.numbers, ((64,),)))
        count = len(list(walk(lower(program.structure.root))))
        told = f"it compiles programs of at most 2000 operations, where {PAIR_READ}, and the mask has "
        refused = [f"{told}{count + 199 * reads}"] if reads == 40 and at_pairs else []
        assert engine.unsupported_reasons(problem) == refused

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
        # To be warned of them is no refusal.
        monkeypatch.setattr(torch, "is_deterministic_algorithms_warn_only_enabled", lambda: True)
        assert engine.unsupported_reasons(problems[0]) == []


class TestSymbolicLengths:
    """While torch's compilers and exporters plan, lengths are symbols, which nothing can be looked up by."""

    @staticmethod
    def attend(query: Tensor, key: Tensor, table: Tensor) -> Tensor:
        def biased(score, b, h, q_idx, kv_idx):
            return score + table[(q_idx - kv_idx) % 9]

        return flex_attention(query, key, key, biased, mask_mod=causal, backend="triton")

    def test_make_fx(self, engine: TritonBackend) -> None:
        query, key = torch.randn(1, 2, 20, 16), torch.randn(1, 2, 24, 16)
        graph = make_fx(self.attend, tracing_mode="symbolic")(query, key, torch.zeros(9))
        assert torch.ops.saccade.attention.default in [node.target for node in graph.graph.nodes]
        assert any(isinstance(size, torch.SymInt) for node in graph.graph.nodes for size in _sizes(node))

    def test_their_reasons(self, engine: TritonBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        table = torch.zeros(9, requires_grad=True)
        query = torch.randn(1, 2, 20, 16)
        with pytest.raises(BackendError, match="in no fixed order"):
            make_fx(self.attend, tracing_mode="symbolic")(query, query, table)

    def test_export(self, engine: TritonBackend) -> None:
        class Attention(torch.nn.Module):
            def forward(self, query: Tensor, key: Tensor) -> Tensor:
                return flex_attention(query, key, key, mask_mod=causal, backend="triton")

        rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
        tensors = torch.randn(1, 2, 20, 16), torch.randn(1, 2, 24, 16)
        exported = torch.export.export(
            Attention(), tensors, dynamic_shapes={"query": {2: rows}, "key": {2: columns}}
        )
        assert "saccade.attention" in str(exported.graph)


def _sizes(node: torch.fx.Node) -> Sequence[object]:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else ()


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
