"""The dropout stream: which attention weights are kept, the same for every engine and tile size.

Philox4x32 with 7 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011)
is a function of a key, the seed, and a counter, the place in the score matrix. One call gives 128 bits for
eight keys: of its eight 16-bit halves, least significant first, number `(kv_idx // 16) % 8` decides for the
key at `kv_idx`.

    key     = (seed mod 2**32, seed // 2**32)
    counter = (q_idx, 16 * (kv_idx // 128) + kv_idx % 16, b * Hq + h, 0)
    keep iff half >= round(65536 * p)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saccade.errors import ArgumentError

ROUNDS = 7

Words = npt.NDArray[np.uint64]  # each element below 2**32

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as fractions of 2**32
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_RESOLUTION = 65536


def philox4x32(counter: Sequence[Words], key: tuple[int, int], rounds: int = ROUNDS) -> Words:
    """Encrypt counters with Philox4x32.

    Args:
        counter: Four uint64 arrays of 32-bit words, broadcasting together.
        key: Two 32-bit words.
        rounds: 7 for this library's stream; 10 in the paper's published answers.

    Returns:
        uint64 [4, ...]: four 32-bit words for each counter.

    Example:
        >>> zero = np.zeros((), np.uint64)
        >>> [f"{word:08x}" for word in philox4x32((zero, zero, zero, zero), (0, 0), rounds=10).tolist()]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    x0, x1, x2, x3 = np.broadcast_arrays(*counter)
    k0, k1 = key
    first, second = (np.uint64(multiplier) for multiplier in MULTIPLIERS)
    for _ in range(rounds):
        product0, product1 = x0 * first, x2 * second
        x0 = (product1 >> _WORD) ^ x1 ^ np.uint64(k0)
        x2 = (product0 >> _WORD) ^ x3 ^ np.uint64(k1)
        x1, x3 = product1 & _LOW, product0 & _LOW
        k0 = (k0 + KEY_STEPS[0]) % 2**32
        k1 = (k1 + KEY_STEPS[1]) % 2**32
    return np.stack([x0, x1, x2, x3])


def drop_threshold(p: float) -> int:
    """The smallest 16-bit half that keeps a weight: round(65536 * p).

    Raises:
        ArgumentError: If p is no probability.
    """
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(
            f"dropout_p is a probability in [0, 1]; got dropout_p={p}: give the part of weights to drop"
        )
    return round(_RESOLUTION * p)


def keep_rate(p: float) -> float:
    """The exact part of weights kept; kept weights are divided by it.

    Args:
        p: The probability to drop, in [0, 1]. It is realised in steps of 1/65536.

    Raises:
        ArgumentError: If p is no probability.

    Example:
        >>> keep_rate(0.25)
        0.75
    """
    return 1.0 - drop_threshold(p) / _RESOLUTION


def keep_mask(
    seed: int, p: float, b_h: npt.ArrayLike, q_idx: npt.ArrayLike, kv_idx: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Say which weights are kept.

    Args:
        seed: 64 bits; a negative seed stands for the same bits unsigned.
        p: The probability to drop, in [0, 1].
        b_h: `b * Hq + h` of each weight, int.
        q_idx: Its query position, int.
        kv_idx: Its key position, int; the three broadcast together.

    Returns:
        bool, of their common shape: True where the weight is kept.

    Raises:
        ArgumentError: If p is no probability.

    Example:
        >>> keep_mask(seed=1, p=0.5, b_h=0, q_idx=np.arange(2)[:, None], kv_idx=np.arange(4)).shape
        (2, 4)
    """
    threshold = drop_threshold(p)
    rows, queries, keys = (np.asarray(index, dtype=np.int64) for index in (b_h, q_idx, kv_idx))
    column = 16 * (keys // 128) + keys % 16
    words = [(index & 0xFFFFFFFF).astype(np.uint64) for index in (queries, column, rows)]
    bits = philox4x32([*words, np.zeros((), np.uint64)], (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    half = np.broadcast_to((keys // 16) % 8, bits.shape[1:])
    word = np.take_along_axis(bits, half[None] // 2, axis=0)[0]
    value = (word >> (np.uint64(16) * (half % 2).astype(np.uint64))) & np.uint64(0xFFFF)
    return np.asarray(value >= threshold)
