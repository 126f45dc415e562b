"""Captured tensors: the least and greatest element over ranges of indices.

Each captured tensor is summarised when first asked about, once per set of dimensions that move with q_idx or
kv_idx; the other dimensions are points and select a row of the summary. One moving dimension: exact, by two
lookups where the rows are sorted, by a sparse table over cells of 16 elements and the ragged ends themselves
elsewhere. Two: exact for a few elements, and from there a pyramid of cells, which answers with the cells that
cover the range. More: the whole row. A summary takes at most a few times the tensor's memory.
"""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from saccade.analysis.interval import Array, Bools, Number, Truth, Value, either, where_any
from saccade.ir.dtype import DType

Int64s = npt.NDArray[np.int64]

_CELL = 16  # elements of a cell along each moving dimension
_FEW = 4  # elements along each of two moving dimensions that are read one by one
_MOST_CELLS = 1 << 17  # of a sparse table; cells grow beyond


class _Summary(Protocol):
    """Range extrema of rows."""

    def extrema(self, row: Int64s, ranges: list[tuple[Int64s, Int64s]]) -> tuple[Array, Array]:
        """Bounds over ``first..last`` (inclusive, in range) of each moving dimension of each row, all [N]."""


@final
class CapturedRanges:
    """Range extrema of one captured tensor.

    Args:
        array: The captured values, of any rank (bfloat16 as float32).
        dtype: The value type a LOAD of it has.
    """

    def __init__(self, array: npt.ArrayLike, dtype: DType) -> None:
        values = np.asarray(array)
        if values.dtype == np.bool_:
            values = values.view(np.uint8)
        elif values.dtype == np.float16:
            values = values.astype(np.float32)
        self._values = values
        self._dtype = dtype
        self._summaries: dict[tuple[int, ...], _Summary] = {}
        self._holds_nan = values.dtype.kind == "f" and bool(np.isnan(values).any())

    def bounds(self, indices: list[Number], moving: tuple[int, ...]) -> Value:
        """Describe the element at `indices`.

        Args:
            indices: One integer description a dimension.
            moving: The dimensions whose index is not one known number on each rectangle, ascending; at least
                one, since a lookup without is evaluated exactly.

        Returns:
            What the element may be; poison where an index may leave ``-n <= i < n``.
        """
        poison = either(*(index.poison for index in indices))
        if self._values.size == 0:
            shape = np.broadcast_shapes(*(np.shape(index.lo) for index in indices))
            return self._described(np.zeros(shape), np.zeros(shape), np.ones(shape, bool))
        row: Any = np.int64(0)
        ranges = []
        for dim, (index, size) in enumerate(zip(indices, self._values.shape, strict=True)):
            first, last, outside = _wrapped(index, size)
            poison = either(poison, outside)
            if dim in moving:
                ranges.append((first, last))
            else:
                row = row * size + first
        lo, hi = self._summary(moving).extrema(row, ranges)
        return self._described(lo, hi, poison)

    def _described(self, lo: Array, hi: Array, poison: Bools | None) -> Value:
        if self._dtype is DType.BOOL:
            return Truth(hi != 0, lo == 0, poison)
        if self._dtype is DType.INT64:
            return Number(lo.astype(np.int64), hi.astype(np.int64), None, poison)
        nan = np.broadcast_to(np.True_, np.shape(lo)) if self._holds_nan else None
        # Extrema over nothing but NaN are NaN; no number lies in such a range, so any interval will do.
        empty = np.isnan(lo)
        kind = lo.dtype.type
        return Number(np.where(empty, kind(-np.inf), lo), np.where(empty, kind(np.inf), hi), nan, poison)

    def _summary(self, moving: tuple[int, ...]) -> _Summary:
        summary = self._summaries.get(moving)
        if summary is None:
            values, rank = self._values, self._values.ndim
            steady = [dim for dim in range(rank) if dim not in moving]
            rows = np.ascontiguousarray(values.transpose(*steady, *moving))
            rows = rows.reshape(-1, *(values.shape[dim] for dim in moving))
            summary = self._summaries[moving] = _summarise(rows, self._holds_nan)
        return summary


