"""From a kernel's error record to the error that the user sees.

A kernel notes where an index out of range or a division by zero decided something. The reference interpreter
is asked again at that place, so that the message is its own, as in every backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands
from saccade.block_mask import BlockMask
from saccade.codegen.program.which import Which
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError
from saccade.ir.dtype import DType
from saccade.ir.interpret import evaluate, host_array, poison_error
from saccade.ir.ops import INDEX_VARIABLES
from saccade.ir.program import Program
from saccade.problem import AttentionProblem

__all__ = ["Place", "raise_poison"]

Places: TypeAlias = npt.NDArray[np.intp]

_ARGUMENT = {
    Which.MASK: "block_mask",
    Which.MASK_MOD: "mask_mod",
    Which.SCORE: "score_mod",
    Which.SCORE_GRADIENT: "the gradient of score_mod",
}


@final
@dataclass(frozen=True)
class Place:
    """Where a kernel met poison: some pair of these queries and keys.

    Attributes:
        which: The program that met it.
        b: Batch.
        h: Query head.
        queries: The queries, those beyond the last left out.
        keys: The keys, likewise.
    """

    which: Which
    b: int
    h: int
    queries: range
    keys: range


def raise_poison(
    problem: AttentionProblem, operands: Operands, programs: Mapping[Which, Program], place: Place
) -> NoReturn:
    """Raise what the interpreter says of a place.

    Args:
        problem: The problem.
        operands: The operands of the call.
        programs: The programs the kernel ran.
        place: Where it met poison.

    Raises:
        IndexOutOfRangeError: The program indexes a tensor out of range there.
        DivisionByZeroError: It divides by integer zero there.
    """
    asker = _Asker(problem, operands, programs, place)
    for q in place.queries:
        asker.ask(q)
    name = _ARGUMENT[place.which]
    raise IndexOutOfRangeError(
        f"{name} must index its tensors in range and divide by no zero, and does not at b={place.b}, "
        f"h={place.h}, q_idx={_told(place.queries)} and a kv_idx in {place.keys.start}..{place.keys.stop - 1}"
        ", where it depends on how floating-point numbers are rounded; guard the index or divisor with "
        "torch.where or clamp"
    )


def _told(queries: range) -> str:
    return str(queries.start) if len(queries) == 1 else f"{queries.start}..{queries.stop - 1}"


@final
class _Asker:
    """Asks the programs of a call at a place; what they read is brought to the host once.

    Args:
        problem: The problem.
        operands: The operands of the call.
        programs: The programs the kernel ran.
        place: The place.
    """

    def __init__(
        self, problem: AttentionProblem, operands: Operands, programs: Mapping[Which, Program], place: Place
    ) -> None:
        self._which, self._b, self._h = place.which, place.b, place.h
        self._mask = operands.block_mask
        self._programs = {which: _on_host(program) for which, program in programs.items()}
        self._keys = np.arange(place.keys.start, place.keys.stop)
        self._first = place.queries.start
        if place.which in (Which.SCORE, Which.SCORE_GRADIENT):
            self._scores = _scores(problem, operands, place)

    def ask(self, q: int) -> None:
        """Raise the error of the first key with which the program is poison, if kernels ask it there."""
        every = np.arange(len(self._keys))
        try:
            self._evaluate(q, every)
        except (IndexOutOfRangeError, DivisionByZeroError):
            # Several programs may be asked: one may be poison at an earlier key than the one that was first.
            for one in every:
                self._evaluate(q, every[one : one + 1])
            raise

    def _evaluate(self, q: int, keys: Places) -> None:
        """Raise where the program is poison at a query and some of the keys, by their places."""
        kinds = _kinds(self._mask, self._b, self._h, q, self._keys[keys])
        partial = kinds == BlockKind.PARTIAL
        if self._which is Which.MASK:
            self._called(Which.MASK, q, keys[partial])
            return
        seen = kinds != BlockKind.EMPTY
        if Which.MASK in self._programs:
            seen[partial] = self._called(Which.MASK, q, keys[partial])
        keys = keys[seen]
        if Which.MASK_MOD in self._programs:
            shown = self._called(Which.MASK_MOD, q, keys)
            keys = keys[shown]
        if self._which is Which.MASK_MOD or not len(keys):
            return
        scores = self._scores[q - self._first, keys]
        if self._which is Which.SCORE:
            self._programs[Which.SCORE](scores, self._b, self._h, q, self._keys[keys])
        else:
            self._differentiate(scores, q, self._keys[keys])

    def _called(self, which: Which, q: int, keys: Places) -> npt.NDArray[np.bool_]:
        """What a mask says of a query and some of the keys, by their places."""
        if not len(keys):
            return np.zeros(0, np.bool_)
        said: npt.NDArray[np.bool_] = self._programs[which](self._b, self._h, q, self._keys[keys])
        return said

    def _differentiate(self, scores: npt.NDArray[np.floating[Any]], q: int, keys: Places) -> None:
        """Raise where the gradient of a score is poison."""
        program = self._programs[self._which]
        names, root = ("score", "grad", *INDEX_VARIABLES), program.structure.root
        values = (scores, np.ones_like(scores), *map(np.asarray, (self._b, self._h, q, keys)))
        variables = dict(zip(names, values, strict=True))
        result = evaluate(root, variables, program.captures, program.numbers)
        if result.poison is None or not result.poison.any():
            return
        poison = np.broadcast_to(result.poison, scores.shape)
        first = int(np.flatnonzero(poison)[0])
        pair = {name: np.broadcast_to(value, scores.shape)[first] for name, value in variables.items()}
        site = result.sites[int(poison[first]) - 1]
        raise poison_error(root, site, pair, program.captures, program.numbers, program.names)


def _on_host(program: Program) -> Program:
    """The program, reading host memory."""
    return replace(program, captures=tuple([host_array(capture) for capture in program.captures]))


def _kinds(mask: BlockMask | None, b: int, h: int, q: int, keys: Places) -> npt.NDArray[np.int8]:
    """The kinds of the blocks of pairs; without a block mask, PARTIAL: the programs decide."""
    if mask is None:
        return np.full(len(keys), BlockKind.PARTIAL, np.int8)
    batch, heads, _, _ = mask.runs.shape
    kinds = np.full(len(keys), BlockKind.EMPTY, np.int8)
    columns = keys // mask.kv_block
    for start, stop, kind in mask.runs.row(b % batch, h % heads, q // mask.q_block):
        kinds[(start <= columns) & (columns < stop)] = kind
    return kinds


def _scores(problem: AttentionProblem, operands: Operands, place: Place) -> npt.NDArray[np.floating[Any]]:
    """The scores of a place before score_mod, [queries, keys]."""
    batch, head = place.b % problem.kv_batch, place.h // problem.group_size
    query = operands.query[place.b, place.h, place.queries.start : place.queries.stop]
    key = operands.key[batch, head, place.keys.start : place.keys.stop]
    left, right = (host_array(rows.resolve_neg()).astype(np.float64) for rows in (query, key))
    with np.errstate(all="ignore"):
        scores: npt.NDArray[np.floating[Any]] = left @ right.T * problem.scale
        return scores if problem.accumulates_in is DType.FLOAT64 else scores.astype(np.float32)
