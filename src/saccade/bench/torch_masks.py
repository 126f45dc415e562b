"""Torch's own `create_block_mask` as the peer of ours: called alike, and its result read back for comparison.

Torch evaluates every pair, so its memory grows with their number; it is asked only where that fits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask
from torch.nn.attention.flex_attention import create_block_mask as torch_create_block_mask

from saccade.bench.memory import available_bytes
from saccade.block_mask import BlockMask
from saccade.signatures import MaskMod

__all__ = ["fits_in_memory", "same_blocks", "torch_block_mask", "warm_up_torch"]

_BYTES_A_PAIR = 20  # measured: 10 for causal, more where several tables of all pairs are alive at once


def fits_in_memory(pairs: int) -> bool:
    """Whether torch's evaluation of so many pairs fits the free memory, as far as can be told."""
    available = available_bytes()
    return available is None or pairs * _BYTES_A_PAIR < available


def warm_up_torch() -> None:
    """Let torch's function import what it needs, which its first call in a process pays for."""
    torch_block_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, 128, 128)


def torch_block_mask(
    mask_mod: MaskMod, batch: int | None, q_len: int, kv_len: int, *, compiled: bool = False
) -> TorchBlockMask:
    """Call torch's `create_block_mask` on the CPU, with blocks of 128 × 128, one mask for all heads.

    Args:
        mask_mod: The mask.
        batch: B, or None for one mask shared by all.
        q_len: Q.
        kv_len: K.
        compiled: Whether torch compiles the evaluation, which needs a C++ compiler on a CPU.
    """

    # A plain function is the one kind of callable that torch's compiler takes.
    def plain(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return mask_mod(b, h, q_idx, kv_idx)

    return torch_create_block_mask(plain, batch, None, q_len, kv_len, device="cpu", _compile=compiled)


def same_blocks(ours: BlockMask, theirs: TorchBlockMask) -> bool:
    """Whether two masks agree on every block: EMPTY, PARTIAL or FULL.

    Ours is taken as its torch form gives it, where a block that the lengths cut is never FULL, as in torch.
    """
    return torch.equal(_kinds(ours), _kinds(theirs))


def _kinds(mask: BlockMask | TorchBlockMask) -> Tensor:
    """uint8 `[B, H, rows, columns]`: 0 empty, 1 partial, 2 full."""
    rows, columns = mask.kv_indices.shape[-2:]
    kinds = torch.zeros(*mask.kv_indices.shape[:2], rows, columns, dtype=torch.uint8)
    listed = ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices))
    for kind, (counts, indices) in enumerate(listed, start=1):
        if counts is not None and indices is not None:
            holds = torch.arange(columns) < counts[..., None]
            kinds += kind * torch.zeros_like(kinds).scatter_(-1, indices.long(), holds.to(torch.uint8))
    return kinds