def _wrapped(index: Number, size: int) -> tuple[Int64s, Int64s, Bools | None]:
    """An index range counted from the start, clipped to the tensor, and where it may leave it."""
    lo, hi = index.lo, index.hi
    outside = where_any((lo < -size) | (hi >= size))
    if outside is None and not (lo < 0).any():
        return lo, hi, None
    low, high = np.clip(lo, -size, size - 1), np.clip(hi, -size, size - 1)
    # From negative to positive the range wraps around both ends.
    around = (low < 0) & (high >= 0)
    first = np.where(around, 0, np.where(low < 0, low + size, low))
    last = np.where(around, size - 1, np.where(high < 0, high + size, high))
    return first, last, outside


def _summarise(rows: Array, holds_nan: bool) -> _Summary:
    """The summary of rows of values: [R, n], [R, n, m] or more dimensions."""
    if rows.ndim == 2:
        if not holds_nan:
            before, after = rows[:, :-1], rows[:, 1:]
            if (before <= after).all():
                return _Sorted(rows, descends=False)
            if (before >= after).all():
                return _Sorted(rows, descends=True)
        return _Cells(rows)
    if rows.ndim == 3:
        return _Pyramid(rows)
    axes = tuple(range(1, rows.ndim))
    return _Whole(np.fmin.reduce(rows, axis=axes), np.fmax.reduce(rows, axis=axes))


@final
class _Whole:
    """The extrema of whole rows."""

    def __init__(self, least: Array, most: Array) -> None:
        self._least, self._most = least, most  # [R]

    def extrema(self, row: Int64s, ranges: list[tuple[Int64s, Int64s]]) -> tuple[Array, Array]:
        return self._least[row], self._most[row]


@final
class _Sorted:
    """Rows that ascend, or that descend: extrema are at the ends of a range."""

    def __init__(self, rows: Array, descends: bool) -> None:
        self._values = rows  # [R, n]
        self._descends = descends

    def extrema(self, row: Int64s, ranges: list[tuple[Int64s, Int64s]]) -> tuple[Array, Array]:
        ((first, last),) = ranges
        at_first, at_last = self._values[row, first], self._values[row, last]
        return (at_last, at_first) if self._descends else (at_first, at_last)


