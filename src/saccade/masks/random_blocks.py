"""Random blocks: long-range keys drawn once, by a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from saccade.errors import ArgumentError
from saccade.masks.base import Mask
from saccade.mod_value import require_at_least

__all__ = ["random_blocks"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class random_blocks(Mask):
    """Show every block of queries some blocks of keys, drawn at random by a seed.

    Positions 0 to length - 1 are cut into blocks of `block`. Every query keeps the keys of the `number`
    different blocks drawn for its own block, number · block keys (fewer where the short last block is drawn),
    later ones included: the mask is not causal. The draw is uniform and the same on every machine; its own
    block may or may not be in it. The table behind it, (length / block)² bytes, is made on the CPU. One part
    of BigBird (arXiv 2007.14062): `local(w, w) | global_tokens(g) | random_blocks(...)`.

    Args:
        length: Positions, the same for queries and keys; 1 or more.
        block: Positions in a block, 1 or more. The paper takes 64; a multiple of 128, the size of a
            BlockMask's blocks, leaves no block half visible.
        number: Blocks of keys drawn for each block of queries; 0 to the number of blocks. The paper takes 3.
        seed: Chooses the draw.

    Raises:
        ArgumentError: A number is too small, or `number` exceeds the number of blocks.
        ArgumentTypeError: A number is not an integer.

    Example:
        >>> q_idx, kv_idx = torch.arange(6)[:, None], torch.arange(6)
        >>> random_blocks(length=6, block=2, number=1, seed=1)(0, 0, q_idx, kv_idx).int()
        tensor([[1, 1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0],
                [0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 1, 1],
                [0, 0, 0, 0, 1, 1]], dtype=torch.int32)
    """

    length: int
    block: int
    number: int
    seed: int = 0
    usage: ClassVar[str] = "random_blocks(length=4096, block=128, number=3)"
    _is_drawn: Tensor = field(init=False, repr=False, compare=False)  # [blocks, blocks] bool

    def __post_init__(self) -> None:
        require_at_least(1, self.length, "random_blocks(): length")
        require_at_least(1, self.block, "random_blocks(): block")
        require_at_least(0, self.number, "random_blocks(): number")
        require_at_least(None, self.seed, "random_blocks(): seed")
        blocks = (self.length - 1) // self.block + 1
        if self.number > blocks:
            raise ArgumentError(
                f"random_blocks(): number must not exceed the {blocks} blocks of {self.block} in "
                f"length={self.length}, got number={self.number}; lower it"
            )
        draw = random.Random(self.seed)
        is_drawn = torch.zeros(blocks, blocks, dtype=torch.bool, device="cpu")
        for row in is_drawn:
            row[_sample(draw, blocks, self.number)] = True
        object.__setattr__(self, "_is_drawn", is_drawn)

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self._is_drawn[q_idx // self.block, kv_idx // self.block]


def _sample(draw: random.Random, size: int, number: int) -> list[int]:
    """`number` different integers below `size`, ascending, by Floyd's algorithm.

    Only `random()` is asked: of Python's generator it alone is promised to stay the same across versions.
    """
    chosen: set[int] = set()
    for last in range(size - number, size):
        candidate = int(draw.random() * (last + 1))
        chosen.add(last if candidate in chosen else candidate)
    return sorted(chosen)
