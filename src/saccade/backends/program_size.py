"""How many operations the programs of a problem have, for engines that compile them."""

from __future__ import annotations

from functools import lru_cache

from saccade.backends.mods import mods_of
from saccade.codegen.program.contributions import contributions, roots_of
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.which import Which
from saccade.ir.expr import walk
from saccade.ir.rewrite import lower
from saccade.ir.structure import Structure
from saccade.problem import AttentionProblem

__all__ = ["size_reasons"]

_NAMES = {Which.MASK: "the mask", Which.MASK_MOD: "the mask_mod", Which.SCORE: "the score_mod"}


def size_reasons(problem: AttentionProblem, most: int) -> list[str]:
    """Return which programs of a problem are too large, each in a clause about "it", the engine.

    Args:
        problem: The problem.
        most: The most operations of a program, or of a score_mod's gradient with all that its captures
            receive.
    """
    sizes = {_NAMES[which]: _node_count(facts.structure) for which, facts in mods_of(problem).items()}
    if problem.score is not None and problem.needs_grad:
        gradient = _gradient_node_count(problem.score.structure, problem.score.capture_grads)
        sizes["the gradient of the score_mod"] = gradient
    return [
        f"it compiles programs of at most {most} operations, and {name} has {nodes}"
        for name, nodes in sizes.items()
        if nodes > most
    ]


@lru_cache(maxsize=1024)
def _node_count(structure: Structure) -> int:
    """How many operations a program has, each counted once."""
    return sum(1 for _ in walk(lower(structure.root)))


@lru_cache(maxsize=1024)
def _gradient_node_count(structure: Structure, wanted: tuple[bool, ...]) -> int:
    """How many operations the gradients of a score and of what it reads have, each counted once."""
    roots = roots_of(lower(derivative(structure).root), contributions(structure, wanted))
    return sum(1 for _ in walk(*roots))
