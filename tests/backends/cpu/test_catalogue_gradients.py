"""Gradients of the CPU engine over the whole catalogue: by differences in float64, and the oracle's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from catalogue import CATALOGUE, Case, Mods, Sizes
from saccade import AuxRequest, create_block_mask, flex_attention

HEADS, KV_HEADS = 2, 1
LSE = AuxRequest(lse=True)
# The user's own backward is the derivative there, and not that of the function that is computed.
INEXACT = {"softcap_approximate"}


def draw(sizes: Sizes, kv_heads: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sizes.q_len)
    shapes = (
        (sizes.batch, sizes.heads, sizes.q_len, 6),
        (sizes.batch, kv_heads, sizes.kv_len, 6),
        (sizes.batch, kv_heads, sizes.kv_len, 5),
    )
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [each.to(dtype).requires_grad_() for each in drawn]


def computed(tensors: list[Tensor], mods: Mods, **masks: object) -> tuple[Tensor, Tensor]:
    """The output and lse."""
    out, aux = flex_attention(*tensors, mods.score, enable_gqa=True, return_aux=LSE, backend="cpu", **masks)
    assert aux.lse is not None
    return out, aux.lse


def finite(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """The same with 0 for the lse of rows that see nothing: no difference can be taken of infinity."""
    return out, torch.where(lse.isfinite(), lse, 0.0)


@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.name not in INEXACT], ids=str)
def test_gradcheck(case: Case) -> None:
    sizes = Sizes(q_len=4, kv_len=5, batch=2, heads=HEADS)
    leaves, mods = draw(sizes, KV_HEADS), case.build(sizes)
    every = (*leaves, *mods.learned.values())

    def attend(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return finite(*computed(list(tensors[:3]), mods, mask_mod=mods.mask))

    torch.autograd.gradcheck(attend, every, fast_mode=True)


@pytest.mark.parametrize(
    ("dtype", "lengths"),
    [(torch.float32, (37, 51)), (torch.bfloat16, (51, 37)), (torch.float16, (37, 51))],
    ids=str,
)
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_they_are_the_oracles(case: Case, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    if case.pairwise:
        lengths = (9, 13)  # the oracle asks pair by pair
    sizes = Sizes(*lengths, batch=2, heads=HEADS, dtype=torch.float32)
    leaves, mods = draw(sizes, KV_HEADS, dtype), case.build(sizes)
    every = [*leaves, *mods.learned.values()]
    mask = mods.mask if mods.plain_mask is None else mods.plain_mask
    reference = oracle.attention(*leaves, mask=mask, score=mods.score, pairwise=case.pairwise)
    exact = low_precision.gradients((reference.out, reference.lse), every, dtype)
    independent = low_precision.attention(*leaves, mask=mask, score=mods.score, pairwise=case.pairwise)
    expected = low_precision.gradients(independent, every, dtype)
    forms: list[dict[str, object]] = [{"mask_mod": mods.mask}]
    if mods.mask is not None:
        axes = (2 if case.reads_b else None, HEADS if case.reads_h else None)
        made = create_block_mask(mods.mask, *axes, *lengths, device="cpu", BLOCK_SIZE=16)
        forms.append({"block_mask": made})
    for form in forms:
        found = low_precision.gradients(computed(leaves, mods, **form), every, dtype)
        low_precision.assert_as_good(found, expected, exact)
