"""What a mask may be on many rectangles at once: the evaluation of a program on intervals.

`MaskBounds` prepares a program once for a problem's sizes and data, then answers for any rectangles of it. It
owns the order of evaluation, what is evaluated exactly (expressions of b and h alone) and where affine forms
replace arithmetic. What single ops do is in `transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.affine import COMPARED_WITH_ZERO, LINEAR_OPS, Range, Ranges, affine, fits
from saccade.analysis.captured import CapturedRanges
from saccade.analysis.identity import renumbered
from saccade.analysis.interval import Number, Truth, Value, exactly
from saccade.analysis.logic import equal, not_equal
from saccade.analysis.transfer import TRANSFER
from saccade.ir.dtype import DType
from saccade.ir.expr import READS, Expr
from saccade.ir.interpret import evaluate
from saccade.ir.ops import REDUCTIONS, Op

Int64s = npt.NDArray[np.int64]


@final
@dataclass(frozen=True)
class Rectangles:
    """Rectangles of pairs, each within one (b, h).

    Attributes:
        head: int64[N], ``b * H + h``.
        q_first: int64[N], first query position; ``q_first <= q_last``.
        q_last: int64[N], last query position, inclusive.
        kv_first: int64[N], first key position; ``kv_first <= kv_last``.
        kv_last: int64[N], last key position, inclusive.
    """

    head: Int64s
    q_first: Int64s
    q_last: Int64s
    kv_first: Int64s
    kv_last: Int64s


@dataclass(frozen=True)
class _Step:
    """How one node's description follows from others'."""

    node: Expr
    operands: tuple[Expr, ...]
    apply: Callable[[list[Any]], Value]


@final
class MaskBounds:
    """A mask program on intervals.

    Args:
        root: The mask, a BOOL expression of b, h, q_idx and kv_idx.
        captures: The captured arrays by slot (bfloat16 ones as float32).
        numbers: The run-time numbers by slot.
        batch: Number of batches; b ranges over them.
        heads: Number of query heads; h ranges over them.
        q_len: Number of queries, at least 1.
        kv_len: Number of keys, at least 1.

    Example:
        >>> from saccade.ir.expr import make, var
        >>> causal = make(Op.LE, (var("kv_idx"), var("q_idx")))
        >>> bounds = MaskBounds(causal, (), (), batch=1, heads=1, q_len=8, kv_len=8)
        >>> truth = bounds.truth(Rectangles(*np.array([[0, 0], [0, 4], [3, 7], [0, 0], [3, 3]])))
        >>> truth.true.tolist(), truth.false.tolist()
        ([True, True], [True, False])
    """

    def __init__(
        self,
        root: Expr,
        captures: Sequence[npt.NDArray[Any]],
        numbers: Sequence[int | float],
        *,
        batch: int,
        heads: int,
        q_len: int,
        kv_len: int,
    ) -> None:
        self._root = root
        self._captures = captures
        self._numbers = numbers
        self._heads = heads
        self._count = batch * heads
        self._captured: dict[int, CapturedRanges] = {}
        self._extents: dict[int, int] = {}
        self._steady: dict[Expr, Value] = {}
        every = np.arange(self._count)
        zeros = np.zeros_like(every)
        whole = Rectangles(every, zeros, zeros + (q_len - 1), zeros, zeros + (kv_len - 1))
        self._rectangles = whole
        plain = self._plain_steps()
        values = self._run(plain, whole)
        ranges = {
            node: Range(int(value.lo.min()), int(value.hi.max()), value.constant is not None)
            for node, value in values.items()
            if isinstance(value, Number) and node.dtype is DType.INT64
        }
        self._steps = self._refined_steps(plain, ranges)

    def truth(self, rectangles: Rectangles) -> Truth:
        """Describe the mask on each rectangle; all masks of the answer have shape [N]."""
        value = self._run(self._steps, rectangles)[self._root]
        assert isinstance(value, Truth), "the root of a mask is BOOL"
        shape = rectangles.head.shape
        poison = None if value.poison is None else np.broadcast_to(value.poison, shape)
        return Truth(np.broadcast_to(value.true, shape), np.broadcast_to(value.false, shape), poison)

    def _run(self, steps: Sequence[_Step], rectangles: Rectangles) -> dict[Expr, Value]:
        """The description of every step's node."""
        self._rectangles = rectangles
        values: dict[Expr, Value] = {}
        with np.errstate(all="ignore"):
            for step in steps:
                values[step.node] = step.apply([values[operand] for operand in step.operands])
        return values

    def _plain_steps(self) -> list[_Step]:
        """One step a node, arguments first, exact where a node reads b and h alone."""
        steps: list[_Step] = []
        for node in _ordered(self._root, _operands):
            if _is_steady(node):
                steps.append(_Step(node, (), self._steady_step(node)))
                continue
            if node.op in REDUCTIONS:
                k, extent = node.attr
                self._extents[k] = max(extent, self._extents.get(k, 1))
            steps.append(_Step(node, _operands(node), self._transfer_step(node)))
        return steps

    def _transfer_step(self, node: Expr) -> Callable[[list[Any]], Value]:
        row = TRANSFER[node.op]
        return lambda args: row(node, args, self)

    def _steady_step(self, node: Expr) -> Callable[[list[Any]], Value]:
        """Evaluate once for every (b, h), then look up."""
        if node.op in (Op.CONST, Op.NUMBER):
            constant = TRANSFER[node.op](node, [], self)
            return lambda args: constant
        every = np.arange(self._count)
        reads_head = bool(node.reads) and self._count > 1
        variables = {"b": every // self._heads, "h": every % self._heads} if node.reads else {}
        result = evaluate(node, variables, self._captures, self._numbers)
        value, poison = result.value, None if result.poison is None else result.poison != 0
        if not reads_head:
            # One (b, h), or the same for all: a plain constant.
            known = exactly(
                value.reshape(-1)[0], node.dtype, None if poison is None else poison.reshape(-1)[0]
            )
            return lambda args: known
        value = np.broadcast_to(value, every.shape)
        poison = None if poison is None else np.broadcast_to(poison, every.shape)

        def look_up(args: list[Any]) -> Value:
            head = self._rectangles.head
            return exactly(value[head], node.dtype, None if poison is None else poison[head])

        return look_up

    def _refined_steps(self, plain: Sequence[_Step], ranges: Ranges) -> list[_Step]:
        """The steps the root needs when ids are compared as identities, and integers by affine forms."""
        steps = {}
        for step in plain:
            node = step.node
            if step.operands and node.op in _EQUALITIES and _looks_up_same_row(*node.args):
                step = self._identity_step(step)
            steps[node] = _affine_step(step, ranges) if step.operands == node.args else step
        return [steps[node] for node in _ordered(self._root, lambda node: steps[node].operands)]

    def _identity_step(self, step: _Step) -> _Step:
        """Compare two lookups by renumbered ids, where their numbers do not ascend already."""
        node = step.node
        a, b = node.args
        given = np.asarray(self._captures[a.attr])
        numbers = renumbered(given)
        if numbers is given:
            return step
        ids, compare = CapturedRanges(numbers, DType.INT64), _EQUALITIES[node.op]
        sides = [(len(side.args), _moving(side)) for side in node.args]

        def apply(args: list[Any]) -> Value:
            (count, first_moving), (_, second_moving) = sides
            return compare(ids.bounds(args[:count], first_moving), ids.bounds(args[count:], second_moving))

        return _Step(node, (*a.args, *b.args), apply)

    # What the leaves of `transfer` read: the Scene protocol.

    def variable(self, name: str) -> Number:
        """The range of q_idx or kv_idx (b and h are steady) on the present rectangles."""
        rectangles = self._rectangles
        if name == "q_idx":
            return Number(rectangles.q_first, rectangles.q_last)
        assert name == "kv_idx", "b and h are evaluated exactly"
        return Number(rectangles.kv_first, rectangles.kv_last)

    def number(self, slot: int) -> int | float:
        """A run-time number."""
        return self._numbers[slot]

    def axis(self, k: int) -> Number:
        """The range of a reduction's index, over every reduction that binds this axis."""
        return Number(np.int64(0), np.int64(self._extents[k] - 1))

    def load(self, node: Expr, indices: list[Number]) -> Value:
        """The range of a captured tensor over ranges of its indices."""
        captured = self._captured.get(node.attr)
        if captured is None:
            captured = self._captured[node.attr] = CapturedRanges(self._captures[node.attr], node.dtype)
        return captured.bounds(indices, _moving(node))


_STEADY_READS = READS["b"] | READS["h"]


def _is_steady(node: Expr) -> bool:
    """Whether a node has one value for each (b, h)."""
    return not node.reads & ~_STEADY_READS


def _moving(lookup: Expr) -> tuple[int, ...]:
    """The dimensions of a LOAD whose index varies within one (b, h)."""
    return tuple(dim for dim, index in enumerate(lookup.args) if not _is_steady(index))


_EQUALITIES: dict[Op, Callable[..., Value]] = {Op.EQ: equal, Op.NE: not_equal}


def _operands(node: Expr) -> tuple[Expr, ...]:
    """The arguments that the description of a node needs."""
    if _is_steady(node):
        return ()
    # The others are gradients and what they need.
    return node.args[:1] if node.op is Op.CUSTOM else node.args


def _ordered(root: Expr, operands: Callable[[Expr], tuple[Expr, ...]]) -> list[Expr]:
    """Every node the root needs, operands first."""
    order: dict[Expr, None] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        missing = [] if node in order else [operand for operand in operands(node) if operand not in order]
        if missing:
            stack.extend(missing)
        else:
            order.setdefault(stack.pop())
    return list(order)


def _looks_up_same_row(a: Expr, b: Expr) -> bool:
    """Whether two lookups differ in nothing but the last index, of one captured integer tensor."""
    if not (a.op is b.op is Op.LOAD and a.attr == b.attr and a.dtype is DType.INT64 and a.args):
        return False
    return a.args[:-1] == b.args[:-1] and all(map(_is_steady, a.args[:-1]))


def _affine_step(step: _Step, ranges: Ranges) -> _Step:
    """The step by affine forms, if it is a sum or a comparison of integers."""
    node = step.node
    if not step.operands:
        return step
    if node.op in COMPARED_WITH_ZERO and node.args[0].dtype is DType.INT64:
        a, b = (affine(arg, ranges) for arg in node.args)
        form, compare = a.plus(b, -1), COMPARED_WITH_ZERO[node.op]
        if fits(form, ranges):
            return _Step(node, tuple(form.terms), lambda atoms: compare(form.bounds(atoms)))
    elif node.op in LINEAR_OPS and node.dtype is DType.INT64:
        form = affine(node, ranges)
        if node not in form.terms and fits(form, ranges):
            return _Step(node, tuple(form.terms), form.bounds)
    return step
