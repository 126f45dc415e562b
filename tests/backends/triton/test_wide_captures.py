"""Captured tensors whose elements lie further apart than 32 bits count, forward and backward.

Their memory is asked for and hardly touched, so that it is never there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.triton.calls import assert_as_the_oracle, draw
from backends.triton.interpreted import interpreted
from saccade.backends.triton.kernels import KERNELS
from saccade.codegen.program.which import Which
from saccade.codegen.triton.spec import KernelKind

Q_LEN, KV_LEN, HEADS = 20, 40, 3
STEP = 2**30  # elements from head to head: the last head's lie 2**31 after the first's


def far_apart() -> Tensor:
    """A table of bytes, by head and key."""
    memory = torch.empty((HEADS - 1) * STEP + KV_LEN, dtype=torch.int8)
    table = memory.as_strided((HEADS, KV_LEN), (STEP, 1))
    table.copy_(torch.arange(HEADS * KV_LEN).view(HEADS, KV_LEN) % 5)
    return table


@interpreted
def test_they_are_read() -> None:
    table = far_apart()
    learned = torch.randn(KV_LEN, requires_grad=True)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + table[h, kv_idx] * learned[kv_idx]

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return table[h, kv_idx] != q_idx % 5

    before = set(KERNELS._entries)
    leaves = draw(Q_LEN, KV_LEN, heads=HEADS, kv_heads=1)
    options = {"score_mod": score, "mask_mod": mask}
    assert_as_the_oracle(leaves, [options], learned=[learned], score=score, mask=mask)
    added = {spec.kind: spec for spec in set(KERNELS._entries) - before}
    for kind in (KernelKind.FORWARD, KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT):
        wide = [which for which, _ in added[kind].wide_captures]
        assert sorted(wide) == [Which.MASK, Which.SCORE]  # and what is learned is near


@interpreted
def test_so_are_their_sizes() -> None:
    """An index that counts from the end of a dimension longer than 32 bits tell."""
    half = torch.full((1,), 0.5).expand(HEADS, 2**31 + 7)

    def score(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * half[h, -1 - kv_idx]

    leaves = draw(Q_LEN, KV_LEN, heads=HEADS, kv_heads=1)
    assert_as_the_oracle(leaves, [{"score_mod": score}], score=lambda s, b, h, q, k: s * 0.5)
