"""Indices that step by one from lane to lane: what turns a gather into one vector load.

Lanes are consecutive keys, so an index is a ramp if it is kv_idx, up or down, and parts that are the same in
every lane. This module finds the form of an index; `loads` uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.ir.expr import READS, Expr
from saccade.ir.ops import Op

__all__ = ["Ramp", "ramp"]

_VARIES = READS["kv_idx"] | READS["score"]


@final
@dataclass(frozen=True)
class Ramp:
    """An index `step * kv_idx + sum(sign * term)`, modulo 2**64.

    Attributes:
        step: 1 or -1.
        terms: Signs, and expressions that read neither kv_idx nor score.
    """

    step: int
    terms: tuple[tuple[int, Expr], ...]


def ramp(index: Expr) -> Ramp | None:
    """Return the form of an index that steps by one with kv_idx, None of any other.

    Example:
        >>> from saccade.ir.expr import make, var
        >>> found = ramp(make(Op.SUB, (var("q_idx"), var("kv_idx"))))
        >>> found.step, [(sign, term.attr) for sign, term in found.terms]
        (-1, [(1, 'q_idx')])
        >>> ramp(make(Op.MUL, (var("kv_idx"), var("kv_idx"))))
    """
    step = 0
    terms: list[tuple[int, Expr]] = []
    stack = [(1, index)]
    while stack:
        sign, node = stack.pop()
        if not node.reads & _VARIES:
            terms.append((sign, node))
        elif node.op is Op.VAR and node.attr == "kv_idx":
            step += sign
        elif node.op in _SIGNS:
            signs = _SIGNS[node.op]
            stack.extend((sign * own, arg) for own, arg in zip(signs, node.args, strict=True))
        else:
            return None
    return Ramp(step, tuple(terms)) if step in (1, -1) else None


_SIGNS = {Op.ADD: (1, 1), Op.SUB: (1, -1), Op.NEG: (-1,)}
