"""A mask as what must hold of every pair it shows: half-planes of positions, and documents that agree.

This reads a structure and its numbers, and no lengths: what it finds is kept for the latest programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, final

from saccade.analysis.affine import Affine, Range, affine
from saccade.backends.patterns.ranges import ranges_of
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, var
from saccade.ir.ops import INDEX_VARIABLES, Op
from saccade.ir.rewrite import simplify
from saccade.ir.structure import Structure

__all__ = ["HalfPlane", "Lookup", "Terms", "terms_of"]

_Q, _KV = var("q_idx"), var("kv_idx")
_ROWS = ((), (var("b"),))
"""What documents may be read by before their position: the kernels know one row for all, or one a batch."""

_Ranges: TypeAlias = dict[Expr, Range]


@final
@dataclass(frozen=True)
class HalfPlane:
    """``q * q_idx + kv * kv_idx + constant <= 0``."""

    q: int
    kv: int
    constant: int


@final
@dataclass(frozen=True)
class Lookup:
    """A captured integer tensor read at indices of the pair.

    Attributes:
        slot: The tensor's.
        indices: The variable that each of its dimensions is read at.
    """

    slot: int
    indices: tuple[str, ...]


@final
@dataclass(frozen=True)
class Terms:
    """What must hold of a pair, all of it, for a mask to show it.

    Attributes:
        half_planes: Of its positions.
        documents: Tensors that hold the same for the query as for the key: read by `q_idx`, or by `b` and
            `q_idx`, here, and by `kv_idx` likewise.
        lookups: Everything else that is read. Its value has no say, but it must be there.
    """

    half_planes: tuple[HalfPlane, ...]
    documents: tuple[Lookup, ...]
    lookups: tuple[Lookup, ...]


@lru_cache(maxsize=512)
def terms_of(structure: Structure, numbers: tuple[int | float, ...]) -> Terms | None:
    """Take a mask apart; None where it says anything else.

    Args:
        structure: The mask's.
        numbers: Its run-time numbers.

    Example:
        >>> from saccade.masks import sliding_window
        >>> from saccade.tracing import trace
        >>> program = trace(sliding_window(4))
        >>> terms_of(program.structure, program.numbers).half_planes
        (HalfPlane(q=-1, kv=1, constant=0), HalfPlane(q=1, kv=-1, constant=-3))
    """
    root = simplify(structure.root)
    wanted = _conjuncts(root)
    if wanted is None:
        return None
    ranges = ranges_of(root, numbers)
    half_planes: list[HalfPlane] = []
    documents: list[Lookup] = []
    lookups: list[Lookup] = []
    for node, holds in wanted:
        document = _document(node) if holds else None
        if document is not None:
            documents.append(document)
            continue
        found = _half_planes(node, holds, ranges)
        if found is None:
            return None
        half_planes += found[0]
        lookups += found[1]
    return Terms(
        tuple(dict.fromkeys(half_planes)), tuple(dict.fromkeys(documents)), tuple(dict.fromkeys(lookups))
    )


def _conjuncts(root: Expr) -> list[tuple[Expr, bool]] | None:
    """The comparisons that must all be True, or False; None where a choice remains."""
    found = []
    stack = [(root, True)]
    while stack:
        node, holds = stack.pop()
        if node.op is Op.NOT:
            stack.append((node.args[0], not holds))
        elif node.op is (Op.AND if holds else Op.OR):
            stack += [(arg, holds) for arg in reversed(node.args)]
        elif node.op is Op.WHERE and _is_const(node.args[2], not holds):
            condition, then, _ = node.args
            stack += [(then, holds), (condition, True)]
        elif node.op is Op.WHERE and _is_const(node.args[1], not holds):
            condition, _, otherwise = node.args
            stack += [(otherwise, holds), (condition, False)]
        elif node.op in _COMPARISONS:
            found.append((node, holds))
        elif not _is_const(node, holds):
            return None
    return found


def _is_const(node: Expr, value: bool) -> bool:
    return node.op is Op.CONST and node.attr is value


def _document(node: Expr) -> Lookup | None:
    """The tensor of documents, where its elements of the query and the key are compared."""
    if node.op is not Op.EQ:
        return None
    first, second = node.args
    if not (first.op is second.op is Op.LOAD and first.attr == second.attr and first.dtype is DType.INT64):
        return None
    if first.args and first.args[-1] is _KV:
        first, second = second, first
    if not first.args or first.args[-1] is not _Q or second.args[-1] is not _KV:
        return None
    if first.args[:-1] not in _ROWS or second.args[:-1] != first.args[:-1]:
        return None
    return Lookup(first.attr, tuple([index.attr for index in first.args]))


def _half_planes(node: Expr, holds: bool, ranges: _Ranges) -> tuple[list[HalfPlane], list[Lookup]] | None:
    """A comparison of integers as half-planes of positions, and what else it reads."""
    if any(arg.dtype is not DType.INT64 for arg in node.args):
        return None
    a, b = (affine(arg, ranges) for arg in node.args)
    form, one = a.plus(b, -1), Affine({}, 1)
    if node.op is (Op.EQ if holds else Op.NE):
        forms = [form, Affine({}, 0).plus(form, -1)]
    elif node.op is Op.LE:
        forms = [form if holds else one.plus(form, -1)]  # not (a <= b): b + 1 <= a
    elif node.op is Op.LT:
        forms = [form.plus(one) if holds else Affine({}, 0).plus(form, -1)]
    else:
        return None
    planes: list[HalfPlane] = []
    lookups: list[Lookup] = []
    for each in [part for form in forms for part in _without_absolute(form, ranges)]:
        read = _lookups(each)
        if read is None:
            return None
        planes.append(HalfPlane(each.terms.get(_Q, 0), each.terms.get(_KV, 0), each.constant))
        lookups += read
    return planes, lookups


def _without_absolute(form: Affine, ranges: _Ranges) -> list[Affine]:
    """`n * |x| + rest <= 0` as its two halves, where n > 0."""
    absolute = [atom for atom, coefficient in form.terms.items() if atom.op is Op.ABS and coefficient > 0]
    if len(absolute) != 1:
        return [form]
    factor = form.terms[absolute[0]]
    rest = Affine({atom: n for atom, n in form.terms.items() if atom is not absolute[0]}, form.constant)
    inner = affine(absolute[0].args[0], ranges)
    return [rest.plus(inner, factor), rest.plus(inner, -factor)]


def _lookups(form: Affine) -> list[Lookup] | None:
    """What the form reads and cancels; None where it holds anything but positions and such lookups."""
    found: list[Lookup] = []
    for atom, coefficient in form.terms.items():
        if atom is _Q or atom is _KV:
            continue
        if coefficient != 0 or not _is_read(atom):
            return None
        found += _read(atom)
    return found


def _is_index(node: Expr) -> bool:
    return node.op is Op.VAR and node.attr in INDEX_VARIABLES


def _is_read(atom: Expr) -> bool:
    return _is_index(atom) or (atom.op is Op.LOAD and all(map(_is_index, atom.args)))


def _read(atom: Expr) -> Sequence[Lookup]:
    if atom.op is Op.LOAD:
        return (Lookup(atom.attr, tuple([index.attr for index in atom.args])),)
    return ()


_COMPARISONS = frozenset({Op.EQ, Op.NE, Op.LT, Op.LE})
