"""Where packed documents begin, for kernels that take sequences end to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saccade.backends.base import Operands
from saccade.backends.mods import programs_of
from saccade.backends.patterns import Documents
from saccade.codegen.program.which import Which
from saccade.problem import AttentionProblem

__all__ = ["Sequences", "sequences_of"]


@final
@dataclass(frozen=True, eq=False)
class Sequences:
    """The documents of a batch whose entries lie end to end.

    Attributes:
        starts: int32 `[documents + 1]`: where each begins, and the end of the last.
        longest: Tokens of the longest.
    """

    starts: Tensor
    longest: int


def sequences_of(
    problem: AttentionProblem, operands: Operands, documents: tuple[Documents, ...]
) -> Sequences:
    """Read where the documents of a call begin.

    A block mask keeps what was read of its own tensors; a mask_mod's are read at every call.

    Args:
        problem: What is asked.
        operands: The call's tensors and masks.
        documents: The tensors that tell documents apart; each row of them holds equal ids together.
    """
    mask = operands.block_mask
    if mask is None or any(one.which is not Which.MASK for one in documents):
        return _read(problem, operands, documents)
    key = ("sequences", problem.batch, problem.q_len, operands.query.device, documents)
    return mask.once(key, lambda: _read(problem, operands, documents))


def _read(problem: AttentionProblem, operands: Operands, documents: tuple[Documents, ...]) -> Sequences:
    batch, length, device = problem.batch, problem.q_len, operands.query.device
    programs = programs_of(operands)
    begins = torch.zeros(batch, length, dtype=torch.bool, device=device)
    begins[:, 0] = True
    for one in documents:
        ids = torch.as_tensor(programs[one.which].captures[one.slot], device=device)
        ids = ids[..., :length] if ids.dim() == 1 else ids[:batch, :length]
        begins[:, 1:] |= ids[..., 1:] != ids[..., :-1]
    starts = begins.flatten().nonzero().flatten()
    starts = torch.cat((starts, starts.new_tensor([batch * length])))
    return Sequences(starts.to(torch.int32), int(starts.diff().max()))
