"""The checks before the clock: wrong heads, wrong rows, wrong gradients and unwritten numbers are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from saccade.bench.contenders import Contender, Workload, engine
from saccade.bench.gpu import check as checks
from saccade.bench.gpu.cases import GpuCase
from saccade.bench.gpu.check import Consensus, HeadChecks
from saccade.bench.gpu.workloads import make_workload
from saccade.errors import CheckError

CPU = torch.device("cpu")
CAUSAL = GpuCase("causal", 160, 16, batch=3, heads=4, kv_heads=4)
STEP = GpuCase("alibi", 48, 16, batch=3, heads=4, kv_heads=2, is_decode=True)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return scaled_dot_product_attention(query, key, value, is_causal=True)


def work_of(case: GpuCase, dtype: torch.dtype = torch.float32) -> Workload:
    return make_workload(case, CPU, dtype)


def spoilt(change: Callable[[Tensor], None]) -> Attend:
    """Right but for a change to the output."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = flash(query, key, value).clone()
        change(out)
        return out

    return attend


@pytest.mark.parametrize(
    ("pattern", "dtype"),
    [
        ("causal", torch.float32),
        ("document", torch.bfloat16),
        ("alibi_table", torch.bfloat16),
        ("natten", torch.float32),
        ("flamingo", torch.bfloat16),
    ],
)
def test_the_right_pass_with_gradients(pattern: str, dtype: torch.dtype) -> None:
    work = work_of(GpuCase(pattern, 48, 16, batch=2, heads=4, kv_heads=4), dtype)
    heads, consensus = HeadChecks(work, gradients=True), Consensus(work, gradients=True)
    assert consensus(engine(work, "eager")) == 0.0
    for one in ("eager", "cpu"):
        heads(engine(work, one))
    assert 0.0 <= consensus(engine(work, "cpu")) < 0.05


def test_the_right_pass_in_decoding_where_heads_share_keys() -> None:
    work = work_of(STEP)
    HeadChecks(work, gradients=False)(engine(work, "eager"))
    assert Consensus(work, gradients=False)(engine(work, "cpu")) == 0.0


def test_mods_that_read_the_head_are_asked_about_the_head_that_is_checked() -> None:
    # ALiBi has a slope for each head, so that one head's output taken for another's is wrong.
    work = work_of(STEP)
    right = engine(work, "eager").attend
    assert right is not None
    rolled = Contender("rolled", 1.0, lambda q, k, v: right(q, k, v).roll(1, dims=1))
    with pytest.raises(CheckError, match="rolled: the output must be within"):
        HeadChecks(work, gradients=False)(rolled)


@pytest.mark.parametrize(("batch", "head"), [(0, 0), (1, 2), (2, 3)])
def test_a_wrong_head_is_found_at_the_ends_and_in_the_middle(batch: int, head: int) -> None:
    work = work_of(CAUSAL)

    def change(out: Tensor) -> None:
        out[batch, head] *= 1.01

    with pytest.raises(CheckError, match="x: the output must be within"):
        HeadChecks(work, gradients=True)(Contender("x", 1.0, spoilt(change)))


def test_a_wrong_gradient_is_found() -> None:
    work = work_of(CAUSAL)

    def doubled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flash(query, key, 2 * value - value.detach())  # of equal value, and of twice the gradient

    contender = Contender("x", 1.0, doubled)
    with pytest.raises(CheckError, match="x: the gradient of value must be within"):
        HeadChecks(work, gradients=True)(contender)
    HeadChecks(work, gradients=False)(contender)
    consensus = Consensus(work, gradients=True)
    consensus(Contender("flash", 1.0, flash))
    with pytest.raises(CheckError, match="x: the gradient of value must agree with that of flash"):
        consensus(contender)


def test_without_a_backward_pass_the_output_alone_is_checked() -> None:
    work = work_of(CAUSAL)
    detached = Contender("x", 1.0, lambda q, k, v: flash(q, k, v).detach(), backward_refusal="it has none")
    HeadChecks(work, gradients=True)(detached)
    consensus = Consensus(work, gradients=True)
    consensus(Contender("flash", 1.0, flash))
    assert consensus(detached) == 0.0


def test_a_wrong_row_of_a_head_that_no_oracle_saw_is_found() -> None:
    work = work_of(CAUSAL)
    consensus = Consensus(work, gradients=True)
    consensus(Contender("flash", 1.0, flash))

    def change(out: Tensor) -> None:
        out[0, 1, 140] = 0.0

    with pytest.raises(CheckError, match=r"x: the output must agree with that of flash to 0\.00035"):
        consensus(Contender("x", 1.0, spoilt(change)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_none_never_pass_even_first(number: float) -> None:
    work = work_of(CAUSAL)

    def change(out: Tensor) -> None:
        out[1, 1, 100, 5] = number

    with pytest.raises(CheckError, match=r"x: the output must be finite everywhere, but 1 of 30,720 numbers"):
        Consensus(work, gradients=False)(Contender("x", 1.0, spoilt(change)))


def test_a_head_of_zeros_must_be_met_by_zeros() -> None:
    zeros, tiny = torch.zeros(1, 2, 70, 4), torch.zeros(1, 2, 70, 4)
    assert checks._tile_difference(tiny, zeros) == 0.0
    tiny[0, 1, 69, 3] = 1e-3
    assert checks._tile_difference(tiny, zeros) == float("inf")


def test_memory_is_poisoned_before_every_checked_call(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(checks, "poison_memory", lambda *shapes: order.append("poison"))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        order.append("call")
        return flash(query, key, value)

    contender = Contender("x", 1.0, attend)
    HeadChecks(work_of(CAUSAL), gradients=True)(contender)
    assert order == ["poison", "call"] * 3
    order.clear()
    Consensus(work_of(CAUSAL), gradients=True)(contender)
    assert order == ["poison", "call", "poison"]
