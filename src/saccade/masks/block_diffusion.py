"""Block diffusion: the mask that trains a language model to denoise block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.masks.base import Mask
from saccade.mod_value import require_at_least

__all__ = ["block_diffusion"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class block_diffusion(Mask):
    """Show noised blocks themselves and the clean blocks before them; clean blocks the clean past.

    The sequence is given twice, one copy after the other: positions 0 to length - 1 hold it noised, positions
    length to 2 · length - 1 clean. In whole blocks, a noised query of block n (from 0) keeps the noised keys
    of block n and the clean keys of the blocks before n: (n + 1) · block keys. A clean query of block n keeps
    the clean keys of the blocks up to n, its own among them: (n + 1) · block keys too, none of them noised.
    It looks ahead inside a block, and from the noised copy to the clean one; no block learns of later ones.
    The training mask of block diffusion (arXiv 2503.09573).

    Args:
        length: Tokens of one copy, 1 or more; attention is over 2 · length positions.
        block: Tokens denoised together, 1 or more; the last block may be short.

    Raises:
        ArgumentError: A number is less than 1.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> q_idx, kv_idx = torch.arange(8)[:, None], torch.arange(8)
        >>> block_diffusion(length=4, block=2)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 1, 1, 1, 1, 0, 0],
                [0, 0, 0, 0, 1, 1, 0, 0],
                [0, 0, 0, 0, 1, 1, 0, 0],
                [0, 0, 0, 0, 1, 1, 1, 1],
                [0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """

    length: int
    block: int
    usage: ClassVar[str] = "block_diffusion(length=4096, block=16)"

    def __post_init__(self) -> None:
        require_at_least(1, self.length, "block_diffusion(): length")
        require_at_least(1, self.block, "block_diffusion(): block")

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        clean_query, clean_key = q_idx >= self.length, kv_idx >= self.length
        of_query, of_key = self._block(q_idx, clean_query), self._block(kv_idx, clean_key)
        own_noise = ~clean_query & ~clean_key & (of_query == of_key)
        past = clean_key & ((of_key < of_query) | (clean_query & (of_key == of_query)))
        return own_noise | past

    def _block(self, position: Tensor, is_clean: Tensor) -> Tensor:
        """The block of a position within its copy."""
        return torch.where(is_clean, position - self.length, position) // self.block
