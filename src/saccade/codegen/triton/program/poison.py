"""Poison as text: how it spreads, and where it is dropped.

Poison is a BOOL term beside a value's, None where there can be none. It spreads through every op but AND, OR
and WHERE on BOOL conditions, which follow Kleene. What a poisoned value is is arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from saccade.codegen.triton.program.terms import BOOL, Level, Term, infix
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["Poison", "either", "poison_of"]

Poison: TypeAlias = Term | None


def either(poisons: Iterable[Poison]) -> Poison:
    """Return where any of them is set."""
    found: Poison = None
    for poison in poisons:
        if poison is not None and poison != found:
            found = poison if found is None else infix("|", Level.OR, found, poison)
    return found


def poison_of(node: Expr, values: Sequence[Term], poisons: Sequence[Poison]) -> Poison:
    """Return the poison of a node from its arguments' values and poison; not what it adds of its own."""
    if all(poison is None for poison in poisons):
        return None
    if node.op is Op.WHERE:
        return _of_choice(values, poisons)
    if node.op is Op.AND and node.dtype is DType.BOOL:
        return _undecided(values, poisons)
    if node.op is Op.OR and node.dtype is DType.BOOL:
        return _undecided([_complement(value) for value in values], poisons)
    return either(poisons)


def _complement(value: Term) -> Term:
    return Term(f"~{value.typed.at(Level.UNARY)}", BOOL, Level.UNARY)


def _undecided(leaves_open: Sequence[Term], poisons: Sequence[Poison]) -> Poison:
    """(p & (o' | p')) | (p' & (o | p)), for poison p and where o the other side is left to decide."""
    found = []
    for own, other in ((0, 1), (1, 0)):
        poison, matters = poisons[own], either((leaves_open[other], poisons[other]))
        if poison is not None and matters is not None:
            found.append(infix("&", Level.AND, poison, matters))
    return either(found)


def _of_choice(values: Sequence[Term], poisons: Sequence[Poison]) -> Poison:
    of_condition, *of_sides = poisons
    if all(side is None for side in of_sides):
        return of_condition
    texts = ["False" if side is None else side.text for side in of_sides]
    chosen = Term(f"tl.where({values[0].typed.text}, {texts[0]}, {texts[1]})", BOOL)
    return either((of_condition, chosen))
