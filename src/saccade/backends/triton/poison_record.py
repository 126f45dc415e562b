"""The record in which kernels note poison, where they are asked to: made, read, and told to the user."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saccade.backends.base import Operands
from saccade.backends.poison import Place, raise_poison
from saccade.backends.triton.arguments import Values
from saccade.codegen.program.which import Which
from saccade.codegen.triton.spec import Tile
from saccade.ir.program import Program
from saccade.problem import AttentionProblem

__all__ = ["lend_record", "raise_noted"]

_FIELDS = 6


def lend_record(values: Values, device: torch.device) -> None:
    """Put a record in which nothing is noted among the arguments of a kernel."""
    values["poison"] = torch.zeros(_FIELDS, dtype=torch.int64, device=device)


def raise_noted(
    values: Values,
    problem: AttentionProblem,
    operands: Operands,
    programs: Mapping[Which, Program],
    tile: Tile,
) -> None:
    """Wait for the device, and raise what it noted; return if that is nothing.

    Args:
        values: The arguments of the kernel that was launched last, the record among them.
        problem: The problem.
        operands: The operands of the call.
        programs: The programs that kernels ran.
        tile: That kernel's.

    Raises:
        IndexOutOfRangeError: A program indexes a tensor out of range where that decides something.
        DivisionByZeroError: It divides by integer zero likewise.
    """
    record = values["poison"]
    assert isinstance(record, Tensor), "it was lent"
    which, b, h, q, k, _ = record.tolist()
    if which:
        queries = range(q, min(q + tile.rows, problem.q_len))
        keys = range(k, min(k + tile.keys, problem.kv_len))
        raise_poison(problem, operands, programs, Place(Which(which - 1), b, h, queries, keys))