@final
class _Cells:
    """A sparse table over cells of consecutive elements, and the elements for the ends that cut a cell."""

    def __init__(self, rows: Array) -> None:
        count, length = rows.shape
        cell = _CELL
        while count * (-(-length // cell)) > _MOST_CELLS and cell < length:
            cell *= 2
        self._values = rows  # [R, n]
        self._cell = cell
        least, most = _folded(rows, rows, 1, cell)
        self._least, self._most = [least], [most]  # level j: extrema of 2**j cells from each on
        width = 1
        while 2 * width <= self._least[0].shape[1]:
            least, most = self._least[-1], self._most[-1]
            self._least.append(np.fmin(least[:, :-width], least[:, width:]))
            self._most.append(np.fmax(most[:, :-width], most[:, width:]))
            width *= 2

    def extrema(self, row: Int64s, ranges: list[tuple[Int64s, Int64s]]) -> tuple[Array, Array]:
        ((first, last),) = ranges
        row, first, last = (np.atleast_1d(x) for x in np.broadcast_arrays(row, first, last))
        shape = first.shape
        length, cell = self._values.shape[1], self._cell
        begin = -(-first // cell)
        # The last cell of a row may be short; a range to the row's end holds it whole.
        end = np.where(last == length - 1, -(-length // cell), (last + 1) // cell)
        inner = begin < end
        kind = self._values.dtype
        top, bottom = _identities(kind)
        lo, hi = np.full(shape, top, kind), np.full(shape, bottom, kind)
        level = np.frexp(np.maximum(end - begin, 1).astype(np.float64))[1] - 1
        for j in np.unique(level[inner]):
            here = np.flatnonzero(inner & (level == j))
            r, a, z = row[here], begin[here], end[here] - (1 << int(j))
            least, most = self._least[j], self._most[j]
            lo[here] = np.fmin(least[r, a], least[r, z])
            hi[here] = np.fmax(most[r, a], most[r, z])
        head = np.flatnonzero(inner & (first < begin * cell))
        self._include(lo, hi, head, row, first, begin * cell - 1, cell)
        tail = np.flatnonzero(inner & (last >= end * cell))
        self._include(lo, hi, tail, row, end * cell, last, cell)
        short = np.flatnonzero(~inner)
        self._include(lo, hi, short, row, first, last, 2 * cell)
        return lo, hi

    def _include(
        self, lo: Array, hi: Array, where: Int64s, row: Int64s, first: Int64s, last: Int64s, width: int
    ) -> None:
        """Widen the bounds at `where` by the elements first..last, at most `width` of them."""
        at_once = max(1, (1 << 20) // width)
        for begin in range(0, len(where), at_once):
            here = where[begin : begin + at_once]
            column = np.minimum(first[here, None] + np.arange(width), last[here, None])
            values = self._values[row[here, None], column]
            lo[here] = np.fmin(lo[here], np.fmin.reduce(values, axis=1))
            hi[here] = np.fmax(hi[here], np.fmax.reduce(values, axis=1))


def _folded(least: Array, most: Array, axis: int, width: int) -> tuple[Array, Array]:
    """Extrema of each `width` (a power of two) consecutive elements along an axis; the last may be fewer."""
    # Halving runs along contiguous memory, several times faster than reduceat.
    return _halved(np.fmin, least, axis, width), _halved(np.fmax, most, axis, width)


def _halved(join: np.ufunc, values: Array, axis: int, width: int) -> Array:
    values = np.moveaxis(values, axis, 0)
    while width > 1 and len(values) > 1:
        width //= 2
        even, odd = values[0::2], values[1::2]
        joined = np.empty_like(even)
        join(even[: len(odd)], odd, out=joined[: len(odd)])
        joined[len(odd) :] = even[len(odd) :]
        values = joined
    return np.moveaxis(values, 0, axis)


def _identities(kind: np.dtype[Any]) -> tuple[Any, Any]:
    """Values that lose against every element, for minima and for maxima (fmin and fmax ignore NaN)."""
    if kind.kind == "f":
        return np.nan, np.nan
    info = np.iinfo(kind)
    return info.max, info.min


@final
class _Pyramid:
    """Two moving dimensions: cells of 16×16, then 32×32 and so on; at most 3×3 of one level cover a range.

    A range of at most 4×4 is read from the elements: such is a table by blocks, read block by block.
    """

    def __init__(self, rows: Array) -> None:
        self._rows = rows
        least, most = rows, rows
        for axis in (1, 2):
            least, most = _folded(least, most, axis, _CELL)
        self._levels = [(least, most)]  # each [R, cells, cells]
        while max(least.shape[1:]) > 1:
            for axis in (1, 2):
                least, most = _folded(least, most, axis, 2)
            self._levels.append((least, most))

    def extrema(self, row: Int64s, ranges: list[tuple[Int64s, Int64s]]) -> tuple[Array, Array]:
        bounds = [bound for pair in ranges for bound in pair]
        row, top, bottom, left, right = (np.atleast_1d(x) for x in np.broadcast_arrays(row, *bounds))
        extent = np.maximum(bottom - top, right - left) + 1
        # The finest level whose cells are at least half as long as the range, so that three cells cover it.
        level = np.frexp(np.maximum((extent - 1) // (2 * _CELL), 0).astype(np.float64))[1]
        level = np.where(extent <= _FEW, -1, np.minimum(level, len(self._levels) - 1))
        kind = self._rows.dtype
        lo, hi = np.empty(row.shape, kind), np.empty(row.shape, kind)
        for j in np.unique(level):
            here = np.flatnonzero(level == j)
            cell = 1 if j < 0 else _CELL << int(j)
            spans = [x[here] // cell for x in (top, bottom, left, right)]
            lo[here], hi[here] = self._cover(int(j), row[here], *spans)
        return lo, hi

    def _cover(
        self, level: int, row: Int64s, top: Int64s, bottom: Int64s, left: Int64s, right: Int64s
    ) -> tuple[Array, Array]:
        """Extrema of the cells top..bottom × left..right, a few each way; of the elements at level -1."""
        least, most = (self._rows, self._rows) if level < 0 else self._levels[level]
        lo, hi = least[row, top, left], most[row, top, left]
        for down in range(int((bottom - top).max()) + 1):
            line = np.minimum(top + down, bottom)
            for across in range(int((right - left).max()) + 1):
                column = np.minimum(left + across, right)
                lo, hi = np.fmin(lo, least[row, line, column]), np.fmax(hi, most[row, line, column])
        return lo, hi
