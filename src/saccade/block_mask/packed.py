"""A BlockMask in pieces that torch's compiler can hold: tensors, integers and the text of its program.

Owns what the pieces are, not their order in a call (`torch_ops.encoding`). Every mask has them from the
start, because the compiler reads attributes and cannot be made to work them out. Invariant: the pieces say
all that the mask says but the user's function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from saccade.ir.program import Array, Program
from saccade.ir.spelling import names_in, spelled, understood

if TYPE_CHECKING:
    from saccade.block_mask.mask import BlockMask

__all__ = ["PackedMask", "pack"]


class PackedMask(NamedTuple):
    """The pieces of a mask.

    Attributes:
        text: Its program, spelled.
        numbers: The program's run-time numbers, by slot.
        batch: As the mask's, and so are those that follow.
        heads: See there.
        q_len: See there.
        kv_len: See there.
        q_block: See there.
        kv_block: See there.
        stored_batch: The batches its runs hold: 1 where one serves all.
        stored_heads: The heads they hold, likewise.
        analysed: As the mask's.
        device: As the mask's.
        watched_names: What the user calls the tensors that it was made from.
        watched: Those tensors.
        captures: The tensors that the program reads, by slot.
        runs: The arrays of its `Runs`, on the host: offsets, start, stop and kind.
        marks: int64 ``[watched, 2]`` on the host: the version of each when it was watched and the address of
            its data, −1 for none. In a tensor, so that no compiler takes them for constants.
    """

    text: str
    numbers: tuple[int | float, ...]
    batch: int
    heads: int
    q_len: int
    kv_len: int
    q_block: int
    kv_block: int
    stored_batch: int
    stored_heads: int
    analysed: bool
    device: torch.device
    watched_names: tuple[str, ...]
    watched: tuple[Tensor, ...]
    captures: tuple[Tensor, ...]
    runs: tuple[Tensor, ...]
    marks: Tensor

    @property
    def program(self) -> Program:
        """The program, made again."""
        return Program(understood(self.text), self.captures, self.numbers, names_in(self.text))

    @property
    def seq_lengths(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.q_len, self.kv_len


def pack(mask: BlockMask) -> PackedMask:
    """Take a mask to pieces.

    Example:
        >>> from saccade.block_mask import create_block_mask
        >>> from saccade.masks import causal
        >>> print(pack(create_block_mask(causal, None, None, 512, 512, device="cpu")).text)
        mask() -> bool
        kv_idx <= q_idx
    """
    program, runs = mask.program, mask.runs
    # Copies: torch warns of arrays that may not be written to, and these never may.
    arrays = (runs.offsets, runs.start, runs.stop, runs.kind)
    return PackedMask(
        text=spelled(program.structure, program.names),
        numbers=program.numbers,
        batch=mask.batch,
        heads=mask.heads,
        q_len=mask.q_len,
        kv_len=mask.kv_len,
        q_block=mask.q_block,
        kv_block=mask.kv_block,
        stored_batch=runs.shape[0],
        stored_heads=runs.shape[1],
        analysed=mask.analysed,
        device=mask.device,
        watched_names=tuple([one.name for one in mask.watched]),
        watched=tuple([one.tensor for one in mask.watched]),
        captures=tuple([_tensor(capture) for capture in program.captures]),
        runs=tuple([torch.tensor(array, device="cpu") for array in arrays]),
        marks=torch.tensor([one.mark for one in mask.watched], dtype=torch.int64, device="cpu").view(-1, 2),
    )


def _tensor(capture: Array) -> Tensor:
    return capture if isinstance(capture, Tensor) else torch.as_tensor(capture, device="cpu")
