"""Where two masks part: how many pairs, the first of them, and a picture of its neighbourhood.

Two BlockMasks of one block size are compared by runs: blocks that are full or empty on both sides are settled
without a look at their pairs. Everything else is compared a bounded rectangle at a time, so memory never
grows with Q × K.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.runs import BlockKind
from saccade.block_mask.snapshot import is_same_program
from saccade.errors import MaskMismatchError
from saccade.testing.sides import BlockSide, MaskLike, Side, read_sides

__all__ = ["MaskDifference", "assert_same_mask", "compare_masks"]

Pair: TypeAlias = tuple[int, int, int, int]

_PIECE = 1 << 10  # largest side of a rectangle compared at once
_STRIP_PAIRS = 1 << 22  # pairs of a strip of rows compared at once
_ROWS, _COLUMNS = 4, 16  # what the picture shows on either side of the first pair


@final
@dataclass(frozen=True)
class MaskDifference:
    """The outcome of a comparison; its text tells it to people.

    Attributes:
        labels: What the masks called a and b are.
        shape: B, H, Q and K that they were compared at.
        only_a: Pairs that a shows and b hides.
        only_b: Pairs that b shows and a hides.
        first: The first differing pair `(b, h, q_idx, kv_idx)`, in that order of significance; None if equal.
        first_seen_by: "a" or "b": who shows it; "" if equal.
        picture: The pairs around it as text; "" if equal.
    """

    labels: tuple[str, str]
    shape: tuple[int, int, int, int]
    only_a: int = 0
    only_b: int = 0
    first: Pair | None = None
    first_seen_by: str = ""
    picture: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether every pair is the same."""
        return self.first is None

    @property
    def count(self) -> int:
        """How many pairs differ, over all batches and heads."""
        return self.only_a + self.only_b

    @property
    def pairs(self) -> int:
        """How many pairs were compared, B · H · Q · K."""
        batch, heads, q_len, kv_len = self.shape
        return batch * heads * q_len * kv_len

    def __str__(self) -> str:
        if self.first is None:
            return f"the masks are equal in all {self.pairs:,} pairs"
        place = ", ".join(
            f"{name}={value}" for name, value in zip(("b", "h", "q_idx", "kv_idx"), self.first, strict=True)
        )
        other = "b" if self.first_seen_by == "a" else "a"
        summary = (
            f"the masks differ in {self.count:,} of {self.pairs:,} pairs, "
            f"first at {place}, which {self.first_seen_by} shows and {other} hides"
        )
        return "\n".join(
            (
                summary,
                f"  a: {self.labels[0]}, alone in showing {self.only_a:,}",
                f"  b: {self.labels[1]}, alone in showing {self.only_b:,}",
                self.picture,
            )
        )


