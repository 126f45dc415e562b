"""The comparison of attention at tiny sizes: who takes part, what is checked, what is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from saccade.bench import agreement, calculate_tflops, contenders, sizes
from saccade.bench.agreement import require_agreement, sampled_rows
from saccade.bench.compare import BACKWARD, FORWARD, compare, compare_pattern, report_of
from saccade.bench.contenders import Contender, Workload, is_additive
from saccade.bench.sizes import AttentionSize, fit_size, free_bytes
from saccade.bench.text_patterns import causal_score, noop, pattern_names, text_pattern
from saccade.block_mask import create_block_mask, create_mask
from saccade.errors import ArgumentError, CheckError
from saccade.masks import causal, padding, sliding_window
from saccade.scores import alibi, checkerboard, softcap
from saccade.signatures import ScoreMod
from saccade.tracing import trace

TINY = AttentionSize(2, 2, 200, 200, 16)
CPU = torch.device("cpu")


def workload(size: AttentionSize = TINY, score: ScoreMod | None = None) -> Workload:
    shape = (size.batch, size.heads, size.q_len, size.head_dim)
    query, key, value = (torch.randn(shape) for _ in range(3))
    mask = create_block_mask(causal, None, None, size.q_len, size.kv_len, device="cpu")
    return Workload(score, causal, mask, size, (query, key, value))


@pytest.mark.parametrize(
    ("milliseconds", "density", "multiplier", "rate"),
    [
        (14.65, 0.5, FORWARD, 150.1),
        (41.20, 0.5, BACKWARD, 133.4),
        (58.80, 1.0, FORWARD, 74.8),
        (125.07, 1.0, BACKWARD, 87.9),
        (27.34, 1.0, FORWARD, 160.8),
        (94.40, 1.0, BACKWARD, 116.5),
    ],
)
def test_the_rates_are_those_of_the_published_table(
    milliseconds: float, density: float, multiplier: int, rate: float
) -> None:
    products = density * 16 * 16 * 8192**2 * 64
    assert calculate_tflops(products, milliseconds, multiplier) == pytest.approx(rate, abs=0.1)


def test_everyone_takes_part_and_is_counted() -> None:
    steps: list[str] = []
    comparison = compare(
        mask_mod=causal, size=TINY, device="cpu", rounds=2, compiled=False, progress=steps.append
    )
    assert [row.contender for row in comparison.rows] == [
        "causal flash (SDPA)",
        "SDPA + mask",
        "saccade (cpu)",
        "saccade (eager)",
    ]
    assert [row.density for row in comparison.rows] == [0.5, 0.75, 0.75, 0.75]
    assert (comparison.density, comparison.scaling, comparison.is_checked) == (0.75, "", True)
    assert comparison.dtype is torch.float32
    assert all(row.forward for row in comparison.rows)
    assert all(row.backward for row in comparison.rows)
    assert steps == ["causal: preparing", "causal: checking", "causal: timing"]
    measurements = report_of([comparison]).measurements
    assert [(m.case, m.contender) for m in measurements[:2]] == [
        ("causal, forward", "causal flash (SDPA)"),
        ("causal, backward", "causal flash (SDPA)"),
    ]
    assert len(measurements) == 8
    last = measurements[-1]
    assert last.shape == {"batch": 2, "heads": 2, "q_len": 200, "kv_len": 200, "head_dim": 16}
    assert len(last.timing.samples_s) == 2
    expected = 10 * 0.75 * 2 * 2 * 200 * 200 * 16 / last.timing.median_s / 1e12
    assert last.facts == {"density": 0.75, "tflops": pytest.approx(expected)}


@pytest.mark.parametrize("name", pattern_names())
def test_every_pattern_is_right(name: str) -> None:
    comparison = compare_pattern(
        name, AttentionSize(2, 2, 150, 150, 16), dtype=torch.bfloat16, device="cpu", rounds=1, compiled=False
    )
    assert (comparison.name, comparison.is_checked) == (name, True)
    assert comparison.rows[2].forward is not None


def test_the_density_is_one_minus_the_sparsity() -> None:
    work = workload(AttentionSize(1, 1, 1024, 1024, 8))
    assert work.block_mask is not None
    assert work.density == pytest.approx(1 - work.block_mask.sparsity() / 100) == 36 / 64


def test_rows_that_see_nothing() -> None:
    mask = causal & padding(lengths=torch.tensor([200, 30]))
    comparison = compare(mask_mod=mask, size=TINY, device="cpu", rounds=1, compiled=False)
    assert comparison.block_mask is not None
    assert comparison.block_mask.batch == 2
    assert comparison.rows[1].backward is not None


def test_torchs_flex_attention_on_a_cpu_runs_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.backends.flex._compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: True)
    comparison = compare(alibi(n_heads=2), causal, TINY, device="cpu", rounds=1)
    row = comparison.rows[-1]
    assert comparison.name == "alibi(n_heads=2) + causal"
    assert row.contender == "torch flex_attention"
    assert row.forward is not None
    assert row.backward is None
    assert row.reason == "torch gives it no gradient on a CPU"


def test_what_torch_cannot_compile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> Tensor:
        raise RuntimeError("no code for this\nmany lines more")

    monkeypatch.setattr("saccade.backends.flex._compiled", lambda: refuse)
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: True)
    row = compare(mask_mod=causal, size=TINY, device="cpu", rounds=1).rows[-1]
    assert row.forward is None
    assert row.reason == "torch cannot compile it: RuntimeError: no code for this"


def test_without_a_compiler_torchs_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.backends.flex.has_cpp_compiler", lambda: False)
    row = compare(mask_mod=causal, size=TINY, device="cpu", rounds=1).rows[-1]
    assert row.forward is None
    assert "it needs a C++ compiler" in row.reason


def capped(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return torch.where(score > 0, score, -math.inf)


def shifted(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return torch.where(q_idx > kv_idx, 0.5 * b + score - 1.0, score + 2.0)


@pytest.mark.parametrize(
    ("mod", "expected"),
    [
        (noop, True),
        (causal_score, True),
        (alibi(n_heads=2), True),
        (shifted, True),
        (capped, False),
        (checkerboard, False),
        (softcap(2.0), False),
        (lambda score, b, h, q_idx, kv_idx: score + score, False),
        (lambda score, b, h, q_idx, kv_idx: 1.0 - score, False),
        (lambda score, b, h, q_idx, kv_idx: torch.where(q_idx > 1, score, 0.0), False),
    ],
)
def test_only_sums_go_into_a_dense_mask(mod: ScoreMod, expected: bool) -> None:
    assert is_additive(trace(mod).root) is expected


def test_what_a_dense_mask_cannot_say_is_not_run() -> None:
    half = torch.bfloat16
    row = compare(softcap(2.0), size=TINY, device="cpu", rounds=1, compiled=False).rows[1]
    assert (row.forward, row.reason) == (None, "SDPA only adds to scores, and this score_mod does more")
    inexact = compare(
        alibi(n_heads=2), size=replace(TINY, q_len=400, kv_len=400), dtype=half, device="cpu", rounds=1,
        compiled=False,
    ).rows[1]  # fmt: skip
    assert inexact.reason == "SDPA takes what is added in torch.bfloat16, which does not hold it exactly"


def test_a_wrong_result_is_not_timed() -> None:
    work = workload()

    def wrong(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query + 0 * key + value

    with pytest.raises(CheckError, match=r"wrong: the output must be within .* off by .*; nothing was timed"):
        require_agreement(work, [Contender("wrong", 1.0, wrong)])
    require_agreement(work, [Contender("other", 1.0, wrong, is_same=False), Contender("absent", 1.0)])

    def nothing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query * math.nan

    with pytest.raises(CheckError, match="off by nan"):
        require_agreement(work, [Contender("nothing", 1.0, nothing, backward_refusal="none")])


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Right for causal masks."""
    visible = create_mask(causal, None, None, query.shape[2], key.shape[2], "cpu")
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def test_a_wrong_gradient_is_found() -> None:
    def forgetful(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key.detach() + 0 * key, value)

    require_agreement(workload(), [Contender("right", 1.0, attend)])
    with pytest.raises(CheckError, match="forgetful: the gradient of key must be within"):
        require_agreement(workload(), [Contender("forgetful", 1.0, forgetful)])
    # Without gradients of its own, its output alone is checked.
    require_agreement(workload(), [Contender("forgetful", 1.0, forgetful, backward_refusal="none")])


