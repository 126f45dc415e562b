"""Poison in lanes: how it spreads, where it is dropped, and how a kernel reports it.

Poison is a BOOL beside a value, None where there can be none. It spreads through every op but AND, OR and
WHERE on BOOL conditions, which follow Kleene. What a poisoned lane holds is arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from saccade.codegen.cpu.arguments import State
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op

__all__ = ["complement", "either", "poison_of", "report_poison"]

Poison: TypeAlias = Value | None


def either(e: Emitter, poisons: Iterable[Poison]) -> Poison:
    """Return where any of them is set."""
    found: Poison = None
    for poison in poisons:
        if poison is not None:
            found = poison if found is None else e.binary("or_", found, poison)
    return found


def complement(e: Emitter, lanes: Value) -> Value:
    """Return where lanes are not set."""
    return e.builder.xor(lanes, e.whole(-1, lanes.type))


def poison_of(e: Emitter, node: Expr, values: Sequence[Value], poisons: Sequence[Poison]) -> Poison:
    """Return the poison of a node from its arguments' values and poison; not what it adds of its own."""
    if all(poison is None for poison in poisons):
        return None
    if node.op in _KLEENE and node.args[0].dtype is DType.BOOL:
        return _KLEENE[node.op](e, values, poisons)
    return either(e, poisons)


def _and(e: Emitter, values: Sequence[Value], poisons: Sequence[Poison]) -> Poison:
    # Each side's poison counts where the other is True, or poisoned too.
    return _undecided(e, values, poisons)


def _or(e: Emitter, values: Sequence[Value], poisons: Sequence[Poison]) -> Poison:
    return _undecided(e, [complement(e, value) for value in values], poisons)


def _undecided(e: Emitter, leaves_open: Sequence[Value], poisons: Sequence[Poison]) -> Poison:
    """(p & (o' | p')) | (p' & (o | p)), for poison p and where o the other side is left to decide."""
    found = []
    for own, other in ((0, 1), (1, 0)):
        if poisons[own] is not None:
            matters = either(e, (leaves_open[other], poisons[other]))
            found.append(e.binary("and_", poisons[own], matters))
    return either(e, found)


def _where(e: Emitter, values: Sequence[Value], poisons: Sequence[Poison]) -> Poison:
    of_condition, *of_sides = poisons
    known = [poison for poison in of_sides if poison is not None]
    if not known:
        return of_condition
    none = e.whole(0, known[0].type)
    chosen = e.select(values[0], *(none if poison is None else poison for poison in of_sides))
    return either(e, (of_condition, chosen))


_KLEENE: dict[Op, Callable[[Emitter, Sequence[Value], Sequence[Poison]], Poison]] = {
    Op.AND: _and,
    Op.OR: _or,
    Op.WHERE: _where,
}


def report_poison(
    e: Emitter, state: Value, which: Which, poison: Poison, b: Value, h: Value, q: Value, k: Value
) -> None:
    """Emit the record of poison that decided something; the first to report is kept.

    Args:
        e: The function under construction.
        state: Address of the block that threads share.
        which: The program.
        poison: Lanes where poison decides; None: nowhere, and nothing is emitted.
        b: int64, the batch.
        h: int64, the query head.
        q: int64, the query.
        k: int64, the key of the first lane.
    """
    if poison is None:
        return
    with e.when(e.any(poison), likely=False):
        error = e.at(state, 8 * State.ERROR)
        claimed = e.builder.cmpxchg(error, e.whole(0), e.whole(which.value), "monotonic", "monotonic")
        with e.when(e.builder.extract_value(claimed, 1)):
            places = {State.ERROR_B: b, State.ERROR_H: h, State.ERROR_Q: q, State.ERROR_K: k}
            for place, value in places.items():
                e.store(value, e.at(state, 8 * place))
