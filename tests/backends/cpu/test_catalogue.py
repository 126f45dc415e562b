"""The CPU engine over the whole catalogue, in every dtype, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import oracle
from catalogue import CATALOGUE, Case, Mods, Sizes
from saccade import AuxRequest, create_block_mask, flex_attention
from saccade.ir.dtype import DType
from saccade.ir.expr import walk
from saccade.ir.structure import ModKind
from saccade.tracing import trace

HEADS, KV_HEADS = 4, 2
WIDE, TALL, FEW = (37, 51), (51, 37), (5, 70)  # the last is decoded
EVERY = [
    (torch.float32, WIDE),
    (torch.float32, FEW),
    (torch.bfloat16, TALL),
    (torch.float16, FEW),
    (torch.float64, TALL),
]
WANTED = AuxRequest(lse=True, max_scores=True)


def draw(q_len: int, kv_len: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(q_len)
    shapes = ((2, HEADS, q_len, 6), (2, KV_HEADS, kv_len, 6), (2, KV_HEADS, kv_len, 5))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def computed(tensors: tuple[Tensor, Tensor, Tensor], mods: Mods, **arguments: object) -> tuple[Tensor, ...]:
    """out, lse and max_scores of the engine."""
    with torch.no_grad():
        out, aux = flex_attention(
            *tensors, mods.score, enable_gqa=True, return_aux=WANTED, backend="cpu", **arguments
        )
    return out, aux.lse, aux.max_scores


def check(found: tuple[Tensor, ...], expected: oracle.Reference, dtype: torch.dtype, precise: float) -> None:
    """Hold results against the oracle's.

    Sums of this length lose a few ulp of the type they are computed in, `precise`; the output, and in
    bfloat16 the weights, one more of the stored type.
    """
    stored = 4 * torch.finfo(dtype).eps
    for mine, reference, eps in zip(
        found, (expected.out, expected.lse, expected.max_scores), (stored, precise, precise), strict=True
    ):
        torch.testing.assert_close(mine.double(), reference, atol=64 * precise + eps, rtol=32 * precise + eps)


def precision(mods: Mods, dtype: torch.dtype) -> float:
    """The eps of what scores are computed in; a mod may compute in float32 where inputs are float64."""
    if dtype is not torch.float64:
        return torch.finfo(torch.float32).eps
    program = None if mods.score is None else trace(mods.score, ModKind.SCORE, score_dtype=DType.FLOAT64)
    narrow = program is not None and any(node.dtype is DType.FLOAT32 for node in walk(program.root))
    return torch.finfo(torch.float32 if narrow else torch.float64).eps


@pytest.mark.parametrize(("dtype", "lengths"), EVERY, ids=str)
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_it_is_the_oracles(case: Case, dtype: torch.dtype, lengths: tuple[int, int]) -> None:
    q_len, kv_len = lengths
    tensors = draw(q_len, kv_len, dtype)
    # The oracle asks the function itself, and torch would round what it makes of half-precision tables.
    tables = torch.float64 if dtype is torch.float64 else torch.float32
    mods = case.build(Sizes(q_len=q_len, kv_len=kv_len, heads=HEADS, dtype=tables))
    mask = mods.mask if mods.plain_mask is None else mods.plain_mask
    precise = precision(mods, dtype)
    expected = oracle.attention(*tensors, mask=mask, score=mods.score, pairwise=case.pairwise)
    check(computed(tensors, mods, mask_mod=mods.mask), expected, dtype, precise)
    if mods.mask is not None:
        axes = (2 if case.reads_b else None, HEADS if case.reads_h else None)
        blocks = create_block_mask(mods.mask, *axes, q_len, kv_len, device="cpu", BLOCK_SIZE=16)
        check(computed(tensors, mods, block_mask=blocks), expected, dtype, precise)
