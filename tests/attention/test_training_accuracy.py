"""Every gradient of the CPU engine is as good as an independent computation of the same precision.

Beside shapes and masks there are scores that are extreme, and rows that see nothing; and what gives the
gradients is held to give the same bits whenever, and with as many threads as, it is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import low_precision
import oracle
from saccade import AuxRequest, BlockMask, create_block_mask, flex_attention
from saccade.masks import causal, document, local, shift, sliding_window
from saccade.scores import softcap
from saccade.signatures import MaskMod, ScoreMod

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
LSE = AuxRequest(lse=True)


@dataclass(frozen=True)
class Call:
    """A call by its sizes and mods; `blocks` says that the mask is given as a block mask."""

    q_len: int = 45
    kv_len: int = 61
    batch: int = 2
    kv_batch: int = 2
    q_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    value_dim: int = 16
    mask: MaskMod | None = None
    score: ScoreMod | None = None
    scale: float | None = None
    sinks: bool = False
    blocks: int | None = None  # BLOCK_SIZE
    spread: float = 1.0  # deviation of queries and keys

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        """A query, a key, a value, and sinks if there are some."""
        keys = (self.kv_batch, self.kv_heads, self.kv_len)
        shapes = ((self.batch, self.q_heads, self.q_len, self.head_dim), (*keys, self.head_dim))
        drawn = [self.spread * torch.randn(shape, dtype=torch.float64) for shape in shapes]
        drawn.append(torch.randn(*keys, self.value_dim, dtype=torch.float64))
        leaves = [one.to(dtype).requires_grad_() for one in drawn]
        if self.sinks:
            leaves.append(torch.randn(self.q_heads, requires_grad=True))
        return leaves

    def computed(self, leaves: list[Tensor], **options: object) -> tuple[Tensor, Tensor]:
        """The engine's output and lse."""
        masks: dict[str, object] = {"mask_mod": self.mask}
        if self.blocks is not None:
            assert self.mask is not None
            sizes = (self.batch, self.q_heads, self.q_len, self.kv_len)
            masks = {"block_mask": create_block_mask(self.mask, *sizes, device="cpu", BLOCK_SIZE=self.blocks)}
        query, key, value, *sinks = leaves
        out, aux = flex_attention(
            query,
            key,
            value,
            self.score,
            scale=self.scale,
            sinks=sinks[0] if sinks else None,
            enable_gqa=True,
            return_aux=LSE,
            backend="cpu",
            **{**masks, **options},
        )
        assert aux.lse is not None
        return out, aux.lse

    def mods(self, leaves: list[Tensor]) -> dict[str, object]:
        """The call for the oracle."""
        sinks = leaves[3] if self.sinks else None
        return {"mask": self.mask, "score": self.score, "scale": self.scale, "sinks": sinks}


