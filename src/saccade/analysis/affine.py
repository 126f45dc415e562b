"""Affine forms: integer expressions as a constant plus whole multiples of atoms.

`q_idx - kv_idx + 3 <= q_idx` and `3 <= kv_idx` are one test, but only the second is exact on intervals. This
module collects equal atoms (variables, lookups, quotients...) across additions, so that each occurs once.
Invariant: a form is made only where no step of the program's arithmetic can wrap around, so that it is the
same number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple, final

import numpy as np

from saccade.analysis.integers import reduced
from saccade.analysis.interval import INT_MAX, INT_MIN, Array, Number, Truth, either
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op


class Range(NamedTuple):
    """What an INT64 expression may be anywhere in the mask."""

    low: int
    high: int
    is_constant: bool  # one value everywhere, and never poison


Ranges = Mapping[Expr, Range]
"""The range of each INT64 expression that is described by itself."""


@final
@dataclass(frozen=True)
class Affine:
    """``constant + sum(coefficient * atom)``.

    Attributes:
        terms: Coefficient of each atom. A coefficient may be 0: the atom's poison still counts.
        constant: The rest.
    """

    terms: dict[Expr, int]
    constant: int

    def plus(self, other: Affine, factor: int = 1) -> Affine:
        """``self + factor * other``."""
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            terms[atom] = terms.get(atom, 0) + factor * coefficient
        return Affine(terms, self.constant + factor * other.constant)

    def bounds(self, atoms: list[Number]) -> Number:
        """What is known of the sum, from what is known of each atom, in the order of `terms`."""
        lo: Array | None = None
        hi: Array | None = None
        modulus, residue = 0, self.constant
        for coefficient, atom in zip(self.terms.values(), atoms, strict=True):
            if coefficient == 0:
                continue
            low, high = (atom.lo, atom.hi) if coefficient > 0 else (atom.hi, atom.lo)
            if coefficient == -1:
                lo = -low if lo is None else lo - low
                hi = -high if hi is None else hi - high
            else:
                if coefficient != 1:
                    low, high = low * coefficient, high * coefficient
                lo = low if lo is None else lo + low
                hi = high if hi is None else hi + high
            modulus = gcd(modulus, coefficient * atom.modulus)
            residue += coefficient * atom.residue
        poison = either(*(atom.poison for atom in atoms))
        if lo is None or hi is None:
            value = np.int64(self.constant)
            return Number(value, value, None, poison, 0, self.constant)
        if self.constant:
            lo, hi = lo + self.constant, hi + self.constant
        return Number(lo, hi, None, poison, *reduced(modulus, residue))


def affine(root: Expr, ranges: Ranges) -> Affine:
    """The affine form of an INT64 expression; atoms are what is not a sum, a multiple or a cast that fits.

    Args:
        root: The expression.
        ranges: The range of the INT64 nodes below it. One with an argument that has none is an atom.
    """
    forms: dict[Expr, Affine] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        if node in forms:
            stack.pop()
            continue
        split = _SPLIT.get(node.op)
        args = node.args if split is not None and _is_exact(node, ranges) else ()
        missing = [arg for arg in args if arg not in forms]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if ranges[node].is_constant:
            forms[node] = Affine({}, ranges[node].low)
        elif split is None or not args:
            forms[node] = Affine({node: 1}, 0)
        else:
            forms[node] = split(node, [forms[arg] for arg in args]) or Affine({node: 1}, 0)
    return forms[root]


def fits(form: Affine, ranges: Ranges) -> bool:
    """Whether no partial sum of the form can leave int64."""
    size = abs(form.constant)
    for atom, coefficient in form.terms.items():
        low, high, _ = ranges[atom]
        size += abs(coefficient) * max(abs(low), abs(high))
    return size <= INT_MAX


def _is_exact(node: Expr, ranges: Ranges) -> bool:
    """Whether the op's result, as a whole number, stays within int64, so that nothing wraps."""
    if any(arg not in ranges for arg in node.args):
        return False  # an argument of another type, or one evaluated as part of its user
    bounds = [(ranges[arg].low, ranges[arg].high) for arg in node.args]
    if node.op is Op.CAST:
        target: DType = node.attr
        least, most = target.int_range
        return least <= bounds[0][0] and bounds[0][1] <= most
    if node.op is Op.SHL:
        if bounds[1][0] < 0 or bounds[1][1] > 62:
            return False
        bounds[1] = (1 << bounds[1][0], 1 << bounds[1][1])
    corners = _CORNERS[node.op](*bounds)
    return min(corners) >= INT_MIN and max(corners) <= INT_MAX


_CORNERS: dict[Op, Callable[..., list[int]]] = {
    Op.ADD: lambda a, b: [a[0] + b[0], a[1] + b[1]],
    Op.SUB: lambda a, b: [a[0] - b[1], a[1] - b[0]],
    Op.NEG: lambda a: [-a[0], -a[1]],
    Op.NOT: lambda a: [~a[0], ~a[1]],
    Op.MUL: lambda a, b: [x * y for x in a for y in b],
    Op.SHL: lambda a, b: [x * y for x in a for y in b],
}


def _product(node: Expr, parts: list[Affine]) -> Affine | None:
    a, b = parts
    if b.terms:
        a, b = b, a
    return None if b.terms else Affine({}, 0).plus(a, b.constant)


def _shifted(node: Expr, parts: list[Affine]) -> Affine | None:
    a, b = parts
    return None if b.terms else Affine({}, 0).plus(a, 1 << b.constant)


_SPLIT: dict[Op, Callable[[Expr, list[Affine]], Affine | None]] = {
    Op.ADD: lambda node, parts: parts[0].plus(parts[1]),
    Op.SUB: lambda node, parts: parts[0].plus(parts[1], -1),
    Op.NEG: lambda node, parts: Affine({}, 0).plus(parts[0], -1),
    Op.NOT: lambda node, parts: Affine({}, -1).plus(parts[0], -1),
    Op.MUL: _product,
    Op.SHL: _shifted,
    Op.CAST: lambda node, parts: parts[0],
}

LINEAR_OPS = frozenset(_SPLIT)


def _is_zero(a: Number) -> Truth:
    true = (a.lo <= 0) & (a.hi >= 0)
    if a.residue if a.modulus == 0 else a.residue % a.modulus:
        true = np.zeros_like(true)
    return Truth(true, (a.lo != 0) | (a.hi != 0), a.poison)


def _is_not_zero(a: Number) -> Truth:
    zero = _is_zero(a)
    return Truth(zero.false, zero.true, a.poison)


COMPARED_WITH_ZERO: dict[Op, Callable[[Number], Truth]] = {
    Op.EQ: _is_zero,
    Op.NE: _is_not_zero,
    Op.LT: lambda a: Truth(a.lo < 0, a.hi >= 0, a.poison),
    Op.LE: lambda a: Truth(a.lo <= 0, a.hi > 0, a.poison),
}
