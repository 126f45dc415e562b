"""Calls of the engine where Triton interprets, and what holds their results against float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import low_precision
import oracle
from saccade import AuxRequest, flex_attention

__all__ = ["BACKEND", "SMALL_TILES", "assert_as_the_oracle", "assert_results", "attend", "draw", "gradients"]

BACKEND = "triton"

# Small enough that few numbers make several tiles of each kind: FULL, PARTIAL, and ragged at the ends.
SMALL_TILES = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_M1": 16, "BLOCK_N1": 32, "BLOCK_M2": 16, "BLOCK_N2": 32}
_WANTED = AuxRequest(lse=True, max_scores=True)


def draw(
    q_len: int,
    kv_len: int,
    *,
    batch: int = 1,
    kv_batch: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 24,
    value_dim: int = 8,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Leaves: a query, a key and a value."""
    generator = torch.Generator().manual_seed(q_len)
    kv_batch = batch if kv_batch is None else kv_batch
    shapes = (
        (batch, heads, q_len, dim),
        (kv_batch, kv_heads, kv_len, dim),
        (kv_batch, kv_heads, kv_len, value_dim),
    )
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [each.to(dtype).requires_grad_() for each in drawn]


def attend(leaves: Sequence[Tensor], **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The output, lse and the largest scores."""
    tiles = SMALL_TILES | options.pop("kernel_options", {})
    backend = options.pop("backend", BACKEND)
    out, aux = flex_attention(
        *leaves[:3], enable_gqa=True, return_aux=_WANTED, backend=backend, kernel_options=tiles, **options
    )
    assert aux.lse is not None
    assert aux.max_scores is not None
    return out, aux.lse, aux.max_scores


def gradients(results: Sequence[Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a sum in which each number of the output, and each finite lse, has a weight of its own."""
    return low_precision.gradients(results[:2], leaves, leaves[0].dtype)


def assert_results(found: Sequence[Tensor], expected: oracle.Reference, dtype: torch.dtype) -> None:
    """Hold output, lse and largest scores against the oracle's.

    Sums of this length lose a few ulp of float32, in which they are; the output, and in 16 bits the weights,
    one more of the stored type.
    """
    precise = torch.finfo(torch.float32).eps
    stored = 4 * torch.finfo(dtype).eps
    out, lse, max_scores = found
    assert (out.dtype, lse.dtype, max_scores.dtype) == (dtype, torch.float32, torch.float32)
    for name, mine, reference, eps in (
        ("out", out, expected.out, stored),
        ("lse", lse, expected.lse, precise),
        ("max_scores", max_scores, expected.max_scores, precise),
    ):
        torch.testing.assert_close(
            mine.detach().double(),
            reference.detach(),
            atol=64 * precise + eps,
            rtol=32 * precise + eps,
            msg=lambda told, name=name: f"{name}: {told}",
        )


def assert_as_the_oracle(
    leaves: Sequence[Tensor],
    forms: Sequence[dict[str, Any]],
    *,
    learned: Sequence[Tensor] = (),
    pairwise: bool = False,
    **mods: Any,
) -> None:
    """Hold results and all gradients of calls that mean the same against float64 attention.

    Args:
        leaves: Query, key, value, and all that gradients are wanted of beside `learned`.
        forms: What each call is given.
        learned: The captured tensors that want a gradient.
        pairwise: Whether mods are asked pair by pair.
        mods: What the calls mean, in the oracle's terms.
    """
    every = [*leaves, *learned]
    dtype = leaves[0].dtype
    reference = oracle.attention(*leaves[:3], pairwise=pairwise, **mods)
    exact = low_precision.gradients((reference.out, reference.lse), every, dtype)
    usual = low_precision.attention(*leaves[:3], pairwise=pairwise, **mods)
    independent = low_precision.gradients(usual, every, dtype)
    for form in forms:
        found = attend(leaves, **form)
        assert_results(found, reference, dtype)
        mine = zip(gradients(found, every), independent, exact, strict=True)
        for one, other, true in mine:
            # What is summed up to a few numbers may err by nothing in one computation, by chance.
            fluke = 0.25 * torch.finfo(dtype).eps / torch.finfo(one.dtype).eps
            low_precision.assert_as_good([one], [other], [true], digits=max(16.0, fluke))
