"""Proofs about a program's integers, from lengths, shapes and types alone.

One pass of ranges over the whole score matrix: what fits 32 bits, which indices stay inside their tensors,
which divisors are never 0. Contents of tensors are not looked at; run-time numbers are known.

Proofs are asked for at every call, and facts are part of what kernels are cached by. So they change with the
sizes only where the code would: where a bound passes a threshold. And what no index and no division depends
on is rounded up to powers of two, so that growing lengths meet the memo.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

from saccade.codegen.program.contributions import Contribution, roots_of
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.ranges import ANY, Range, range_of
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, walk
from saccade.ir.ops import INDEX_VARIABLES, REDUCTIONS, Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import CaptureType, Structure

__all__ = ["prove"]

_NARROW = DType.INT32.int_range


def prove(
    structure: Structure,
    *,
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    numbers: tuple[int | float, ...] = (),
    shapes: tuple[tuple[int, ...], ...] = (),
    dense: tuple[bool, ...] = (),
    contributions: tuple[Contribution, ...] = (),
) -> ProgramFacts:
    r"""Return what is proven of a program for sizes.

    Args:
        structure: The program.
        batch: B; b ranges over it.
        heads: Query heads; h ranges over them.
        q_len: Q.
        kv_len: K.
        numbers: The run-time numbers by slot.
        shapes: The shape of each captured tensor.
        dense: For each captured tensor, whether its last stride is one element.
        contributions: What is evaluated beside it.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> same = parse_structure("mask(c0: i64[1]) -> bool\nc0[q_idx] == c0[kv_idx]")
        >>> facts = prove(same, batch=1, heads=1, q_len=4, kv_len=6, shapes=((5,),), dense=(True,))
        >>> sorted(facts.narrow), sorted(facts.bounded)  # of q_idx, c0[q_idx], kv_idx, c0[kv_idx]
        ([0, 2], [(1, 0)])
    """
    plan = _plan(structure.root, structure.captures, contributions)
    if not plan.nodes:
        return ProgramFacts(dense=dense)
    exact = plan.exact
    sizes = tuple(
        [
            size if name in exact else 1 << (size - 1).bit_length()
            for name, size in (("b", batch), ("h", heads), ("q_idx", q_len), ("kv_idx", kv_len))
        ]
    )
    if numbers:
        numbers = tuple(
            [
                number if slot in exact or isinstance(number, float) else 1 << abs(number).bit_length()
                for slot, number in enumerate(numbers)
            ]
        )
    return _facts(plan, sizes, numbers, shapes, dense)


@final
@dataclass(frozen=True, eq=False)
class _Plan:
    """What of a program a proof looks at.

    Attributes:
        nodes: Its INT64 nodes and its loads, arguments first, with their numbers in `walk` order.
        asked: The indices and dividends, of which it matters whether they are negative.
        extents: The longest extent of each axis, of reductions and of contributions.
        stored: The captured tensors' element types.
        exact: The variables and the slots of numbers that an index or a division depends on. Of other ones a
            bound is enough: a size at least as large, a number of at least the magnitude.
    """

    nodes: tuple[tuple[int, Expr], ...]
    asked: frozenset[Expr]
    extents: dict[int, int]
    stored: tuple[DType, ...]
    exact: frozenset[str | int]


@lru_cache(maxsize=1024)
def _plan(root: Expr, captures: tuple[CaptureType, ...], contributions: tuple[Contribution, ...]) -> _Plan:
    order = list(walk(*roots_of(lower(root), contributions)))
    bound = [node.attr for node in order if node.op in REDUCTIONS]
    extents: dict[int, int] = {}
    for k, extent in (*bound, *(axis for each in contributions for axis in each.axes)):
        extents[k] = max(extent, extents.get(k, 1))
    nodes = [(number, node) for number, node in enumerate(order) if _is_looked_at(node)]
    checked = [arg for node in order if node.op is Op.LOAD or _divides(node) for arg in node.args]
    exact = {node.attr for node in walk(*checked) if node.op in (Op.VAR, Op.NUMBER)}
    asked = {arg for _, node in nodes if node.op is Op.LOAD for arg in node.args}
    asked |= {node.args[0] for _, node in nodes if _divides(node)}
    stored = tuple(capture.dtype for capture in captures)
    return _Plan(tuple(nodes), frozenset(asked), extents, stored, frozenset(exact))


def _is_looked_at(node: Expr) -> bool:
    return node.dtype is DType.INT64 or (node.op is Op.LOAD and bool(node.args))


def _divides(node: Expr) -> bool:
    return node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64


@lru_cache(maxsize=4096)
def _facts(
    plan: _Plan,
    sizes: tuple[int, ...],
    numbers: tuple[int | float, ...],
    shapes: tuple[tuple[int, ...], ...],
    dense: tuple[bool, ...],
) -> ProgramFacts:
    # Of no pair nothing is asked; one position keeps the range one.
    last = {name: max(size, 1) - 1 for name, size in zip(INDEX_VARIABLES, sizes, strict=True)}
    ranges: dict[Expr, Range] = {}
    bounded: set[tuple[int, int]] = set()
    narrow, nonzero, nonnegative = set(), set(), set()
    for number, node in plan.nodes:
        args = [ranges.get(arg, ANY) for arg in node.args]
        if node.op is Op.LOAD:
            sides = enumerate(zip(args, shapes[node.attr], strict=True))
            bounded.update(
                (number, dim) for dim, (index, size) in sides if -size <= index[0] <= index[1] < size
            )
            if node.dtype is not DType.INT64:
                continue
            found = plan.stored[node.attr].int_range
        elif node.op is Op.VAR:
            found = (0, last[node.attr])
        elif node.op is Op.AXIS:
            found = (0, plan.extents[node.attr] - 1)
        elif node.op is Op.NUMBER:
            found = _of_number(int(numbers[node.attr]), exact=node.attr in plan.exact)
        else:
            found = range_of(node, args)
            if _divides(node) and not args[1][0] <= 0 <= args[1][1]:
                nonzero.add(number)
        ranges[node] = found
        if _NARROW[0] <= found[0] and found[1] <= _NARROW[1]:
            narrow.add(number)
        if found[0] >= 0 and node in plan.asked:
            nonnegative.add(number)
    return ProgramFacts(
        frozenset(narrow), frozenset(bounded), frozenset(nonzero), frozenset(nonnegative), dense
    )


def _of_number(number: int, *, exact: bool) -> Range:
    """The number, or everything of its magnitude."""
    return (number, number) if exact else (max(-number, ANY[0]), min(number, ANY[1]))
