"""From a kernel's error record to the error that the user sees.

A kernel notes where an index out of range or a division by zero decided something. The reference interpreter
is asked again at that place, so that the message is its own, as in every backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands
from saccade.block_mask import BlockMask
from saccade.codegen.program.which import Which
from saccade.errors import IndexOutOfRangeError
from saccade.ir.dtype import DType
from saccade.ir.interpret import evaluate, poison_error
from saccade.ir.ops import INDEX_VARIABLES
from saccade.ir.program import Program
from saccade.problem import AttentionProblem

__all__ = ["Place", "raise_poison"]

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
    for q in place.queries:
        for k in place.keys:
            _evaluate(problem, operands, programs, place.which, (place.b, place.h, q, k))
    name = _ARGUMENT[place.which]
    raise IndexOutOfRangeError(
        f"{name} must index its tensors in range and divide by no zero, and does not at b={place.b}, "
        f"h={place.h}, q_idx={_told(place.queries)} and a kv_idx in {place.keys.start}..{place.keys.stop - 1}"
        ", where it depends on how floating-point numbers are rounded; guard the index or divisor with "
        "torch.where or clamp"
    )


def _told(queries: range) -> str:
    return str(queries.start) if len(queries) == 1 else f"{queries.start}..{queries.stop - 1}"


def _evaluate(
    problem: AttentionProblem,
    operands: Operands,
    programs: Mapping[Which, Program],
    which: Which,
    pair: tuple[int, int, int, int],
) -> None:
    """Raise where a program is poison at a pair, if kernels ask it there."""
    program = programs[which]
    if which is Which.MASK:
        if _kind(operands.block_mask, *pair) is BlockKind.PARTIAL:
            program(*pair)
    elif which is Which.MASK_MOD:
        if _is_visible(operands, programs, *pair, by=[Which.MASK]):
            program(*pair)
    elif _is_visible(operands, programs, *pair):
        score = _score(problem, operands, *pair)
        if which is Which.SCORE_GRADIENT:
            _differentiate(program, score, *pair)
        else:
            program(score, *pair)


def _differentiate(
    program: Program, score: npt.NDArray[np.floating[Any]], b: int, h: int, q: int, k: int
) -> None:
    """Raise where the gradient of a score is poison."""
    names = ("score", "grad", *INDEX_VARIABLES)
    values = (score, np.ones_like(score), *map(np.asarray, (b, h, q, k)))
    variables, root = dict(zip(names, values, strict=True)), program.structure.root
    result = evaluate(root, variables, program.captures, program.numbers)
    if result.poison is not None and result.poison.any():
        site = result.sites[int(result.poison.max()) - 1]
        raise poison_error(root, site, variables, program.captures, program.numbers, program.names)


def _is_visible(
    operands: Operands,
    programs: Mapping[Which, Program],
    b: int,
    h: int,
    q: int,
    k: int,
    by: Sequence[Which] = (Which.MASK, Which.MASK_MOD),
) -> bool:
    """Whether the masks named by `by` all show a pair."""
    kind = _kind(operands.block_mask, b, h, q, k)
    asked = [which for which in by if which is not Which.MASK or kind is BlockKind.PARTIAL]
    shown = all(bool(programs[which](b, h, q, k)) for which in asked if which in programs)
    return shown and kind is not BlockKind.EMPTY


def _kind(mask: BlockMask | None, b: int, h: int, q: int, k: int) -> BlockKind:
    """The kind of a pair's block; without a block mask, PARTIAL: the programs decide."""
    if mask is None:
        return BlockKind.PARTIAL
    batch, heads, _, _ = mask.runs.shape
    column = k // mask.kv_block
    for start, stop, kind in mask.runs.row(b % batch, h % heads, q // mask.q_block):
        if start <= column < stop:
            return kind
    return BlockKind.EMPTY


def _score(
    problem: AttentionProblem, operands: Operands, b: int, h: int, q: int, k: int
) -> npt.NDArray[np.floating[Any]]:
    """One score before score_mod."""
    query = operands.query[b, h, q].detach().double()
    key = operands.key[b % problem.kv_batch, h // problem.group_size, k].detach().double()
    score = float(query @ key) * problem.scale
    return np.asarray(score, np.float64 if problem.accumulates_in is DType.FLOAT64 else np.float32)
