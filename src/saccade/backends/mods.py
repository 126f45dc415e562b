"""The programs of a call, in the places that fused kernels give them, and what is proven of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from saccade.backends.base import Operands
from saccade.codegen.program.contributions import Contribution
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.ir.program import Program
from saccade.problem import AttentionProblem, ModFacts

__all__ = ["Programs", "masks_of", "mods_of", "programs_of", "proven"]

Programs: TypeAlias = Mapping[Which, Program]


def masks_of(problem: AttentionProblem) -> tuple[ModFacts | None, ModFacts | None]:
    """Return a kernel's two masks.

    A mask_mod alone has the place of a block mask's program, so that one kernel serves it, whether or not it
    is analysed first.
    """
    blocks, mask_mod = problem.block_mask, problem.mask_mod
    return (mask_mod, None) if blocks is None else (blocks.mod, mask_mod)


def mods_of(problem: AttentionProblem) -> dict[Which, ModFacts]:
    """Return the facts of a problem's programs, in the order of `Which`."""
    mask, mask_mod = masks_of(problem)
    given = ((Which.MASK, mask), (Which.MASK_MOD, mask_mod), (Which.SCORE, problem.score))
    return {which: mod for which, mod in given if mod is not None}


def programs_of(operands: Operands) -> Programs:
    """Return the programs of a call, in the places `mods_of` gives them."""
    blocks = operands.block_mask
    given = {
        Which.MASK: operands.mask if blocks is None else blocks.program,
        Which.MASK_MOD: None if blocks is None else operands.mask,
        Which.SCORE: operands.score,
    }
    return {which: program for which, program in given.items() if program is not None}


def proven(
    problem: AttentionProblem,
    mod: ModFacts,
    dense: tuple[bool, ...],
    beside: tuple[Contribution, ...] = (),
) -> ProgramFacts:
    """Return what is proven of a program for a problem's sizes.

    Args:
        problem: The problem.
        mod: The program's facts.
        dense: For each of its captures, whether the last stride is one element.
        beside: What is evaluated beside it.
    """
    return prove(
        mod.structure,
        batch=problem.batch,
        heads=problem.q_heads,
        q_len=problem.q_len,
        kv_len=problem.kv_len,
        numbers=mod.numbers,
        shapes=mod.capture_shapes,
        dense=dense,
        contributions=beside,
    )