def test_large_workloads_are_checked_on_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_CHECKED_PAIRS", 2 * 2 * 200 * 30)
    work = workload()
    assert sampled_rows(work) == (range(10), range(95, 105), range(190, 200))
    require_agreement(work, [Contender("right", 1.0, attend)])

    def late(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = attend(query, key, value)
        return torch.cat([out[:, :, :199], out[:, :, 199:] * 1.01], dim=2)

    with pytest.raises(CheckError, match="late: the output"):
        require_agreement(work, [Contender("late", 1.0, late)])
    monkeypatch.setattr(agreement, "_CHECKED_PAIRS", 1)
    assert sampled_rows(work) == (range(1), range(99, 100), range(199, 200))


def test_sizes_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = AttentionSize(4, 4, 1024, 512, 64)
    for fitted in (
        AttentionSize(2, 4, 1024, 512, 64),
        AttentionSize(1, 2, 1024, 512, 64),
        AttentionSize(1, 1, 512, 256, 64),
    ):
        free = int(fitted.peak_bytes / 0.8) + 1
        monkeypatch.setattr(sizes, "free_bytes", lambda device, free=free: free)
        assert fit_size(asked, CPU)[0] == fitted
    assert fit_size(AttentionSize(1, 1, 128, 128, 64), CPU)[1] == ""
    sentence = fit_size(AttentionSize(16, 16, 8192, 8192, 64), CPU)[1]
    assert sentence.startswith("Scaled down from B=16 H=16 S=8192 D=64 to B=1 H=1 S=")
    assert sentence.endswith("it would take about 901.9 GB, and 0.0 GB are free.")
    monkeypatch.setattr(sizes, "free_bytes", lambda device: 0)
    assert fit_size(asked, CPU)[0] == AttentionSize(1, 1, 128, 64, 64)
    monkeypatch.setattr(sizes, "free_bytes", lambda device: None)
    assert fit_size(asked, CPU) == (asked, "")


def test_free_memory_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert free_bytes(torch.device("cuda")) == 123
    monkeypatch.setattr(sizes, "available_bytes", lambda: 789)
    assert free_bytes(CPU) == 789


def test_a_scaled_pattern_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "free_bytes", lambda device: AttentionSize(1, 1, 150, 150, 16).peak_bytes * 3)
    comparison = compare_pattern("natten", TINY, device="cpu", rounds=1, compiled=False)
    assert comparison.size == AttentionSize(1, 1, 196, 196, 16)
    assert comparison.scaling.startswith("Scaled down from B=2 H=2 S=200 D=16 to B=1 H=1 S=200 D=16: ")


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match=r"expects a score_mod or a mask_mod, got neither"):
        compare(size=TINY)
    with pytest.raises(ArgumentError, match=r"runs in float32, float16, bfloat16, got dtype=torch.float64"):
        compare(mask_mod=causal, size=TINY, dtype=torch.float64)
    with pytest.raises(ArgumentError, match="sizes of a comparison must be at least 1, got heads=0"):
        AttentionSize(heads=0)
    with pytest.raises(ArgumentError, match="no pattern called 'casual'; did you mean causal"):
        text_pattern("casual", TINY, CPU)
    with pytest.raises(ArgumentError, match=r"no pattern called 'xyz'; choose one of noop, .*, or all"):
        compare_pattern("xyz", TINY)


