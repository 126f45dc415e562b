"""Keys that a module adds after those it is given: a learned one, and one of zeros.

Owns how they are put behind the others and how a call's mods are kept from them. Invariant: every query sees
every added key, at its plain score, and a mod is asked about the given keys alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention.request import no_mask
from saccade.block_mask import BlockMask
from saccade.errors import UnsupportedError
from saccade.masks import Mask
from saccade.scores import Score
from saccade.signatures import MaskMod, ScoreMod

__all__ = ["append_learned", "append_zeros", "mask_of_blocks", "mods_of_given"]


def append_learned(given: Tensor, learned: Tensor) -> Tensor:
    """Put one learned row, the same for every batch entry, behind those given.

    Args:
        given: Keys or values `[N, Hkv, S, D]`.
        learned: `[1, 1, Hkv·D]`.

    Example:
        >>> append_learned(torch.zeros(3, 2, 5, 4), torch.ones(1, 1, 8))[0, 0, :, 0]
        tensor([0., 0., 0., 0., 0., 1.])
    """
    batch, heads, _, width = given.shape
    row = learned.to(given.dtype).view(1, heads, 1, width).expand(batch, -1, -1, -1)
    return torch.cat([given, row], dim=2)


def append_zeros(given: Tensor) -> Tensor:
    """Put one row of zeros behind keys or values `[N, Hkv, S, D]`."""
    return torch.nn.functional.pad(given, (0, 0, 0, 1))


def mods_of_given(
    mask_mod: MaskMod | None, score_mod: ScoreMod | None, kv_len: int
) -> tuple[MaskMod | None, ScoreMod | None]:
    """Return mods that ask those given about the first `kv_len` keys alone.

    Keys from there on are visible, and their scores stay as they are.

    Example:
        >>> from saccade.masks import causal
        >>> mask, _ = mods_of_given(causal, None, kv_len=2)
        >>> mask(0, 0, torch.arange(2)[:, None], torch.arange(3)).int()
        tensor([[1, 0, 1],
                [1, 1, 1]], dtype=torch.int32)
    """
    if kv_len == 0:
        return None, None
    return (
        None if mask_mod is None else _VisibleBeyond(mask_mod, kv_len),
        None if score_mod is None else _UnscoredBeyond(score_mod, kv_len),
    )


def mask_of_blocks(
    block_mask: BlockMask | TorchBlockMask, batch: int, heads: int, q_len: int, kv_len: int
) -> MaskMod:
    """Return a block mask of the given keys as the mod it was made from, for `mods_of_given`.

    Raises:
        ArgumentTypeError: It is no block mask.
        SaccadeError: It does not fit a call of these sizes.
        UnsupportedError: It is torch's own, or its blocks were given: no mod is known to say the same.
    """
    if isinstance(block_mask, BlockMask):
        block_mask.check_usable(batch, heads, q_len, kv_len)
        if block_mask.analysed:
            return block_mask.program
        made, remedy = "one of given blocks", "pass a function that says the same as mask_mod="
    elif isinstance(block_mask, TorchBlockMask):
        made = "torch's own, whose blocks need not be those of its mask_mod"
        remedy = "make it with saccade.create_block_mask, or pass its function as mask_mod="
    else:
        raise no_mask(block_mask)
    raise UnsupportedError(
        "with add_bias_kv or add_zero_attn there are more keys than block_mask is for, so it must be one "
        f"that saccade.create_block_mask made of a mod; got {made}, for {block_mask.seq_lengths[1]} keys: "
        + remedy
    )


@final
@dataclass(frozen=True, eq=False, repr=False)
class _VisibleBeyond(Mask):
    """A mask of the keys before `kv_len`, all those from there on being visible."""

    mask_mod: MaskMod
    kv_len: int

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        given = kv_idx.clamp(max=self.kv_len - 1)
        return (kv_idx >= self.kv_len) | self.mask_mod(b, h, q_idx, given)


@final
@dataclass(frozen=True, eq=False, repr=False)
class _UnscoredBeyond(Score):
    """A change of the scores of the keys before `kv_len`, all those from there on staying as they are."""

    score_mod: ScoreMod
    kv_len: int

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        given = kv_idx.clamp(max=self.kv_len - 1)
        return torch.where(kv_idx < self.kv_len, self.score_mod(score, b, h, q_idx, given), score)
