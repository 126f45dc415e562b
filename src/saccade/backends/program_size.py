"""How many operations the programs of a problem have, for engines that compile them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from saccade.backends.mods import mods_of
from saccade.codegen.program.contributions import contributions, roots_of
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.which import Which
from saccade.ir.expr import Expr, walk
from saccade.ir.ops import Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import Structure
from saccade.problem import AttentionProblem

__all__ = ["size_reasons"]

_NAMES = {Which.MASK: "the mask", Which.MASK_MOD: "the mask_mod", Which.SCORE: "the score_mod"}


def size_reasons(problem: AttentionProblem, most: int, *, pair_read: int = 1) -> list[str]:
    """Return which programs of a problem are too large, each in a clause about "it", the engine.

    Args:
        problem: The problem.
        most: The most operations of a program, or of a score_mod's gradient with all that its captures
            receive.
        pair_read: How many operations a read counts as whose place depends on query and key both.
    """
    sizes = {_NAMES[which]: _size(facts.structure, pair_read) for which, facts in mods_of(problem).items()}
    if problem.score is not None and problem.needs_grad:
        gradient = _gradient_size(problem.score.structure, problem.score.capture_grads, pair_read)
        sizes["the gradient of the score_mod"] = gradient
    counted = "," if pair_read == 1 else f", where a read at every pair counts as {pair_read},"
    return [
        f"it compiles programs of at most {most} operations{counted} and {name} has {size}"
        for name, size in sizes.items()
        if size > most
    ]


@lru_cache(maxsize=1024)
def _size(structure: Structure, pair_read: int) -> int:
    """How many operations a program has, each counted once."""
    return _counted(walk(lower(structure.root)), pair_read)


@lru_cache(maxsize=1024)
def _gradient_size(structure: Structure, wanted: tuple[bool, ...], pair_read: int) -> int:
    """How many operations the gradients of a score and of what it reads have, each counted once."""
    roots = roots_of(lower(derivative(structure).root), contributions(structure, wanted))
    return _counted(walk(*roots), pair_read)


def _counted(nodes: Iterable[Expr], pair_read: int) -> int:
    return sum(pair_read if _is_read_at_pairs(node) else 1 for node in nodes)


def _is_read_at_pairs(node: Expr) -> bool:
    return node.op is Op.LOAD and (
        node.depends_on("score") or (node.depends_on("q_idx") and node.depends_on("kv_idx"))
    )
