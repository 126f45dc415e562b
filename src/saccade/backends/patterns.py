"""Patterns that a library kernel knows by name, recognised in a problem's programs."""

from __future__ import annotations

from saccade.ir.expr import make, var
from saccade.ir.ops import Op
from saccade.ir.structure import Structure
from saccade.problem import AttentionProblem

__all__ = ["hides_by_program", "is_causal"]

_CAUSAL = make(Op.LE, (var("kv_idx"), var("q_idx")))


def hides_by_program(problem: AttentionProblem) -> list[Structure] | None:
    """Return the masks that all must hold, if programs alone say what is hidden; None where given blocks do.

    Example:
        >>> from saccade.ir.dtype import DType
        >>> hides_by_program(AttentionProblem("cpu", DType.FLOAT32, 1, 1, 1, 1, 4, 4, 8, 8, 1.0))
        []
    """
    structures = []
    if problem.block_mask is not None:
        if not problem.block_mask.analysed:
            return None
        structures.append(problem.block_mask.mod.structure)
    if problem.mask_mod is not None:
        structures.append(problem.mask_mod.structure)
    return structures


def is_causal(structure: Structure) -> bool:
    """Return whether a mask is `q_idx >= kv_idx`, written either way round.

    Example:
        >>> from saccade.masks import causal
        >>> from saccade.tracing import trace
        >>> is_causal(trace(causal).structure)
        True
    """
    return structure.root is _CAUSAL
