"""Random calls: a family of calls of one kernel or two, as a function of a seed.

Compiling takes longer than most calls, so a family fixes what kernels depend on (programs, dtypes, head
dimensions, tiles, wanted results, instruction set) and draws the rest for each call: lengths, batches, heads,
strides, scale, block masks, values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fuzz.call import Backward, Blocks, Call, Mod, Table
from fuzz.operands import LAYOUTS, LEARNED, VALUES
from ir.strategies import Drawer
from saccade.ir.dtype import DType
from saccade.ir.structure import ModKind
from saccade.ir.text import format_structure

__all__ = ["family"]

T = TypeVar("T")

MASKS = (
    "causal",
    "sliding_window(5)",
    "shift(sliding_window(40), q=K - Q)",
    "shift(causal, q=K - Q)",
    "document(ids(L))",
    "causal & document(ids(L, 20))",
    "~causal | global_tokens(2)",
    "causal ^ local(3, 2)",
    "padding(lengths=torch.arange(B) * 3 + 1)",
    "prefix_lm(torch.arange(B) * 7)",
    "streaming(9, 2)",
    "chunked(16)",
    "dilated_window(9, 6, 3)",
    "dense(normal(Q, K) > 0)",
    "dense(normal(B, H, Q, K) > 0.3)",
    "strided(7)",
    "or_masks()",
)
SCORES = (
    "alibi(H)",
    "softcap(3.0)",
    "softcap(20.0, approximate=True)",
    "bias(normal(H, Q, K))",
    "bias(normal(Q, K).mT.contiguous().mT)",
    "relative_bias(normal(H, 2 * L - 1))",
    "head_scale(normal(H))",
    "distance_decay(torch.sigmoid(normal(H)))",
    "t5_bias(normal(8, H), buckets=8, max_distance=6)",
    "checkerboard",
)
_LENGTHS = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47, 63, 64, 65, 100, 127, 128, 129, 191, 257)
_DIMS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40, 48, 63, 64, 65, 80, 96, 100, 128, 129, 160)
_TILES = (1, 8, 16, 24, 48, 64, 96, 128)
_MOST_PAIRS = 16_000
_MOST_DRAWS = 300  # for a program
_TRIES = 5  # for a program that reads its score
_ALIKE = {  # stored types of one value type
    stored: tuple(other for other in DType if other.value_type is stored.value_type) for stored in DType
}


class Chance:
    """A source of draws from a seed; see `ir.strategies.Source`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def integers(self, low: int, high: int, count: int) -> list[int]:
        return [self.integer(low, high) for _ in range(count)]

    def one_in(self, count: int) -> bool:
        return self.integer(1, count) == 1


class _Bounded(Chance):
    """A source that gives least values after so many draws, by which programs end."""

    def __init__(self, chance: Chance, draws: int) -> None:
        super().__init__(chance.integer(0, 2**62))
        self._left = draws

    def integer(self, low: int, high: int) -> int:
        self._left -= 1
        return super().integer(low, high) if self._left > 0 else low


@dataclass(frozen=True)
class _Frame:
    """What the calls of a family share."""

    call: Call
    block_mod: Mod | None
    has_blocks: bool
    given: bool
    group: int
    few: int  # queries of the short calls


def family(seed: int, calls: int, isas: Sequence[str]) -> list[Call]:
    """The calls of a seed.

    Args:
        seed: Any integer.
        calls: How many.
        isas: Instruction sets to choose from, each as likely.
    """
    chance = Chance(seed)
    frame = _frame(chance, isas)
    return [_member(chance, frame) for _ in range(calls)]


def _frame(chance: Chance, isas: Sequence[str]) -> _Frame:
    dtype = chance.pick(("f32", "f32", "bf16", "bf16", "f16", "f64"))
    dims = (256, 512) if chance.one_in(30) else _DIMS
    precise = DType.FLOAT64 if dtype == "f64" else DType.FLOAT32
    has_blocks = chance.one_in(2)
    given = has_blocks and chance.one_in(2)
    backward = _backward(chance) if chance.one_in(2) else None
    learns = backward is not None
    call = Call(
        lengths=(1, 1),
        dims=(chance.pick(dims), chance.pick(dims)),
        dtype=dtype,
        backward=backward,
        score=_mod(chance, ModKind.SCORE, precise, SCORES, learns=learns) if chance.one_in(2) else None,
        mask=_mod(chance, ModKind.MASK, DType.BOOL, MASKS, learns=learns) if chance.integer(0, 2) else None,
        sinks=chance.pick(("f32", "f16", "f64")) if chance.one_in(4) else None,
        dropout_p=chance.pick((0.1, 0.5, 0.9, 1.0)) if chance.one_in(5) else 0.0,
        aux=(chance.one_in(2) or (backward is not None and backward.grad_lse is not None), chance.one_in(2)),
        tiles=(chance.pick(_TILES), chance.pick(_TILES)) if chance.integer(0, 3) else (None, None),
        threads=chance.pick((1, 2, 2, 3)),
        isa=chance.pick(isas),
    )
    block_mod = _mod(chance, ModKind.MASK, DType.BOOL, MASKS, learns=learns) if has_blocks else None
    return _Frame(call, block_mod, has_blocks, given, chance.pick((1, 1, 2, 3, 4, 8)), chance.integer(1, 8))


