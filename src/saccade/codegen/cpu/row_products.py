"""Products with rows of keys and values that are read where they lie, each once.

    scores = Q·K    dot products along D: `KeyProduct`, for some rows and keys at once
    acc += P·V      sums along the keys: a `TileProduct` whose vectors `value_steps` loads

In the class of bfloat16 pairs a row of keys is pairs as it stands; two rows of values are interleaved, which
leaves the columns of the accumulator in another order until `ordered` puts them right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from llvmlite import ir

from saccade.codegen.cpu.decode_tiling import DecodeTiling
from saccade.codegen.cpu.emitter import BF16, I16, I32, Emitter, Value
from saccade.codegen.cpu.row_vectors import halves, pairs_along, vector_of_row
from saccade.codegen.cpu.tile_product import Right

__all__ = ["KeyProduct", "ordered", "prefetch_row", "value_steps"]

_UNROLLED = 8  # vectors of a row up to which a dot product is no loop
_TURN = 4  # vectors that a turn of the loop takes
_LINE = 64  # bytes of a cache line
_SECOND_LEVEL = 2  # llvm.prefetch: 3 is the nearest cache, 0 none
_QUARTER = 4  # words that an instruction interleaves without crossing over


@final
@dataclass(frozen=True)
class KeyProduct:
    """Scores of `product_rows` rows with `dot_keys` keys.

    Attributes:
        tiling: The sizes.
    """

    tiling: DecodeTiling

    def emit(self, e: Emitter, queries: Value, keys: Sequence[Value], scores: Value) -> None:
        """Emit them.

        Args:
            e: The function.
            queries: Address of the first row's words.
            keys: Addresses of the keys.
            scores: Address of the first row's score with the first key.
        """
        tiling, head_dim = self.tiling, self.tiling.spec.key.head_dim
        sums = [e.splat(e.real(0.0))] * (tiling.product_rows * len(keys))
        looped = 0
        if tiling.dim_vectors > _UNROLLED:
            looped = head_dim // tiling.elements // _TURN * _TURN
            with e.loop(0, looped, _TURN, sums) as loop:
                sums = loop.values
                for step in range(_TURN):
                    place = e.builder.add(loop.index, e.whole(step))
                    sums = self._step(e, queries, keys, place, tiling.elements, sums)
                loop.hand_over(sums)
            sums = loop.results
        for step in range(looped, tiling.dim_vectors):
            held = head_dim - step * tiling.elements
            sums = self._step(e, queries, keys, e.whole(step), held, sums)
        self._store(e, sums, len(keys), scores)

    def _step(
        self, e: Emitter, queries: Value, keys: Sequence[Value], place: Value, held: int, sums: list[Value]
    ) -> list[Value]:
        """Add the products of one vector of every row and key."""
        tiling = self.tiling
        stored = tiling.spec.key.dtype
        offset = e.builder.mul(place, e.whole(tiling.elements * stored.itemsize))
        if tiling.pairs:
            right = [_as_pairs(e, pairs_along(e, e.at(key, offset), held)) for key in keys]
        else:
            right = [vector_of_row(e, e.at(key, offset), stored, held) for key in keys]
        following = []
        for row in range(tiling.product_rows):
            at = e.at(queries, row * tiling.query_row)
            at = e.at(at, e.builder.mul(place, e.whole(tiling.vector)))
            left = _as_pairs(e, e.load_vector(at, I32)) if tiling.pairs else e.load_vector(at)
            for number, key in enumerate(right):
                total = sums[row * len(keys) + number]
                if tiling.pairs:
                    args = [total, left, key]
                    following.append(e.call("llvm.x86.avx512bf16.dpbf16ps.512", total.type, args))
                else:
                    following.append(e.fma(left, key, total))
        return following

    def _store(self, e: Emitter, sums: list[Value], keys: int, scores: Value) -> None:
        """Add up each sum's lanes and store the scores, row by row."""
        tiling = self.tiling
        padded = sums + [sums[0]] * (-len(sums) % e.lanes)
        totals = [_lane_sums(e, padded[first : first + e.lanes]) for first in range(0, len(padded), e.lanes)]
        for row in range(tiling.product_rows):
            number, lane = divmod(row * keys, e.lanes)
            order = ir.Constant(ir.VectorType(I32, keys), list(range(lane, lane + keys)))
            part = e.builder.shuffle_vector(totals[number], totals[number], order)
            e.store(part, e.at(scores, row * tiling.score_row))


