"""Who takes part on a GPU: by which flags, through which functions, and with which reasons to stay away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender, Workload
from saccade.bench.gpu import peers
from saccade.bench.gpu.cases import GpuCase
from saccade.bench.gpu.check import HeadChecks
from saccade.bench.gpu.peers import (
    AUTO,
    CUDNN,
    DENSE,
    FLASH,
    FLEX,
    FLEX_FLASH,
    OURS,
    VARLEN,
    participants,
    picked,
)
from saccade.bench.gpu.workloads import make_workload
from saccade.bench.text_patterns import PATTERNS

CPU = torch.device("cpu")


def work_of(case: GpuCase) -> Workload:
    return make_workload(case, CPU, torch.float32)


def entered(case: GpuCase, work: Workload | None = None, *, compiled: bool = False) -> dict[str, Contender]:
    found = participants(case, work or work_of(case), backend="eager", compiled=compiled)
    return {one.name: one for one in found}


def sequence(pattern: str, batch: int = 1) -> GpuCase:
    return GpuCase(pattern, 64, 16, batch, 2, 2)


def step(pattern: str) -> GpuCase:
    return GpuCase(pattern, 64, 16, 2, 4, 2, is_decode=True)


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_sdpa_comes_by_its_flags_where_they_say_it_all_and_with_a_dense_mask_elsewhere(pattern: str) -> None:
    names = list(entered(sequence(pattern)))
    assert names[:2] == [OURS, AUTO]
    by_flags = [FLASH, CUDNN] if pattern in ("noop", "causal", "causal_score") else [DENSE]
    packed = [VARLEN] if pattern in ("document", "jagged") else []
    assert names[2:] == by_flags + packed


@pytest.mark.parametrize(
    "case",
    [sequence("noop"), sequence("causal"), sequence("causal_score"), step("noop"), step("causal")],
    ids=str,
)
def test_flags_compute_the_pattern(case: GpuCase) -> None:
    work = work_of(case)
    found = entered(case, work)
    HeadChecks(work, gradients=not case.is_decode)(found[FLASH])
    assert found[CUDNN].refusal == "cuDNN runs on CUDA devices, not on cpu"


def test_in_decoding_a_pattern_that_hides_or_changes_takes_a_dense_mask() -> None:
    for pattern in ("sliding_window", "softcap"):
        assert list(entered(step(pattern)))[2:] == [DENSE]
    assert entered(step("softcap"))[DENSE].refusal.startswith("SDPA only adds to scores")


def test_a_dense_mask_stays_away_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "free_bytes", lambda device: 32 * 64 * 64)
    assert entered(sequence("document"))[DENSE].refusal == "its mask takes about 0.0 GB, and 0.0 GB are free"
    monkeypatch.setattr(peers, "free_bytes", lambda device: 2 * 32 * 64 * 64)
    assert entered(sequence("document"))[DENSE].refusal == ""
    # ALiBi has a table for each head.
    assert "its mask takes" in entered(sequence("alibi"))[DENSE].refusal


def causal_parts(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Causal attention of each sequence `[T, H, D]` by itself."""
    parts = []
    for start, stop in zip(starts.tolist(), ends.tolist(), strict=True):
        one = (tensor[start:stop].transpose(0, 1) for tensor in (query, key, value))
        parts.append(scaled_dot_product_attention(*one, is_causal=True).transpose(0, 1))
    return torch.cat(parts)


def named(
    q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int, is_causal: bool = False
) -> Tensor:
    """As it was: causality by its name."""
    assert is_causal
    return by_window(q, k, v, cq, ck, mq, mk, window_size=(-1, 0))


def by_window(
    q: Tensor, k: Tensor, v: Tensor, cq: Tensor, ck: Tensor, mq: int, mk: int, *, window_size: Any = (-1, -1)
) -> Tensor:
    """As it is: causality by the keys before and after a query."""
    assert window_size == (-1, 0)
    assert cq.dtype is torch.int32
    assert torch.equal(cq, ck)
    assert mq == mk == int(cq.diff().max())
    return causal_parts(q, k, v, cq[:-1], cq[1:])


@pytest.mark.parametrize("function", [named, by_window])
@pytest.mark.parametrize("pattern", ["document", "jagged"])
def test_packed_sequences_are_those_of_the_mask(
    monkeypatch: pytest.MonkeyPatch, pattern: str, function: Callable[..., Tensor]
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", function)
    work = work_of(sequence(pattern))
    HeadChecks(work, gradients=True)(entered(sequence(pattern), work)[VARLEN])


def test_packed_sequences_of_several_batch_entries_would_be_copied() -> None:
    assert entered(sequence("document", batch=2))[VARLEN].refusal == "it takes one batch entry without a copy"


def test_a_torch_without_packed_attention_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert "has no torch.nn.attention.varlen" in entered(sequence("jagged"))[VARLEN].refusal


@pytest.mark.parametrize("case", [sequence("document"), sequence("softcap"), step("noop")], ids=str)
def test_flex_attention_is_compiled_for_the_sizes_of_the_case(
    monkeypatch: pytest.MonkeyPatch, case: GpuCase
) -> None:
    options: list[dict[str, object]] = []

    def uncompiled(function: Callable[..., Tensor], **given: object) -> Callable[..., Tensor]:
        options.append(given)
        return function

    monkeypatch.setattr(torch, "compile", uncompiled)
    work = work_of(case)
    found = entered(case, work, compiled=True)
    assert options == [{"fullgraph": True, "dynamic": False}]
    HeadChecks(work, gradients=False)(found[FLEX])
    assert found[FLEX].backward_refusal == "torch gives it no gradient on a CPU"
    assert found[FLEX_FLASH].refusal == "flash_attn is not installed"


def test_flash_kernels_are_asked_for_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def attention(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
        given.append(options["kernel_options"])
        return query

    monkeypatch.setattr(torch, "compile", lambda function, **options: attention)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name)
    case = sequence("causal")
    work = work_of(case)
    found = entered(case, work, compiled=True)
    for name in (FLEX, FLEX_FLASH):
        attend = found[name].attend
        assert attend is not None
        attend(*work.inputs)
    assert given == [None, {"BACKEND": "FLASH"}]


def test_what_auto_picks_is_what_it_runs() -> None:
    work = work_of(sequence("document"))
    assert picked(work, gradients=False) == picked(work, gradients=True) == "cpu"
    HeadChecks(work, gradients=True)(entered(sequence("document"), work)[AUTO])