def _member(chance: Chance, frame: _Frame) -> Call:
    kv_heads = chance.pick((1, 1, 2, 3))
    q_heads = kv_heads * frame.group
    batch = chance.pick((1, 1, 2, 3))
    # So few queries are decoded, by kernels of different numbers of rows: a family has one of those.
    many = [length for length in _LENGTHS if length == 0 or length * frame.group > 32]
    q_len = frame.few if chance.one_in(3) else chance.pick(many)
    kv_len = chance.pick(_LENGTHS)
    if chance.one_in(12):
        kv_len = chance.integer(200, 900)
    if batch * q_heads * q_len * kv_len > _MOST_PAIRS:
        batch, kv_heads, q_heads = 1, 1, frame.group
        kv_len = min(kv_len, max(_MOST_PAIRS // (q_heads * q_len), 70))
    blocks = None
    if frame.has_blocks and q_len and kv_len:
        size = (chance.pick((1, 3, 8, 13, 16, 64, 128)), chance.pick((1, 3, 8, 13, 16, 64, 128)))
        kinds = chance.integer(0, 2**31) if frame.given else None
        blocks = Blocks(size, frame.block_mod, (chance.one_in(2), chance.one_in(2)), kinds)
    values = "normal" if chance.integer(0, 3) else chance.pick(tuple(VALUES))
    if frame.call.dtype == "f16" and values == "tiny":
        values = "normal"  # half of them would be subnormal
    layouts = tuple(LAYOUTS)
    backward = frame.call.backward
    if backward is not None:
        laid = [
            None if one is None else chance.pick(("expanded", *layouts))
            for one in (backward.grad_out, backward.grad_lse)
        ]
        again = chance.pick((1, 2, 3)) if chance.one_in(4) else None
        backward = replace(backward, grad_out=laid[0], grad_lse=laid[1], again=again)
    return replace(
        frame.call,
        lengths=(q_len, kv_len),
        heads=(q_heads, kv_heads),
        batch=batch,
        kv_batch=chance.pick((1, batch)),
        seed=chance.integer(0, 2**31),
        layouts=(chance.pick(layouts), chance.pick(layouts), chance.pick(layouts)),
        values=values,
        scale=chance.pick((None, None, None, None, 0.0, -0.3, -0.3, 1.0, 7.5)),
        blocks=blocks,
        guard=chance.pick(("first", "last")),
        backward=backward,
    )


def _backward(chance: Chance) -> Backward:
    """What kernels depend on of a backward: which gradients are given and wanted."""
    given: tuple[str | None, str | None] = ("dense", chance.pick((None, "dense")))
    if chance.one_in(8):
        given = (None, "dense")
    frozen: tuple[str, ...] = ()
    if chance.one_in(2):
        frozen = tuple([name for name in LEARNED if chance.one_in(2)])
    return Backward(*given, frozen)


def _mod(chance: Chance, kind: ModKind, result: DType, library: Sequence[str], *, learns: bool) -> Mod:
    """A mod; where the call learns, one that has a say in gradients more often than not."""
    if chance.integer(1, 6) <= (4 if learns and kind is ModKind.MASK else 2):
        return Mod(_expression(chance, library, combined=kind is ModKind.MASK))
    smooth = learns and kind is ModKind.SCORE and chance.one_in(2)
    for _ in range(_TRIES if smooth else 1):
        source, depth = _Bounded(chance, _MOST_DRAWS), chance.integer(1, 4)
        case = Drawer(source, kind, result, customs=kind is ModKind.SCORE, smooth=smooth).case(depth)
        if case.structure.reads("score"):
            break
    tables = []
    for array, capture in zip(case.captures, case.structure.captures, strict=True):
        stored = chance.pick(_ALIKE[capture.dtype]) if chance.one_in(2) else capture.dtype
        layout = chance.pick(tuple(LAYOUTS))
        tables.append(Table(stored.value, array.shape, chance.integer(0, 2**31), layout))
    types = tuple(
        replace(capture, dtype=DType(table.dtype))
        for capture, table in zip(case.structure.captures, tables, strict=True)
    )
    text = format_structure(replace(case.structure, captures=types))
    return Mod(text, tuple(case.numbers), tuple(tables))


def _expression(chance: Chance, library: Sequence[str], *, combined: bool) -> str:
    first = chance.pick(library)
    if not combined or chance.one_in(2):
        return first
    return f"({first}) {chance.pick(('&', '|', '^'))} ({chance.pick(library)})"
