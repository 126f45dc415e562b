"""The dropout stream of `ir.dropout` as Triton functions.

Seven rounds of Philox4x32 give 128 bits, which serve eight keys of a query, 16 apart. Where tiles begin on
multiples of their keys, and these divide 128, a tile's words are computed for 16 keys and spread to the
others; anywhere else each pair computes its own. Both keep the same weights.
"""

from __future__ import annotations

from saccade.codegen.triton.spec import TritonSpec, Walk
from saccade.codegen.triton.template import Lines, fill
from saccade.ir.dropout import KEY_STEPS, MULTIPLIERS, ROUNDS

__all__ = ["dropout_functions", "kept_pairs"]

_GROUP = 128  # consecutive keys whose bits come from 16 calls
_LANES = 16


def kept_pairs(spec: TritonSpec, start: str = "start_n", queries: str = "q_idx") -> str:
    """Return which weights [BLOCK_M, BLOCK_N] of a tile are kept.

    The lines around it name `queries` and `heads` (packed: [BLOCK_M]) and `b`.

    Args:
        spec: A kernel with dropout.
        start: The lines' name for the first key.
        queries: Their name for the queries [BLOCK_M, 1].
    """
    function = "kept_together" if _shares_words(spec) else "kept"
    heads = "(b * q_heads + h)"
    return f"{function}({queries}, {start}, {heads}, seed_low, seed_high, keep_threshold)"


def dropout_functions(spec: TritonSpec) -> tuple[str, ...]:
    """Return the texts of the functions that `kept_pairs` calls; none without dropout."""
    if not spec.key.dropout:
        return ()
    return (
        _named(_PHILOX),
        _named("\n".join(_together(spec.tile.keys))) if _shares_words(spec) else _named(_KEPT),
    )


def _shares_words(spec: TritonSpec) -> bool:
    """Whether a tile's random words are computed together."""
    return _GROUP % spec.tile.keys == 0 and (spec.aligned_dropout or spec.walk is not Walk.TABLE)


def _named(text: str) -> str:
    """A text with the stream's constants in it."""
    names = {
        "ROUNDS": str(ROUNDS),
        "GROUP": str(_GROUP),
        "LANES": str(_LANES),
        **{f"MULTIPLIER{n}": f"0x{number:X}" for n, number in enumerate(MULTIPLIERS)},
        **{f"STEP{n}": f"0x{number:X}" for n, number in enumerate(KEY_STEPS)},
    }
    for name, number in names.items():
        text = text.replace(f"@{name}", number)
    return text


_PHILOX = '''\
@triton.jit
def philox(x0, x1, x2, key0, key1):
    """Philox4x32 of the counter (x0, x1, x2, 0): four words."""
    multiplier0 = tl.full([], @MULTIPLIER0, tl.uint32)
    multiplier1 = tl.full([], @MULTIPLIER1, tl.uint32)
    x0, x1, x2, x3 = x0.to(tl.uint32), x1.to(tl.uint32), x2.to(tl.uint32), tl.full([], 0, tl.uint32)
    key0, key1 = key0.to(tl.uint32, bitcast=True), key1.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(@ROUNDS):
        low0, high0 = x0 * multiplier0, tl.umulhi(x0, multiplier0)
        low1, high1 = x2 * multiplier1, tl.umulhi(x2, multiplier1)
        x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
        key0, key1 = key0 + tl.full([], @STEP0, tl.uint32), key1 + tl.full([], @STEP1, tl.uint32)
    return x0, x1, x2, x3
'''

_KEPT = '''\
@triton.jit
def kept(q_idx, start, head, key0, key1, threshold):
    """Which weights of a tile are kept: q_idx [BLOCK_M, 1], keys from `start` on."""
    keys = start + tl.arange(0, BLOCK_N)[None, :]
    w0, w1, w2, w3 = philox(q_idx, keys // @GROUP * @LANES + keys % @LANES, head, key0, key1)
    half = keys // @LANES % 8
    word = tl.where(half < 4, tl.where(half < 2, w0, w1), tl.where(half < 6, w2, w3))
    return ((word >> (half % 2 * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32) >= threshold
'''

_TOGETHER = '''\
@triton.jit
def kept_together(q_idx, start, head, key0, key1, threshold):
    """Which weights of a tile are kept: q_idx [BLOCK_M, 1], BLOCK_N keys from a multiple of BLOCK_N on."""
    keys = start // @GROUP * @LANES + tl.arange(0, @LANES)[None, :]
    w0, w1, w2, w3 = philox(q_idx, keys, head, key0, key1)
    <<spread>>
    return bits.to(tl.int32) >= threshold
'''

_SPREAD = {
    128: """\
bits = tl.join(tl.join(tl.join(w0 & 0xFFFF, w2 & 0xFFFF), tl.join(w1 & 0xFFFF, w3 & 0xFFFF)), \
tl.join(tl.join(w0 >> 16, w2 >> 16), tl.join(w1 >> 16, w3 >> 16)))
bits = bits.permute(0, 2, 3, 4, 1).reshape([BLOCK_M, BLOCK_N])  # half 4i + 2j + k at [:, :, i, j, k]""",
    64: """\
upper = start % @GROUP != 0
w0, w1 = tl.where(upper, w2, w0), tl.where(upper, w3, w1)
bits = tl.join(tl.join(w0 & 0xFFFF, w1 & 0xFFFF), tl.join(w0 >> 16, w1 >> 16))
bits = bits.permute(0, 2, 3, 1).reshape([BLOCK_M, BLOCK_N])  # half 2i + j at [:, :, i, j]""",
    32: """\
half = start % @GROUP // @LANES
word = tl.where(half < 4, tl.where(half < 2, w0, w1), tl.where(half < 6, w2, w3))
bits = tl.join(word & 0xFFFF, word >> 16)
bits = bits.permute(0, 2, 1).reshape([BLOCK_M, BLOCK_N])""",
    16: """\
half = start % @GROUP // @LANES
word = tl.where(half < 4, tl.where(half < 2, w0, w1), tl.where(half < 6, w2, w3))
bits = (word >> (half % 2 * 16).to(tl.uint32)) & 0xFFFF""",
}


def _together(keys: int) -> Lines:
    return fill(_TOGETHER, spread=_SPREAD[keys].splitlines())
