"""What the CPU engine takes and refuses, what it chooses, and when `auto` asks it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from saccade import AuxRequest, create_block_mask, explain, flex_attention
from saccade.backends.cpu import CpuBackend, backend
from saccade.backends.cpu.specialise import choose, key_of, kind_for, specify
from saccade.backends.mods import mods_of
from saccade.backends.registry import candidates
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.spec import KernelKind
from saccade.codegen.cpu.tiling import RegisterTile
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.expr import walk
from saccade.ir.rewrite import lower
from saccade.masks import causal, sliding_window
from saccade.planner import plan, reasons_against
from saccade.problem import AttentionProblem, BlockFacts, ModFacts, Outputs
from saccade.runtime.host import this_host
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cpu", DType.FLOAT32, 2, 2, 8, 8, 512, 512, 64, 64, scale=0.125)
CAUSAL = ModFacts(trace(causal).structure)
WINDOW = ModFacts(trace(sliding_window(8)).structure, trace(sliding_window(8)).numbers)


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"device": "cuda"}, "it runs on cpu devices, and the tensors are on cuda"),
            (
                {"needs_tangent": True},
                "it has no forward-mode derivative, and a tangent travels with an input",
            ),
            ({"outputs": Outputs(weights=True)}, "it never forms the weights"),
            ({"head_dim": 513}, "its kernels have head dimensions from 1 to 512, got D=513 and Dv=64"),
            ({"kv_len": 2**31}, "it counts queries and keys to 2147483647, got Q=512 and K=2147483648"),
            ({"q_len": 2**31}, "it counts queries and keys to 2147483647, got Q=2147483648 and K=512"),
            ({"value_dim": 600}, "its kernels have head dimensions from 1 to 512, got D=64 and Dv=600"),
        ],
    )
    def test_what_it_has_not(self, change: dict[str, object], reason: str) -> None:
        assert CpuBackend().unsupported_reasons(replace(PLAIN, **change)) == [reason]

    def test_a_program_that_llvm_takes_too_long_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        program = trace(lambda score, b, h, q_idx, kv_idx: score * 2 + q_idx * 1.5 + score * kv_idx)
        nodes = sum(1 for _ in walk(lower(program.structure.root)))
        problem = replace(PLAIN, score=ModFacts(program.structure, program.numbers), mask_mod=CAUSAL)
        monkeypatch.setattr(backend, "_MOST_NODES", nodes)
        assert CpuBackend().unsupported_reasons(problem) == []
        monkeypatch.setattr(backend, "_MOST_NODES", nodes - 1)
        assert CpuBackend().unsupported_reasons(problem) == [
            f"it compiles programs of at most {nodes - 1} operations, and the score_mod has {nodes}"
        ]

    def test_a_gradient_that_llvm_takes_too_long_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bias = torch.ones(8)
        program = trace(lambda score, b, h, q_idx, kv_idx: torch.tanh(score * bias[h]) ** 3)
        score = ModFacts(program.structure, program.numbers, ((8,),), (False,))
        plain, learned = replace(PLAIN, score=score), replace(score, capture_grads=(True,))
        own = sum(1 for _ in walk(lower(program.structure.root)))
        monkeypatch.setattr(backend, "_MOST_NODES", own)
        assert CpuBackend().unsupported_reasons(plain) == []
        (reason,) = CpuBackend().unsupported_reasons(replace(plain, needs_grad=True))
        (more,) = CpuBackend().unsupported_reasons(replace(plain, needs_grad=True, score=learned))
        told = r"it compiles programs of at most \d+ operations, and the gradient of the score_mod has (\d+)"
        found = [re.fullmatch(told, each) for each in (reason, more)]
        of_score, of_both = (int(match[1]) for match in found)
        assert own < of_score < of_both

    def test_a_processor_without_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend, "this_host", lambda: replace(this_host(), isas=()))
        (reason,) = CpuBackend().unsupported_reasons(PLAIN)
        assert reason.startswith("it has no kernels for this processor's architecture, ")

    def test_it_takes_everything_else(self) -> None:
        odd = replace(
            PLAIN, dtype=DType.FLOAT16, sinks=DType.FLOAT64, dropout_p=0.5, q_len=0, mask_mod=WINDOW
        )
        assert CpuBackend().unsupported_reasons(odd) == []


class TestAuto:
    def test_it_is_first_on_a_cpu(self) -> None:
        assert plan(PLAIN).backend == "cpu"

    def test_it_is_last_elsewhere(self) -> None:
        assert candidates("cuda")[-1] == candidates("meta")[-1] == "cpu"

    def test_a_gradient_stays_here(self) -> None:
        assert plan(replace(PLAIN, needs_grad=True)).backend == "cpu"

    def test_processors_with_matrix_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = replace(PLAIN, dtype=DType.BFLOAT16)
        monkeypatch.setattr(backend, "this_host", lambda: replace(this_host(), has_amx=True))
        for problem in (plain, replace(plain, mask_mod=CAUSAL)):
            chosen = plan(problem)
            assert chosen.backend == "sdpa"
            assert "has not been measured against sdpa" in chosen.refusals["cpu"][0]
            assert reasons_against(problem, "cpu", asked_by_name=True) == []
            assert plan(problem, "cpu").backend == "cpu"
        assert plan(replace(plain, mask_mod=WINDOW)).backend == "cpu"
        assert plan(replace(plain, dtype=DType.FLOAT32)).backend == "cpu"
        monkeypatch.setattr(backend, "this_host", lambda: replace(this_host(), has_amx=False))
        assert plan(plain).backend == "cpu"


class TestChoice:
    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64])
    @pytest.mark.parametrize(
        "hints", [Schedule(), Schedule(q_tile=1, kv_tile=1), Schedule(q_tile=100, kv_tile=100)]
    )
    def test_tiles_are_what_the_kernel_can_have(self, isa: str, dtype: DType, hints: Schedule) -> None:
        problem = replace(PLAIN, dtype=dtype, head_dim=192)
        chosen = choose(problem, hints, isa, cores=4)
        register, lanes = RegisterTile.of(ISAS[isa]), ISAS[isa].lanes(problem.accumulates_in)
        assert chosen.kind is KernelKind.FORWARD
        assert chosen.rows % register.rows == 0
        assert chosen.keys % (register.vectors * lanes) == 0
        if hints.q_tile is not None:
            assert 0 <= chosen.rows - hints.q_tile < register.rows
            assert 0 <= chosen.keys - hints.kv_tile < register.vectors * lanes

    def test_many_cores_get_smaller_tiles(self) -> None:
        few, many = (choose(PLAIN, Schedule(), "avx2", cores).rows for cores in (2, 64))
        assert many < few

    def test_two_kernels_serve_all_lengths_and_windows(self) -> None:
        specs = set()
        for length in range(64, 2064, 40):
            for window in range(8, 168, 8):
                mod = ModFacts(WINDOW.structure, trace(sliding_window(window)).numbers)
                problem = replace(
                    PLAIN,
                    batch=1,
                    kv_batch=1,
                    q_heads=2,
                    kv_heads=2,
                    q_len=length,
                    kv_len=length,
                    mask_mod=mod,
                )
                chosen = choose(problem, Schedule(), "avx512", cores=2)
                specs.add(specify(problem, chosen, mods_of(problem), ()))
        assert len(specs) == 2
        assert {spec.rows for spec in specs} == {24, 96}

    @pytest.mark.parametrize(
        ("group", "q_len", "rows"), [(1, 1, 1), (4, 1, 4), (7, 1, 8), (4, 5, 24), (1, 32, 32)]
    )
    def test_few_rows_are_decoded(self, group: int, q_len: int, rows: int) -> None:
        problem = replace(PLAIN, q_heads=8 * group, q_len=q_len)
        assert kind_for(problem) is KernelKind.DECODE
        assert choose(problem, Schedule(), "avx2", cores=2).rows == rows

    def test_given_blocks_that_differ_are_not_decoded(self) -> None:
        few = replace(PLAIN, q_heads=16, q_len=4)
        blocks = BlockFacts(CAUSAL, batch=1, heads=1, q_block=4, kv_block=4, analysed=False)
        assert kind_for(replace(few, block_mask=blocks)) is KernelKind.DECODE
        assert kind_for(replace(few, block_mask=replace(blocks, q_block=3))) is KernelKind.FORWARD
        assert kind_for(replace(few, block_mask=replace(blocks, heads=16))) is KernelKind.FORWARD
        assert (
            kind_for(replace(few, block_mask=replace(blocks, heads=16, analysed=True))) is KernelKind.DECODE
        )

    def test_a_mask_alone_has_the_place_of_a_block_mask(self) -> None:
        blocks = BlockFacts(WINDOW, batch=1, heads=1, q_block=128, kv_block=128, analysed=True)
        alone, analysed = replace(PLAIN, mask_mod=WINDOW), replace(PLAIN, block_mask=blocks)
        assert key_of(alone, "avx2") == key_of(analysed, "avx2")
        both = key_of(replace(analysed, mask_mod=CAUSAL), "avx2")
        assert (both.mask, both.mask_mod) == (WINDOW.structure, CAUSAL.structure)
        assert Which.MASK != Which.MASK_MOD

    def test_gradients_of_captures_change_no_forward_kernel(self) -> None:
        score = replace(WINDOW, capture_grads=(True,))
        assert key_of(replace(PLAIN, score=score), "avx2") == key_of(replace(PLAIN, score=WINDOW), "avx2")


class TestNoPairs:
    @pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=["batch", "queries", "keys"])
    @pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0], dtype=torch.float16)])
    def test_as_eager_has_it(self, shape: tuple[int, int, int], sinks: torch.Tensor | None) -> None:
        batch, q_len, kv_len = shape
        query = torch.randn(batch, q_len, 2, 8).transpose(1, 2)
        key, value = torch.randn(batch, 2, kv_len, 8), torch.randn(batch, 2, kv_len, 5)
        wanted = AuxRequest(lse=True, max_scores=True)
        found, expected = (
            flex_attention(query, key, value, sinks=sinks, return_aux=wanted, backend=name)
            for name in ("cpu", "eager")
        )
        for mine, theirs in zip((found[0], *found[1][:2]), (expected[0], *expected[1][:2]), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.stride() == theirs.stride()
            assert mine.dtype is theirs.dtype


class TestExplained:
    def test_it_tells_kernel_and_tiles(self) -> None:
        query = torch.empty(1, 8, 512, 64)
        explained = explain(query, query, query, mask_mod=sliding_window(9), kernel_options={"BLOCK_M": 40})
        assert explained.backend == "cpu"
        assert explained.schedule.q_tile >= 40
        assert "backend: cpu, q_tile " in repr(explained)
        assert ", kernel forward, isa " in repr(explained)
        assert ", kernel forward, isa " in explained._repr_html_()

    def test_no_pairs_no_tiles(self) -> None:
        query = torch.empty(1, 8, 0, 64)
        assert explain(query, query, query).schedule == Schedule()


def test_the_latest_problems_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CpuBackend()
    kernel = engine.compile(PLAIN, Schedule())
    assert engine.compile(replace(PLAIN), Schedule()) is kernel
    assert engine.compile(PLAIN, Schedule(q_tile=7)) is not kernel
    monkeypatch.setenv("SACCADE_CPU_ISA", "baseline")
    assert engine.compile(PLAIN, Schedule()) is not kernel


def test_block_masks_of_other_problems_are_apart() -> None:
    query = torch.randn(1, 1, 40, 8)
    for window in (3, 5):
        mask = create_block_mask(sliding_window(window), None, None, 40, 40, device="cpu")
        ours = flex_attention(query, query, query, block_mask=mask, backend="cpu")
        torch.testing.assert_close(
            ours, flex_attention(query, query, query, block_mask=mask, backend="eager")
        )
