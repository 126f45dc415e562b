"""Runs: the block kinds of a mask, as one sorted list of column ranges per block row.

This module owns the stored form and what can be done to it without knowing the mask: building it from
rectangles or from a dense table, transposing, selecting, counting. It never holds a rows × columns matrix
unless asked for one by `to_dense`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, final

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]
Pick = int | slice | Sequence[int] | Int64s
"""What `Runs.take` selects along an axis: a position, a slice, or positions in any order, repeats allowed."""


class BlockKind(IntEnum):
    """What a block of the mask holds, inside the true lengths."""

    EMPTY = 0  # no visible pair
    PARTIAL = 1  # a visible and a hidden pair
    FULL = 2  # no hidden pair


@final
@dataclass(frozen=True, eq=False, repr=False)
class Runs:
    """The non-empty blocks of a mask in CSR form: for each (b, h, block row) its runs of blocks of one kind.

    Row ``(b, h, i)`` has the number ``r = (b * H + h) * rows + i``; its runs are entries ``offsets[r]`` to
    ``offsets[r + 1]`` of the three parallel arrays. Within a row runs are disjoint and ascend, and neighbours
    that touch differ in kind, so two masks with equal blocks have equal arrays. All arrays are read-only.

    Attributes:
        shape: ``(B, H, rows, cols)``: stored batches and heads (1 where the mask does not read them), and
            blocks.
        offsets: int64[B * H * rows + 1], first entry of each row; ``offsets[0] == 0``, never descends, ends
            with n.
        start: int32[n], first block column of the run; ``0 <= start < stop``.
        stop: int32[n], block column after its last; ``stop <= cols``.
        kind: uint8[n], `BlockKind.PARTIAL` or `BlockKind.FULL`; EMPTY blocks are those in no run.

    Example:
        >>> runs = Runs.from_dense(np.array([[[[1, 0, 0], [2, 1, 0], [2, 2, 1]]]], dtype=np.uint8))
        >>> runs.row(0, 0, 2)
        [(0, 2, <BlockKind.FULL: 2>), (2, 3, <BlockKind.PARTIAL: 1>)]
        >>> runs
        Runs(1×1×3×3 blocks: 3 empty, 3 partial, 3 full; 5 runs)
    """

    shape: tuple[int, int, int, int]
    offsets: Int64s
    start: Int32s
    stop: Int32s
    kind: Kinds

    def __post_init__(self) -> None:
        for array in (self.offsets, self.start, self.stop, self.kind):
            array.setflags(write=False)

    @classmethod
    def from_rectangles(
        cls,
        shape: tuple[int, int, int, int],
        *,
        head: Int64s,
        top: Int64s,
        bottom: Int64s,
        left: Int64s,
        right: Int64s,
        kind: Kinds,
    ) -> Runs:
        """Build runs from disjoint rectangles of blocks of one kind.

        Args:
            shape: ``(B, H, rows, cols)``.
            head: int64[n], ``b * H + h`` of each rectangle.
            top: int64[n], its first block row.
            bottom: int64[n], the block row after its last.
            left: int64[n], its first block column.
            right: int64[n], the block column after its last.
            kind: uint8[n], PARTIAL or FULL.

        Returns:
            The runs. Rectangles may come in any order; they must not overlap (not checked).
        """
        _, _, rows, cols = shape
        height = bottom - top
        if height.size and (height != 1).any():
            each = np.repeat(np.arange(len(head)), height)
            first = np.cumsum(height) - height
            row = (head * rows + top - first)[each] + np.arange(len(each))
            left, right, kind = left[each], right[each], kind[each]
        else:
            row = head * rows + top
        order = np.argsort(row * cols + left)
        return cls._merged(shape, row[order], left[order], right[order], kind[order])

    @classmethod
    def from_dense(cls, kinds: npt.ArrayLike) -> Runs:
        """Build runs from a table of block kinds.

        Args:
            kinds: uint8[B, H, rows, cols] of `BlockKind` values.

        Returns:
            The runs, with the table's shape.
        """
        table = np.asarray(kinds, dtype=np.uint8)
        batch, heads, rows, cols = table.shape
        flat = table.reshape(batch * heads * rows, cols)
        edge = np.ones((flat.shape[0], cols + 1), dtype=bool)
        if cols:
            np.not_equal(flat[:, 1:], flat[:, :-1], out=edge[:, 1:-1])
        # Every row has its edges at 0 and at cols, so an edge that is not a row's last is followed by its
        # run's end.
        row, col = np.nonzero(edge)
        begins = col[:-1] < cols
        row, start, stop = row[:-1][begins], col[:-1][begins], col[1:][begins]
        kind = flat[row, start]
        held = kind != BlockKind.EMPTY
        return cls._merged((batch, heads, rows, cols), row[held], start[held], stop[held], kind[held])

    @classmethod
    def _merged(
        cls, shape: tuple[int, int, int, int], row: Int64s, start: Int64s, stop: Int64s, kind: Kinds
    ) -> Runs:
        """Runs from entries in (row, start) order, uniting neighbours that touch and agree."""
        opens = np.ones(len(row), dtype=bool)
        if len(row):
            opens[1:] = (row[1:] != row[:-1]) | (start[1:] != stop[:-1]) | (kind[1:] != kind[:-1])
        closes = np.append(opens[1:], True) if len(row) else opens
        row = row[opens]
        offsets = np.zeros(shape[0] * shape[1] * shape[2] + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=len(offsets) - 1), out=offsets[1:])
        return cls(
            shape,
            offsets,
            start[opens].astype(np.int32),
            stop[closes].astype(np.int32),
            kind[opens].astype(np.uint8),
        )

    def to_dense(self) -> Kinds:
        """Return the table of block kinds, uint8[B, H, rows, cols]."""
        _, _, _, cols = self.shape
        row = self.row_numbers()
        change = np.zeros((len(self.offsets) - 1, cols + 1), dtype=np.int8)
        # Starts are unique within a row, and so are stops; a stop may meet the next run's start.
        kind = self.kind.view(np.int8)
        change[row, self.start] += kind
        change[row, self.stop] -= kind
        kinds = np.cumsum(change[:, :cols], axis=1, dtype=np.int8)
        return kinds.view(np.uint8).reshape(self.shape)

    def row_numbers(self) -> Int64s:
        """Return the row number ``(b * H + h) * rows + i`` of every run, int64[n]."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def transposed(self) -> Runs:
        """Return the runs of the transposed table: per block column, runs over block rows.

        A sweep over the differences of consecutive rows: the work is that of the differences, not of the
        table. The shape is ``(B, H, cols, rows)``.
        """
        batch, heads, rows, cols = self.shape
        changed = self._row_changes()
        width = changed.right - changed.left
        each = np.repeat(np.arange(len(width)), width)
        column = (changed.left - (np.cumsum(width) - width))[each] + np.arange(len(each))
        line, before, after = changed.line[each], changed.before[each], changed.after[each]
        # One key orders by head, column and row: in a column runs are disjoint, so its k-th start meets its
        # k-th end.
        key = (line // (rows + 1) * cols + column) * (rows + 1) + line % (rows + 1)
        starts, ends = after != BlockKind.EMPTY, before != BlockKind.EMPTY
        order = np.argsort(key[starts])
        first, last = key[starts][order], np.sort(key[ends])
        return Runs._merged(
            (batch, heads, cols, rows),
            first // (rows + 1),
            first % (rows + 1),
            last % (rows + 1),
            after[starts][order],
        )

    def _row_changes(self) -> _Changes:
        """Column ranges in which a row differs from the one above; below a head's last is nothing."""
        _, _, rows, cols = self.shape
        row = self.row_numbers()
        line = row + row // max(rows, 1)  # heads are rows + 1 lines apart
        kind = self.kind.astype(np.int64)
        width = cols + 1
        place = np.concatenate(
            [
                line * width + self.start,
                line * width + self.stop,
                (line + 1) * width + self.start,
                (line + 1) * width + self.stop,
            ]
        )
        # 3 * (kind in this row) + (kind in the row above), as steps: their running sum is the pair of kinds.
        step = np.concatenate([3 * kind, -3 * kind, kind, -kind])
        order = np.argsort(place)
        place, pair = place[order], np.cumsum(step[order])
        after, before = pair[:-1] // 3, pair[:-1] % 3
        # Every line's steps sum to zero, so between lines both kinds are EMPTY; steps at one place leave no
        # width.
        differ = (after != before) & (place[1:] > place[:-1])
        left = place[:-1][differ]
        return _Changes(
            line=left // width,
            left=left % width,
            right=place[1:][differ] - left // width * width,
            before=before[differ].astype(np.uint8),
            after=after[differ].astype(np.uint8),
        )

    def take(self, *, batch: Pick = slice(None), heads: Pick = slice(None), rows: Pick = slice(None)) -> Runs:
        """Select batches, heads and block rows; every axis stays, an int leaves it with size 1.

        Repeats are allowed, so ``take(batch=[0] * 8)`` repeats the first batch eight times.

        Args:
            batch: Positions along B, in the order wanted.
            heads: Positions along H.
            rows: Positions along the block rows.

        Returns:
            The selected runs.

        Raises:
            IndexError: a position is out of range (numpy's message).

        Example:
            >>> runs = Runs.from_dense(np.array([[[[1, 0], [2, 1]]]], dtype=np.uint8))
            >>> runs.take(rows=1).to_dense().tolist()
            [[[[2, 1]]]]
        """
        counts = self.shape[:3]
        chosen = [
            np.atleast_1d(np.arange(n)[pick]) for n, pick in zip(counts, (batch, heads, rows), strict=True)
        ]
        b, h, i = np.ix_(*chosen)
        wanted = ((b * counts[1] + h) * counts[2] + i).ravel()
        length = np.diff(self.offsets)[wanted]
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        entry = np.repeat(self.offsets[wanted] - offsets[:-1], length) + np.arange(offsets[-1])
        shape = (len(chosen[0]), len(chosen[1]), len(chosen[2]), self.shape[3])
        return Runs(shape, offsets, self.start[entry], self.stop[entry], self.kind[entry])

    def take_columns(self, first: int, last: int) -> Runs:
        """Select block columns ``first`` to ``last`` (exclusive), numbered from 0 again.

        Args:
            first: The first block column kept, ``0 <= first <= last``.
            last: The block column after the last one kept, at most cols.

        Returns:
            The runs cut to those columns.
        """
        batch, heads, rows, _ = self.shape
        start = np.maximum(self.start.astype(np.int64), first) - first
        stop = np.minimum(self.stop.astype(np.int64), last) - first
        held = start < stop
        shape = (batch, heads, rows, last - first)
        return Runs._merged(shape, self.row_numbers()[held], start[held], stop[held], self.kind[held])

    def row(self, b: int, h: int, i: int) -> list[tuple[int, int, BlockKind]]:
        """Return the runs of one block row as ``(start, stop, kind)``, in column order."""
        number = (b * self.shape[1] + h) * self.shape[2] + i
        span = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        runs = zip(self.start[span].tolist(), self.stop[span].tolist(), self.kind[span].tolist(), strict=True)
        return [(start, stop, BlockKind(kind)) for start, stop, kind in runs]

    def row_counts(self, *kinds: BlockKind) -> Int64s:
        """Count blocks of the given kinds (default: both) in each block row, int64[B, H, rows]."""
        width = (self.stop - self.start).astype(np.int64)
        if kinds:
            width *= np.isin(self.kind, kinds)
        total = np.concatenate([[0], np.cumsum(width)])[self.offsets]
        return np.diff(total).reshape(self.shape[:3])

    def counts(self) -> dict[BlockKind, int]:
        """Count the blocks of each kind, over all batches and heads stored."""
        width = (self.stop - self.start).astype(np.int64)
        full = int(width[self.kind == BlockKind.FULL].sum())
        partial = int(width.sum()) - full
        batch, heads, rows, cols = self.shape
        empty = batch * heads * rows * cols - partial - full
        return {BlockKind.EMPTY: empty, BlockKind.PARTIAL: partial, BlockKind.FULL: full}

    @property
    def nbytes(self) -> int:
        """Bytes the arrays take."""
        return self.offsets.nbytes + self.start.nbytes + self.stop.nbytes + self.kind.nbytes

    def check(self) -> None:
        """Assert every invariant the class docstring states."""
        batch, heads, rows, cols = self.shape
        count = len(self.start)
        assert self.offsets.dtype == np.int64, "offsets are int64"
        assert self.offsets.shape == (batch * heads * rows + 1,), "one offset a row, and one more"
        assert self.offsets[0] == 0, "offsets begin with 0"
        assert self.offsets[-1] == count, "offsets end with the number of runs"
        assert (np.diff(self.offsets) >= 0).all(), "offsets never descend"
        assert self.start.dtype == self.stop.dtype == np.int32, "columns are int32"
        assert self.kind.dtype == np.uint8, "kinds are uint8"
        assert self.stop.shape == self.kind.shape == (count,), "the arrays are parallel"
        assert (self.start >= 0).all(), "columns are not negative"
        assert (self.start < self.stop).all(), "no run is empty"
        assert (self.stop <= cols).all(), "runs end inside the table"
        assert np.isin(self.kind, (BlockKind.PARTIAL, BlockKind.FULL)).all(), "runs are PARTIAL or FULL"
        number = self.row_numbers()
        same_row = number[1:] == number[:-1]
        gap = self.start[1:] - self.stop[:-1]
        assert (gap[same_row] >= 0).all(), "runs of a row ascend and are disjoint"
        assert (self.kind[1:] != self.kind[:-1])[same_row & (gap == 0)].all(), "touching runs differ in kind"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Runs):
            return NotImplemented
        return self.shape == other.shape and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(self._arrays(), other._arrays(), strict=True)
        )

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.offsets, self.start, self.stop, self.kind

    def __repr__(self) -> str:
        blocks = ", ".join(f"{count:,} {kind.name.lower()}" for kind, count in self.counts().items())
        size = "×".join(str(extent) for extent in self.shape)
        return f"Runs({size} blocks: {blocks}; {len(self.start):,} runs)"


@dataclass(frozen=True)
class _Changes:
    """Where a row of blocks differs from the one above: parallel arrays, one entry a column range."""

    line: Int64s  # (b * H + h) * (rows + 1) + i: row i against row i - 1, up to i = rows, where all runs end
    left: Int64s  # first column that differs
    right: Int64s  # column after the last
    before: Kinds  # kind in row i - 1
    after: Kinds  # kind in row i, another one