def late(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Rows of odd heads see nothing before the twentieth, and none any key past itself."""
    return ((q_idx >= 20) | (h % 2 == 0)) & (kv_idx <= q_idx)


def forbidding(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Scores of -inf, of whole rows too."""
    return torch.where((kv_idx + q_idx) % 3 == 0, -math.inf, torch.where(q_idx == 7, -math.inf, score))


CALLS = {
    "plain": Call(),
    "causal": Call(mask=causal),
    "more queries": Call(q_len=131, kv_len=71, mask=causal),
    "decoded": Call(q_len=3, kv_len=150),
    "one query": Call(q_len=1, kv_len=33),
    "one key": Call(q_len=33, kv_len=1),
    "one of each": Call(q_len=1, kv_len=1, batch=1, kv_batch=1),
    "many tiles": Call(
        q_len=523, kv_len=517, batch=1, kv_batch=1, head_dim=64, value_dim=64, mask=causal, blocks=64
    ),
    "values wider": Call(head_dim=24, value_dim=40, mask=causal),
    "values narrower": Call(head_dim=40, value_dim=24, mask=causal),
    "odd dimensions": Call(head_dim=7, value_dim=19),
    "dimensions of one": Call(head_dim=1, value_dim=1),
    "wide heads": Call(head_dim=136, value_dim=130, batch=1, kv_batch=1),
    "one key head": Call(q_heads=6, kv_heads=1, mask=causal),
    "a head each": Call(q_heads=3, kv_heads=3, mask=causal),
    "shared keys": Call(batch=3, kv_batch=1, q_heads=6, mask=causal),
    "window": Call(kv_len=45, mask=sliding_window(9), blocks=16),
    "window that looks ahead": Call(mask=local(5, 11), blocks=8),
    "documents": Call(kv_len=45, mask=document(lengths=[13, 1, 24, 7]) & causal, blocks=16),
    "mask by batch and head": Call(
        mask=lambda b, h, q_idx, kv_idx: (q_idx + b) % (h + 2) == kv_idx % (h + 2)
    ),
    "blocks by batch and head": Call(
        mask=lambda b, h, q_idx, kv_idx: kv_idx // 16 <= q_idx // 16 + b - h + 1, blocks=16
    ),
    "offset": Call(q_len=20, mask=shift(causal, q=41), blocks=16),
    "empty rows": Call(mask=late),
    "empty rows of blocks": Call(mask=late, blocks=8),
    "nothing seen": Call(mask=lambda b, h, q_idx, kv_idx: kv_idx < 0),
    "sinks": Call(sinks=True, mask=sliding_window(9)),
    "sinks and empty rows": Call(sinks=True, mask=late, blocks=8),
    "sinks and shared keys": Call(sinks=True, batch=3, kv_batch=1, kv_heads=1),
    "softcap": Call(score=softcap(2.0), mask=causal),
    "scores of -inf": Call(score=forbidding),
    "scores of -inf with a mask": Call(score=forbidding, mask=late, blocks=16, sinks=True),
    "large": Call(spread=10.0, scale=1.0),
    "scores near 1e4": Call(score=lambda score, b, h, q_idx, kv_idx: score + 1e4),
    "scores near -1e4": Call(
        score=lambda score, b, h, q_idx, kv_idx: 3 * score - 1e4, mask=causal, sinks=True
    ),
    "forgotten scores": Call(score=lambda score, b, h, q_idx, kv_idx: 0.1 * (kv_idx % 7)),
    "no scale": Call(scale=0.0),
    "scale below 0": Call(scale=-1.5, mask=causal),
}


# One key has nearly all the weight, which is 1 to the last digit where lse is the score itself.
CALLS |= {
    "far apart": Call(spread=100.0, scale=1.0, mask=causal),
    "one of 1e4": Call(score=lambda score, b, h, q_idx, kv_idx: torch.where(kv_idx == 3, 1e4, score)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_as_good_as_can_be(name: str, dtype: torch.dtype) -> None:
    call = CALLS[name]
    leaves = call.leaves(dtype)
    mods = call.mods(leaves)
    reference = oracle.attention(*leaves[:3], **mods)
    independent = low_precision.attention(*leaves[:3], **mods)
    results = call.computed(leaves), independent, (reference.out, reference.lse)
    found = [low_precision.gradients(each, leaves, dtype) for each in results]
    low_precision.assert_as_good(*found, digits=16)


def test_long_sums_are_sums_of_sums() -> None:
    # Every query adds the same to every value: added one by one, 16,384 such terms are off by 1.5e-4.
    query, key, value = (torch.zeros(1, 1, length, 16) for length in (16_384, 64, 64))
    value.requires_grad_()
    upstream = torch.full((1, 1, 16_384, 16), 0.1)
    (found,) = torch.autograd.grad(flex_attention(query, key, value, backend="cpu"), value, upstream)
    exact = 16_384 / 64 * float(torch.tensor(0.1))
    assert (found.double() - exact).abs().max() / exact < 1e-5


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["many tiles", "shared keys", "documents", "sinks and empty rows"])
def test_bits_are_the_same_every_time_and_for_any_threads(name: str, dtype: torch.dtype) -> None:
    call = CALLS[name]
    leaves, found = call.leaves(dtype), []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        found.append(low_precision.gradients(call.computed(leaves), leaves, dtype))
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_given_blocks_are_the_truth(dtype: torch.dtype) -> None:
    """The function of a full block is not asked, that of a partial one is; others are hidden."""
    call = Call(q_len=40, kv_len=40)
    partial = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)
    full = torch.tensor([[0, 0, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)
    blocks = BlockMask.from_kv_blocks(
        *listed(partial), *listed(full), BLOCK_SIZE=16, mask_mod=causal, seq_lengths=(40, 40)
    )

    def shown(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        place = q_idx // 16, kv_idx // 16
        return full[place] | (partial[place] & (q_idx >= kv_idx))

    leaves = call.leaves(dtype)
    reference = oracle.attention(*leaves, mask=shown)
    independent = low_precision.attention(*leaves, mask=shown)
    results = call.computed(leaves, block_mask=blocks), independent, (reference.out, reference.lse)
    found = [low_precision.gradients(each, leaves, dtype) for each in results]
    low_precision.assert_as_good(*found)


def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[1, 1, rows] and [1, 1, rows, columns] int32: how many blocks are marked in each row, and which."""
    counts = blocks.sum(-1).to(torch.int32)
    order = torch.argsort(blocks.to(torch.int32), dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[None, None], order[None, None]
