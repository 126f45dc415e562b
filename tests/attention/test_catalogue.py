"""flex_attention over the whole catalogue: against the oracle and torch, whatever torch's defaults are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import oracle
from catalogue import CATALOGUE, SCORE_CASES, Case, Mods, Sizes
from saccade.attention import AuxRequest, flex_attention
from saccade.block_mask import create_block_mask

# Odd lengths both ways round, grouped heads, and rows that see nothing (some masks of the catalogue do so).
WIDE = Sizes(q_len=7, kv_len=9, batch=2, heads=4)
TALL = Sizes(q_len=9, kv_len=7, batch=2, heads=4)
KV_HEADS = 2
LSE = AuxRequest(lse=True)


@dataclass(frozen=True)
class Inputs:
    query: Tensor  # [B, Hq, Q, 6]
    key: Tensor  # [B, Hkv, K, 6]
    value: Tensor  # [B, Hkv, K, 5]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value


def draw(sizes: Sizes, *, wants_grad: bool = False) -> Inputs:
    generator = torch.Generator("cpu").manual_seed(11)
    shapes = (
        (sizes.batch, sizes.heads, sizes.q_len, 6),
        (sizes.batch, KV_HEADS, sizes.kv_len, 6),
        (sizes.batch, KV_HEADS, sizes.kv_len, 5),
    )
    made = (torch.randn(shape, generator=generator, dtype=sizes.dtype, device="cpu") for shape in shapes)
    return Inputs(*(tensor.requires_grad_(wants_grad) for tensor in made))


def ours(inputs: Inputs, mods: Mods, **options: object) -> tuple[Tensor, Tensor]:
    out, aux = flex_attention(
        *inputs.tensors,
        mods.score,
        mask_mod=mods.mask,
        enable_gqa=True,
        return_aux=LSE,
        backend="eager",
        **options,
    )
    assert aux.lse is not None
    return out, aux.lse


def expected(inputs: Inputs, mods: Mods, case: Case) -> tuple[Tensor, Tensor]:
    mask = mods.mask if mods.plain_mask is None else mods.plain_mask
    reference = oracle.attention(*inputs.tensors, mask=mask, score=mods.score, pairwise=case.pairwise)
    return reference.out, reference.lse


def gradients(results: tuple[Tensor, Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Of a sum in which every output, and every finite lse, has a weight of its own."""
    out, lse = results
    generator = torch.Generator("cpu").manual_seed(5)
    weights = (torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in (out, lse))
    out_weight, lse_weight = weights
    total = (out * out_weight).sum() + torch.where(lse.isfinite(), lse, 0.0).mul(lse_weight).sum()
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    # The oracle has no gradient where a score mod forgets the score; flex_attention has zeros.
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


@pytest.mark.parametrize("sizes", [WIDE, TALL], ids=["wide", "tall"])
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_results_and_all_gradients_equal_the_oracle(case: Case, sizes: Sizes) -> None:
    inputs, mods = draw(sizes, wants_grad=True), case.build(sizes)
    leaves = [*inputs.tensors, *mods.learned.values()]
    mine, theirs = ours(inputs, mods), expected(inputs, mods, case)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(mine, leaves), gradients(theirs, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.build(WIDE).mask is not None], ids=str)
def test_a_block_mask_says_the_same_as_its_mask_mod(case: Case) -> None:
    inputs, mods = draw(WIDE), case.build(WIDE)
    assert mods.mask is not None
    block_mask = create_block_mask(mods.mask, WIDE.batch, WIDE.heads, 7, 9, device="cpu", BLOCK_SIZE=(2, 3))
    by_blocks = ours(inputs, Mods(score=mods.score), block_mask=block_mask)
    torch.testing.assert_close(by_blocks, ours(inputs, mods), rtol=0, atol=0)


@contextmanager
def torch_in_eager_mode() -> Iterator[None]:
    """Torch's flex_attention without its compiler, and without its refusal of gradients on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        patch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
        yield


def by_torch(inputs: Inputs, mods: Mods, sizes: Sizes) -> tuple[Tensor, Tensor]:
    block_mask = None
    if mods.mask is not None:
        lengths = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
        block_mask = torch_flex.create_block_mask(mods.mask, *lengths, device="cpu")
    request = torch_flex.AuxRequest(lse=True)
    out, aux = torch_flex.flex_attention(
        *inputs.tensors, mods.score, block_mask, enable_gqa=True, return_aux=request
    )
    return out, aux.lse


# Torch looks at the gradient of the tensors that a function reads, views included.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.torch_forward], ids=str)
def test_results_and_gradients_equal_those_of_torch(case: Case) -> None:
    wants_grad = case.torch_backward
    inputs, mods = draw(WIDE, wants_grad=wants_grad), case.build(WIDE)
    with torch_in_eager_mode():
        theirs = by_torch(inputs, mods, WIDE)
        mine = ours(inputs, mods)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
        if not wants_grad:
            return
        # Without its compiler, torch has no gradient of what a function captures.
        leaves = [*inputs.tensors]
        for one, other in zip(gradients(mine, leaves), gradients(theirs, leaves), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@contextmanager
def other_defaults() -> Iterator[None]:
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("surroundings", [other_defaults, torch.inference_mode], ids=lambda it: it.__name__)
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_torchs_defaults_and_modes_change_nothing(case: Case, surroundings: Callable[[], object]) -> None:
    sizes = Sizes(q_len=7, kv_len=9, batch=2, heads=4, dtype=torch.float32)
    inputs, mods = draw(sizes), case.build(sizes)
    plain = ours(inputs, mods)
    with surroundings():  # type: ignore[attr-defined]
        found = ours(inputs, mods)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_torchs_defaults_change_no_gradient(case: Case) -> None:
    sizes = Sizes(q_len=7, kv_len=9, batch=2, heads=4, dtype=torch.float32)
    inputs, mods = draw(sizes, wants_grad=True), case.build(sizes)
    leaves = [*inputs.tensors, *mods.learned.values()]
    out_weight = torch.randn(2, 4, 7, 5)
    plain = torch.autograd.grad(ours(inputs, mods)[0], leaves, out_weight, allow_unused=True)
    with other_defaults():
        found = torch.autograd.grad(ours(inputs, mods)[0], leaves, out_weight, allow_unused=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_low_precision_is_as_good_as_it_can_be(case: Case, dtype: torch.dtype) -> None:
    """The error is a small multiple of what rounding the output alone costs: sums are float32."""
    sizes = Sizes(q_len=6, kv_len=5, batch=1, heads=2, dtype=torch.float32)
    inputs, mods = draw(sizes), case.build(sizes)
    rounded = Inputs(*(tensor.to(dtype) for tensor in inputs.tensors))
    with torch.no_grad():
        exact, _ = expected(rounded, mods, case)  # of the rounded inputs, in float64
        computed, _ = ours(rounded, mods)
    assert computed.dtype is dtype
    # float32 has the rounding of scores and sums besides that of the output.
    allowance = 32 if dtype is torch.float32 else 1
    scale = max(1.0, float(exact.abs().max()))
    assert float((computed.double() - exact).abs().max()) <= allowance * torch.finfo(dtype).eps * scale
