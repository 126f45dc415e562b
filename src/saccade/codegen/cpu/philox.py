"""The keep bits of the dropout stream, on vectors; `ir.dropout` says what the stream is.

One evaluation of Philox gives 128 bits for a counter, a 16-bit half for each of eight groups of 16 keys. So
the 16 counters of 128 aligned keys decide for all of them, and a row is asked for 128 keys at a time.
"""

from __future__ import annotations

from saccade.codegen.cpu.emitter import I32, I64, Emitter, Value
from saccade.codegen.cpu.vector_math.real import Whole
from saccade.ir.dropout import KEY_STEPS, MULTIPLIERS, ROUNDS

__all__ = ["KEYS", "keep_lanes"]

KEYS = 128
"""Keys that one call decides for."""

_COUNTERS = 16
_MASK = (1 << 32) - 1

# A word is an i64 of which the low 32 bits count, so that a product is one instruction (vpmuludq). What is
# the same for a whole row stays a scalar until it meets the counters.
_Words = tuple[Whole, Whole, Whole, Whole]


def keep_lanes(
    e: Emitter, seed: Value, threshold: Value, b_h: Value, q_idx: Value, first_key: Value
) -> list[Value]:
    """Return which weights of one row are kept, over 128 aligned keys.

    Args:
        e: The function under construction.
        seed: i64, the stream's seed.
        threshold: i64, 0 to 65536: a weight is kept if its half is at least this.
        b_h: i64, b * Hq + h.
        q_idx: i64, the row.
        first_key: i64, a multiple of 128.

    Returns:
        128 / W masks <W x i1>, in the order of the keys.
    """
    column = Whole(e, first_key) >> 3  # 16 * (first_key / 128)
    key = (Whole(e, seed), Whole(e, seed) >> 32)
    bound = e.splat(e.builder.trunc(threshold, I32))
    pieces = []  # for each W of the counters their eight halves
    for first in range(0, _COUNTERS, e.lanes):
        lanes = e.builder.add(e.lane_numbers(I64), e.whole(first, e.vector(I64)))
        counter = (Whole(e, q_idx), column + Whole(e, lanes), Whole(e, b_h), Whole(e, e.whole(0)))
        pieces.append([half for word in _encrypted(counter, key) for half in _halves(word)])
    return [e.compare(">=", piece[group], bound) for group in range(KEYS // _COUNTERS) for piece in pieces]


def _encrypted(counter: _Words, key: tuple[Whole, Whole]) -> _Words:
    """Philox4x32; its state's upper bits are arbitrary."""
    x0, x1, x2, x3 = counter
    for turn in range(ROUNDS):
        k0, k1 = (word + turn * step for word, step in zip(key, KEY_STEPS, strict=True))
        product0, product1 = ((x & _MASK) * m for x, m in zip((x0, x2), MULTIPLIERS, strict=True))
        x0, x2 = (product1 >> 32) ^ k0 ^ x1, (product0 >> 32) ^ k1 ^ x3
        x1, x3 = product1, product0
    return x0, x1, x2, x3


def _halves(word: Whole) -> tuple[Value, Value]:
    """The two 16-bit halves of words, the low one first, as i32."""
    e = word.emitter
    narrow = Whole(e, e.builder.trunc(e.splat(word.value), e.vector(I32)))
    return (narrow & 0xFFFF).value, (narrow >> 16).value
