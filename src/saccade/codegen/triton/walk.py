"""The loops over a tile's ranges: first those that hide nothing, then those that may.

A turn is a tile's worth of places along the axis that is walked. Its lines come in three forms:

    full      every place of the turn is there, and the block mask hides nothing
    partial   what lies before `stop` is there, and the block mask decides; with a table, a range that is
              `whole` hides nothing
    rest      what lies before `stop` is there, and the block mask hides nothing; of walks without a table
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.codegen.triton.spec import KernelKind, TritonSpec, Walk
from saccade.codegen.triton.template import Lines, fill

__all__ = ["Axis", "Turn", "keys_axis", "queries_axis", "walk"]


@final
@dataclass(frozen=True)
class Axis:
    """What a kernel walks along.

    Attributes:
        start: The lines' name for a turn's first place.
        step: The constant of a turn's length.
        length: The parameter of the axis's length.
        head: The lines' name for the head, or the group of packed heads, whose ranges these are.
    """

    start: str
    step: str
    length: str
    head: str


@final
@dataclass(frozen=True)
class Turn:
    """The lines of a turn in the forms that a walk needs."""

    full: Lines
    partial: Lines
    rest: Lines


def keys_axis(spec: TritonSpec) -> Axis:
    """Return the axis of keys, for tiles of queries."""
    return Axis("start_n", "BLOCK_N", "kv_len", "kv_head" if spec.packed else "h")


def queries_axis() -> Axis:
    """Return the axis of queries, for tiles of keys."""
    return Axis("start_m", "BLOCK_M", "q_len", "h")


def walk(spec: TritonSpec, axis: Axis, turn: Turn) -> Lines:
    """Return the loops of a walk.

    They read `b`, the head and `tile`, and in SPLIT `split`; they name each turn's first place and, in
    partial and rest, `stop`, with a table also `whole`.

    Args:
        spec: The kernel.
        axis: What it walks along.
        turn: What it does at each turn.
    """
    names = {"START": axis.start, "STEP": axis.step, "LENGTH": axis.length, "HEAD": axis.head}
    split = spec.kind is KernelKind.SPLIT
    if spec.walk is Walk.TABLE:
        hint = (f"{axis.start} = tl.multiple_of({axis.start}, {axis.step})",) if spec.aligned_dropout else ()
        item = ("item = item * splits + split",) if split else ()
        blocks = {"item": item, "full": hint + turn.full, "partial": hint + turn.partial}
        template = _TABLE
    else:
        limits = (_SHARE if split else _ALL).splitlines()
        hides = spec.walk is Walk.PARTIAL
        own = {"partial": turn.partial} if hides else {"full": turn.full, "rest": turn.rest}
        blocks = {"limits": tuple(limits), **own}
        template = _PARTIAL if hides else _FULL
    named = {name: tuple(_named(line, names) for line in lines) for name, lines in blocks.items()}
    return fill(_named(template, names), **named)


def _named(text: str, names: dict[str, str]) -> str:
    for name, meaning in names.items():
        text = text.replace(f"@{name}", meaning)
    return text


_TABLE = """\
item = b * runs_b + @HEAD * runs_h + tile
<<item>>
# What hides nothing.
for r in range(tl.load(full_offsets + item), tl.load(full_offsets + item + 1)):
    for @START in tl.range(tl.load(full_start + r), tl.load(full_stop + r), @STEP):
        <<full>>
# What a mask decides, or the range's end cuts short.
for r in range(tl.load(partial_offsets + item), tl.load(partial_offsets + item + 1)):
    stop = tl.load(partial_stop + r)
    whole = tl.load(partial_whole + r) != 0
    for @START in tl.range(tl.load(partial_start + r), stop, @STEP):
        <<partial>>
"""

_FULL = """\
<<limits>>
rest = begin + (stop - begin) // @STEP * @STEP
for @START in tl.range(begin, rest, @STEP):
    <<full>>
# What is left after whole tiles.
for @START in tl.range(rest, stop, @STEP):
    <<rest>>
"""

_PARTIAL = """\
<<limits>>
for @START in tl.range(begin, stop, @STEP):
    <<partial>>
"""

_ALL = """\
begin = 0
stop = @LENGTH
"""

_SHARE = """\
share = tl.cdiv(tl.cdiv(@LENGTH, @STEP), splits) * @STEP
begin = split * share
stop = tl.maximum(begin, tl.minimum(begin + share, @LENGTH))
"""