def compare_masks(
    a: MaskLike,
    b: MaskLike,
    q_len: int | None = None,
    kv_len: int | None = None,
    *,
    batch: int | None = None,
    heads: int | None = None,
) -> MaskDifference:
    """Compare two masks pair by pair, in bounded memory.

    A BlockMask, ours or torch's, shows a pair where its block is full, or partial and its mod True. A bool
    tensor shows the pairs that are True. A floating tensor is additive, as scaled_dot_product_attention takes
    it: an entry of `finfo(dtype).min / 2` or less hides its pair, any other shows it. Axes of size 1 of a
    tensor, and batches and heads that a mask does not depend on, serve all.

    Args:
        a: A mask_mod, `Program`, BlockMask, torch BlockMask, or tensor `[Q, K]` or `[B, H, Q, K]`.
        b: The other, in any of these forms.
        q_len: Queries; None where a mask has a length of its own.
        kv_len: Keys, likewise.
        batch: Batch size; None for the masks' own, or 1.
        heads: Query heads, likewise.

    Returns:
        How many pairs differ, and the first of them.

    Raises:
        ModError: A mask is a score_mod, a factory passed uncalled, or no mask at all.
        TraceError: A mod cannot be read as a program.
        ShapeError: A tensor has other than 2 or 4 axes, or sizes do not fit each other.
        DTypeError: A tensor is neither bool nor floating.
        MaskAxisError: A mod reads `b` or `h`, and nothing says how many there are.
        ArgumentError: Nothing says how many queries or keys there are, or a size is negative.
        ArgumentTypeError: A size is not an integer.
        StaleMaskError: A tensor that a BlockMask was made from has changed.

    Example:
        >>> from saccade.masks import causal, sliding_window
        >>> found = compare_masks(causal, sliding_window(3), 6, 6)
        >>> found.first, found.only_a, found.only_b
        ((0, 0, 3, 0), 6, 0)
    """
    first, second, shape = read_sides(a, b, (batch, heads, q_len, kv_len))
    tally = _Tally()
    if isinstance(first, BlockSide) and isinstance(second, BlockSide) and _same_grid(first, second):
        _compare_runs(first, second, shape, tally)
    else:
        _compare_strips(first, second, shape, tally)
    stored = _stored(first, second)
    repeats = (shape[0] // stored[0]) * (shape[1] // stored[1])
    labels = (first.label, second.label)
    if tally.first is None:
        return MaskDifference(labels, shape)
    return MaskDifference(
        labels,
        shape,
        only_a=tally.only_a * repeats,
        only_b=tally.only_b * repeats,
        first=tally.first,
        first_seen_by=tally.seen_by,
        picture=_picture(first, second, shape, tally.first),
    )


def assert_same_mask(
    a: MaskLike,
    b: MaskLike,
    q_len: int | None = None,
    kv_len: int | None = None,
    *,
    batch: int | None = None,
    heads: int | None = None,
) -> None:
    """Check that two masks show the same pairs; for tests.

    Args:
        a: A mask in any form that `compare_masks` takes.
        b: The other.
        q_len: Queries; None where a mask has a length of its own.
        kv_len: Keys, likewise.
        batch: Batch size; None for the masks' own, or 1.
        heads: Query heads, likewise.

    Raises:
        MaskMismatchError: They differ. The message tells the first differing pair, how many there are, who
            shows what, and draws the neighbourhood.
        SaccadeError: A mask cannot be read, or sizes do not fit; see `compare_masks`.

    Example:
        >>> import torch
        >>> from saccade.masks import causal
        >>> assert_same_mask(causal, torch.ones(5, 7, dtype=torch.bool).tril())
        >>> assert_same_mask(causal, lambda b, h, q_idx, kv_idx: q_idx > kv_idx, 3, 4)
        Traceback (most recent call last):
        saccade.errors.MaskMismatchError: the masks differ in 3 of 12 pairs, first at b=0, h=0, q_idx=0,
        kv_idx=0, which a shows and b hides
          a: causal, alone in showing 3
          b: <lambda>, alone in showing 0
                v
          q 0 > a···
          q 1   █a··
          q 2   ██a·
          keys 0 to 3; █ both show, a or b alone shows, · both hide
    """
    __tracebackhide__ = True
    found = compare_masks(a, b, q_len, kv_len, batch=batch, heads=heads)
    if not found.is_equal:
        raise MaskMismatchError(str(found))


@dataclass(eq=False)
class _Tally:
    """What was found so far, stored batches and heads counted once."""

    only_a: int = 0
    only_b: int = 0
    first: Pair | None = None
    seen_by: str = field(default="")

    def add(self, place: Pair, visible_a: npt.NDArray[np.bool_], visible_b: npt.NDArray[np.bool_]) -> None:
        """Count a rectangle whose first pair is at `place`."""
        differs = visible_a != visible_b
        count = int(np.count_nonzero(differs))
        if not count:
            return
        only_a = int(np.count_nonzero(differs & visible_a))
        self.only_a += only_a
        self.only_b += count - only_a
        row, column = divmod(int(differs.argmax()), differs.shape[1])
        b, h, top, left = place
        self._note((b, h, top + row, left + column), bool(visible_a[row, column]))

    def add_whole(self, place: Pair, count: int, *, a_shows: bool) -> None:
        """Count a rectangle of `count` pairs that one mask shows whole and the other hides whole."""
        self.only_a += count * a_shows
        self.only_b += count * (not a_shows)
        self._note(place, a_shows)

    def _note(self, pair: Pair, a_shows: bool) -> None:
        if self.first is None or pair < self.first:
            self.first = pair
            self.seen_by = "a" if a_shows else "b"


def _stored(first: Side, second: Side) -> tuple[int, int]:
    """Batches and heads in which something can differ."""
    return max(first.stored[0], second.stored[0]), max(first.stored[1], second.stored[1])


def _same_grid(first: BlockSide, second: BlockSide) -> bool:
    return first.mask.BLOCK_SIZE == second.mask.BLOCK_SIZE


def _compare_strips(first: Side, second: Side, shape: tuple[int, int, int, int], tally: _Tally) -> None:
    """Compare a strip of rows at a time."""
    _, _, q_len, kv_len = shape
    height = max(1, _STRIP_PAIRS // max(kv_len, 1))
    for b, h in np.ndindex(_stored(first, second)):
        for rows in _cut(range(q_len), height):
            for keys in _cut(range(kv_len), _STRIP_PAIRS):
                seen_a, seen_b = (side.window(b, h, rows, keys) for side in (first, second))
                tally.add((b, h, rows.start, keys.start), seen_a, seen_b)


def _compare_runs(
    first: BlockSide, second: BlockSide, shape: tuple[int, int, int, int], tally: _Tally
) -> None:
    """Compare by runs; look at pairs only where one side's blocks are partial."""
    same_rule = is_same_program(first.mask.program, second.mask.program)
    if same_rule and first.mask.runs == second.mask.runs:
        return
    mask = first.mask
    rows, columns = mask.runs.shape[2:]
    for b, h in np.ndindex(_stored(first, second)):
        for row in range(rows):
            queries = range(row * mask.q_block, min((row + 1) * mask.q_block, shape[2]))
            mine, yours = (
                side.mask.runs.row(b % side.stored[0], h % side.stored[1], row) for side in (first, second)
            )
            for left, right, kind_a, kind_b in _segments(mine, yours, columns):
                if kind_a is kind_b and (kind_a is not BlockKind.PARTIAL or same_rule):
                    continue
                keys = range(left * mask.kv_block, min(right * mask.kv_block, shape[3]))
                if BlockKind.PARTIAL not in (kind_a, kind_b):
                    place = (b, h, queries.start, keys.start)
                    tally.add_whole(place, len(queries) * len(keys), a_shows=kind_a is BlockKind.FULL)
                    continue
                for q, kv in ((q, kv) for q in _cut(queries, _PIECE) for kv in _cut(keys, _PIECE)):
                    seen_a, seen_b = first.within(kind_a, b, h, q, kv), second.within(kind_b, b, h, q, kv)
                    tally.add((b, h, q.start, kv.start), seen_a, seen_b)


def _segments(
    mine: Sequence[tuple[int, int, BlockKind]], yours: Sequence[tuple[int, int, BlockKind]], columns: int
) -> Iterator[tuple[int, int, BlockKind, BlockKind]]:
    """Cut a block row where the kind changes on either side: `(left, right, kind of a, kind of b)`."""
    edges = sorted({0, columns, *(edge for run in (*mine, *yours) for edge in run[:2])})
    for left, right in pairwise(edges):
        yield left, right, _kind_at(mine, left), _kind_at(yours, left)


def _kind_at(runs: Sequence[tuple[int, int, BlockKind]], column: int) -> BlockKind:
    at = bisect_right(runs, column, key=lambda run: run[0]) - 1
    return runs[at][2] if at >= 0 and column < runs[at][1] else BlockKind.EMPTY


def _cut(whole: range, size: int) -> Iterator[range]:
    """Cut a range into parts of at most that size."""
    for start in range(whole.start, whole.stop, size):
        yield range(start, min(start + size, whole.stop))


def _picture(first: Side, second: Side, shape: tuple[int, int, int, int], pair: Pair) -> str:
    """Draw the pairs around one of them, a marker at its row and column."""
    b, h, q_idx, kv_idx = pair
    rows = range(max(0, q_idx - _ROWS), min(shape[2], q_idx + _ROWS + 1))
    keys = range(max(0, kv_idx - _COLUMNS), min(shape[3], kv_idx + _COLUMNS + 1))
    seen_a, seen_b = (side.window(b, h, rows, keys) for side in (first, second))
    cells = np.array(["·", "a", "b", "█"])[seen_a + 2 * seen_b.astype(np.int64)]
    width = len(str(rows[-1]))
    lines = [f"{' ' * (7 + width)}{' ' * (kv_idx - keys.start)}v"]
    lines += [
        f"  q {row:>{width}} {'>' if row == q_idx else ' '} {''.join(line)}"
        for row, line in zip(rows, cells, strict=True)
    ]
    lines.append(f"  keys {keys.start} to {keys[-1]}; █ both show, a or b alone shows, · both hide")
    return "\n".join(lines)