class TestPatterns:
    def made(self, name: str, tokens: int) -> tuple[object, int]:
        pattern = text_pattern(name, AttentionSize(16, 16, tokens, tokens, 64), CPU)
        return pattern.mask_mod, pattern.q_len

    def test_lengths_follow_the_sequence(self) -> None:
        assert self.made("sliding_window", 8192) == (sliding_window(1024), 8192)
        assert self.made("sliding_window", 1024) == (sliding_window(128), 1024)
        assert self.made("sliding_window", 32768) == (sliding_window(1024), 32768)
        assert str(self.made("prefix_lm", 8192)[0]) == "prefix_lm(2048)"

    def test_documents(self) -> None:
        pattern = text_pattern("document", AttentionSize(1, 1, 32768, 32768, 64), CPU)
        assert pattern.mask_mod is not None
        blocks = create_block_mask(pattern.mask_mod, None, None, 32768, 32768, device="cpu")
        lengths = [4096, 4096, 8192, 8192, 8192]
        assert blocks.visible_pairs() == sum(length * (length + 1) // 2 for length in lengths)

    def test_images_are_square(self) -> None:
        assert str(self.made("sasa", 128 * 128)[0]).startswith("local_2d(canvas=[128, 128], window=[8, 8]")
        assert self.made("natten", 128 * 128 + 100)[1] == 128 * 128

    def test_packed_sequences_fit(self) -> None:
        pattern = text_pattern("jagged", AttentionSize(4, 2, 16384, 16384, 64), CPU)
        assert pattern.size_within(AttentionSize(4, 2, 16384, 16384, 64)).batch == 1
        assert 1024 < pattern.q_len <= 16384
        assert text_pattern("jagged", AttentionSize(1, 1, 3, 3, 8), CPU).q_len == 3

    def test_cross_attention_is_that_of_the_text(self) -> None:
        pattern = text_pattern("flamingo", AttentionSize(1, 1, 12, 12, 8), CPU)
        assert pattern.mask_mod is not None
        visible = create_mask(pattern.mask_mod, None, None, 12, pattern.kv_len, "cpu")[0, 0]
        expected = torch.zeros(12, 9, dtype=torch.bool)
        expected[0:7, 0:3] = expected[1:7, 3:6] = expected[7:12, 6:9] = True
        assert torch.equal(visible, expected)


def test_an_engine_that_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "candidates", lambda device: ("sdpa", "eager"))
    monkeypatch.setattr(contenders, "reasons_against", lambda problem, name, asked_by_name: ["it is tired"])
    found = contenders.contenders(workload(), compiled=False)
    assert (found[-1].name, found[-1].attend, found[-1].refusal) == ("saccade (eager)", None, "it is tired")