def value_steps(
    e: Emitter,
    tiling: DecodeTiling,
    row_at: Callable[[Value], Value],
    first: Value,
    offset: Value,
    held: int,
) -> Right:
    """Return what loads the vectors of a step of the product with the values.

    Args:
        e: The function.
        tiling: The sizes.
        row_at: From a column to the address of its value's row.
        first: int64, the column of step 0.
        offset: int64, bytes of the row before the slice.
        held: Elements of the row in the slice.
    """
    stored = tiling.spec.key.dtype
    parts = range(0, held, tiling.elements)

    def load(turn: Value, step: int) -> list[Value]:
        column = e.builder.add(first, e.builder.mul(turn, e.whole(tiling.step_keys)))
        column = e.builder.add(column, e.whole(step * tiling.step_keys))
        rows = [row_at(e.builder.add(column, e.whole(key))) for key in range(tiling.step_keys)]
        vectors = []
        for part in parts:
            places = [e.at(e.at(row, offset), part * stored.itemsize) for row in rows]
            if tiling.pairs:
                vectors += _interleaved(e, places, held - part)
            else:
                vectors.append(vector_of_row(e, places[0], stored, held - part))
        return vectors

    return load


def ordered(e: Emitter, tiling: DecodeTiling, vectors: Sequence[Value]) -> list[Value]:
    """Return the vectors of a row of the accumulator in the order of its columns."""
    if not tiling.pairs:
        return list(vectors)
    # Lane l of the low and the high vector is column 8·(l // 4) + l % 4, and 4 more.
    order = []
    for column in range(2 * e.lanes):
        eighth, place = divmod(column, 2 * _QUARTER)
        high, lane = divmod(place, _QUARTER)
        order.append(high * e.lanes + eighth * _QUARTER + lane)
    return [
        e.shuffled(low, order[first : first + e.lanes], upper)
        for low, upper in zip(vectors[::2], vectors[1::2], strict=True)
        for first in (0, e.lanes)
    ]


def prefetch_row(e: Emitter, row: Value, size: int) -> None:
    """Ask for so many bytes of a row to be brought into the second-level cache: the first is too small."""
    for offset in range(0, size, _LINE):
        args = [e.at(row, offset), I32(0), I32(_SECOND_LEVEL), I32(1)]
        e.call("llvm.prefetch.p0", ir.VoidType(), args)


def _interleaved(e: Emitter, places: Sequence[Value], held: int) -> list[Value]:
    """Pairs of two rows' elements: those of the lower half of each eighth, and of the upper."""
    count = 2 * e.lanes
    first, second = (halves(e, place, ir.VectorType(I16, count), held) for place in places)
    vectors = []
    for start in (0, _QUARTER):
        order = []
        for eighth in range(0, count, 2 * _QUARTER):
            for lane in range(eighth + start, eighth + start + _QUARTER):
                order += [lane, count + lane]
        lanes = ir.Constant(ir.VectorType(I32, count), order)
        vectors.append(_as_pairs(e, e.builder.shuffle_vector(first, second, lanes)))
    return vectors


def _lane_sums(e: Emitter, vectors: Sequence[Value]) -> Value:
    """The vector whose lane i is the sum of the lanes of vector i: a transposition that adds as it goes."""
    part = e.lanes
    while part > 1:
        half, below = part // 2, len(vectors) // 2
        kept = [lane + (e.lanes if lane % part >= half else 0) for lane in range(e.lanes)]
        moved = [lane + half if lane % part < half else e.lanes + lane - half for lane in range(e.lanes)]
        vectors = [
            e.binary("fadd", e.shuffled(low, kept, high), e.shuffled(low, moved, high))
            for low, high in zip(vectors[:below], vectors[below:], strict=True)
        ]
        part = half
    return vectors[0]


def _as_pairs(e: Emitter, vector: Value) -> Value:
    return e.builder.bitcast(vector, ir.VectorType(BF16, 2 * e.lanes))
