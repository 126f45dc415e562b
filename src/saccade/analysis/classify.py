"""Classification: which blocks of a mask are EMPTY, PARTIAL or FULL, without evaluating every pair.

From the whole matrix of blocks down: a square of blocks that intervals decide is done, another is split into
four. A single block left undecided is tried at a few witness pairs, and evaluated pair by pair only if they
agree, or if some pair of it may have no value (poison), so that the fault is always found. Memory is bounded
by chunks; the kinds are exact inside the lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.bounds import MaskBounds, Rectangles
from saccade.analysis.runs import BlockKind, Runs
from saccade.analysis.witness import partial_blocks
from saccade.ir.interpret import evaluate, interpret
from saccade.ir.structure import Structure

Int64s = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]

_SQUARES_AT_ONCE = 1 << 16
_PAIRS_AT_ONCE = 1 << 20


def classify(
    structure: Structure,
    captures: Sequence[npt.NDArray[Any]],
    numbers: Sequence[int | float],
    names: Sequence[str],
    *,
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    q_block: int,
    kv_block: int,
) -> Runs:
    r"""Return the kind of every block of a mask.

    A block at the edge is judged by the pairs inside the lengths alone.

    Args:
        structure: A MASK structure.
        captures: The captured arrays by slot (bfloat16 ones as float32).
        numbers: The run-time numbers by slot.
        names: What the user calls each capture, for messages.
        batch: Number of batches; pass 1 where the program does not read b.
        heads: Number of query heads; pass 1 where the program does not read h.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_block: Queries in a block, at least 1.
        kv_block: Keys in a block, at least 1.

    Returns:
        Runs of shape ``(batch, heads, ceil(q_len / q_block), ceil(kv_len / kv_block))``.

    Raises:
        IndexOutOfRangeError: the mask of a pair in range depends on an index out of range.
        DivisionByZeroError: the mask of a pair in range depends on an integer division by zero.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> causal = parse_structure("mask() -> bool\nkv_idx <= q_idx")
        >>> sizes = {"batch": 1, "heads": 1, "q_len": 300, "kv_len": 300, "q_block": 100, "kv_block": 100}
        >>> classify(causal, (), (), (), **sizes).to_dense()[0, 0]
        array([[1, 0, 0],
               [2, 1, 0],
               [2, 2, 1]], dtype=uint8)
    """
    shape = (batch, heads, -(-q_len // q_block), -(-kv_len // kv_block))
    found = _Found()
    if all(shape):
        task = _Task(structure, captures, numbers, names, shape, (q_len, kv_len), (q_block, kv_block))
        _search(task, found)
    return found.runs(shape)


@final
@dataclass
class _Squares:
    """Squares of blocks of one size, in block units."""

    head: Int64s
    row: Int64s
    col: Int64s
    size: int

    def __len__(self) -> int:
        return len(self.head)

    def __getitem__(self, which: Any) -> _Squares:
        return _Squares(self.head[which], self.row[which], self.col[which], self.size)


@final
@dataclass
class _Found:
    """Squares whose kind is known, in the order they were found."""

    parts: list[tuple[_Squares, Kinds]] = field(default_factory=list)

    def add(self, squares: _Squares, kind: Kinds | BlockKind) -> None:
        if len(squares):
            self.parts.append((squares, np.broadcast_to(np.asarray(kind, np.uint8), (len(squares),))))

    def runs(self, shape: tuple[int, int, int, int]) -> Runs:
        none = np.zeros(0, np.int64)
        parts = [*self.parts, (_Squares(none, none, none, 1), none.astype(np.uint8))]
        head, row, col = (
            np.concatenate([getattr(squares, name) for squares, _ in parts])
            for name in ("head", "row", "col")
        )
        size = np.repeat([squares.size for squares, _ in parts], [len(squares) for squares, _ in parts])
        return Runs.from_rectangles(
            shape,
            head=head,
            top=row,
            bottom=np.minimum(row + size, shape[2]),
            left=col,
            right=np.minimum(col + size, shape[3]),
            kind=np.concatenate([kind for _, kind in parts]),
        )


@final
@dataclass(frozen=True)
class _Task:
    """One classification: the program with its data, and the sizes."""

    structure: Structure
    captures: Sequence[npt.NDArray[Any]]
    numbers: Sequence[int | float]
    names: Sequence[str]
    shape: tuple[int, int, int, int]  # batch, heads, block rows, block columns
    lengths: tuple[int, int]  # q_len, kv_len
    blocks: tuple[int, int]  # q_block, kv_block

    def bounds(self) -> MaskBounds:
        q_len, kv_len = self.lengths
        return MaskBounds(
            self.structure.root,
            self.captures,
            self.numbers,
            batch=self.shape[0],
            heads=self.shape[1],
            q_len=q_len,
            kv_len=kv_len,
        )

    def rectangles(self, squares: _Squares) -> Rectangles:
        """The pairs of each square, inside the lengths."""
        ends = []
        for place, length, block in zip((squares.row, squares.col), self.lengths, self.blocks, strict=True):
            first = place * block
            ends += [first, np.minimum(first + squares.size * block, length) - 1]
        return Rectangles(squares.head, *ends)

    def mask_at(self, head: Int64s, q_idx: Int64s, kv_idx: Int64s) -> npt.NDArray[Any]:
        """The mask at pairs that have one."""
        return evaluate(
            self.structure.root, self.variables(head, q_idx, kv_idx), self.captures, self.numbers
        ).value

    def variables(self, head: Int64s, q_idx: Int64s, kv_idx: Int64s) -> dict[str, Int64s]:
        heads = self.shape[1]
        return {"b": head // heads, "h": head % heads, "q_idx": q_idx, "kv_idx": kv_idx}


def _search(task: _Task, found: _Found) -> None:
    """Split squares until each is decided."""
    batch, heads, rows, cols = task.shape
    bounds = task.bounds()
    every = np.arange(batch * heads)
    zeros = np.zeros_like(every)
    pending = [_Squares(every, zeros, zeros, 1 << (max(rows, cols) - 1).bit_length())]
    while pending:
        squares = pending.pop()
        if len(squares) > _SQUARES_AT_ONCE:
            pending.append(squares[_SQUARES_AT_ONCE:])
            squares = squares[:_SQUARES_AT_ONCE]
        rectangles = task.rectangles(squares)
        truth = bounds.truth(rectangles)
        full = ~truth.false if truth.poison is None else ~(truth.false | truth.poison)
        open_ = truth.true & truth.false
        if truth.poison is not None:
            open_ = open_ | truth.poison
        found.add(squares[full], BlockKind.FULL)
        if squares.size > 1:
            parts = _quarters(squares[open_], rows, cols)
            if len(parts):
                pending.append(parts)
        else:
            _settle(task, squares[open_], None if truth.poison is None else truth.poison[open_], found)


def _quarters(squares: _Squares, rows: int, cols: int) -> _Squares:
    """The four quarters of each square, without those outside the matrix."""
    half = squares.size // 2
    head = np.concatenate([squares.head] * 4)
    row = np.concatenate([squares.row, squares.row, squares.row + half, squares.row + half])
    col = np.concatenate([squares.col, squares.col + half, squares.col, squares.col + half])
    quarters = _Squares(head, row, col, half)
    inside = (row < rows) & (col < cols)
    return quarters if inside.all() else quarters[inside]


def _settle(task: _Task, squares: _Squares, poison: npt.NDArray[np.bool_] | None, found: _Found) -> None:
    """Decide single blocks by witnesses, then by evaluation."""
    left = squares
    if poison is None or not poison.all():
        # A block with possible poison is evaluated whatever witnesses say, so that the fault never depends on
        # them.
        partial = partial_blocks(task.rectangles(squares), task.mask_at)
        if poison is not None:
            partial &= ~poison
        found.add(squares[partial], BlockKind.PARTIAL)
        left = squares[~partial]
    q_block, kv_block = task.blocks
    at_once = max(1, _PAIRS_AT_ONCE // (q_block * kv_block))
    for begin in range(0, len(left), at_once):
        part = left[begin : begin + at_once]
        kind = _evaluated(task, task.rectangles(part))
        held = kind != BlockKind.EMPTY
        found.add(part[held], kind[held])


def _evaluated(task: _Task, blocks: Rectangles) -> Kinds:
    """The kind of blocks by every pair of theirs, uint8[N].

    Raises:
        IndexOutOfRangeError: as `classify`.
        DivisionByZeroError: as `classify`.
    """
    # Positions beyond a ragged block's end repeat its last pair, which changes neither any() nor all().
    q_idx = np.minimum(blocks.q_first[:, None] + np.arange(task.blocks[0]), blocks.q_last[:, None])[
        :, :, None
    ]
    kv_idx = np.minimum(blocks.kv_first[:, None] + np.arange(task.blocks[1]), blocks.kv_last[:, None])[
        :, None, :
    ]
    variables = task.variables(blocks.head[:, None, None], q_idx, kv_idx)
    result = evaluate(task.structure.root, variables, task.captures, task.numbers)
    if result.is_poisoned:
        interpret(task.structure, tuple(variables.values()), task.captures, task.numbers, task.names)
    visible = np.broadcast_to(result.value, (len(blocks.head), q_idx.shape[1], kv_idx.shape[2]))
    kind = np.full(len(blocks.head), BlockKind.PARTIAL, np.uint8)
    kind[visible.all(axis=(1, 2))] = BlockKind.FULL
    kind[~visible.any(axis=(1, 2))] = BlockKind.EMPTY
    return kind
