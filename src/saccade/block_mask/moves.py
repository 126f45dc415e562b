"""Programs and mods of derived masks: the same rule read at other indices, or inside given blocks only.

A slice or a crop of a mask sees the mask it came from through a `Move` per index. `moved_program` puts the
moves into a program (offsets are run-time numbers, so a moving window never changes the structure),
`MovedMod` puts them around the user's function; `folded_program` and `BlocksMod` do the same for a table of
given blocks. Invariant: the two of a pair mean the same and read the same axes; traced again, the mod may
number its slots otherwise than the program does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TypeVar, cast, final

import torch
from torch import Tensor

from saccade.analysis.runs import BlockKind
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, const, load, make, number, substitute, var
from saccade.ir.ops import Op
from saccade.ir.program import Program
from saccade.ir.structure import CaptureType, ModKind, Structure
from saccade.mod_value import read_table
from saccade.signatures import MaskMod

T = TypeVar("T")

_INT = DType.INT64
_ZERO = const(0, _INT)
_ONE = const(1, _INT)


@final
@dataclass(frozen=True, eq=False)
class Move:
    """Where an index of a derived mask lies in the mask it came from.

    Attributes:
        offset: Added to the index; the whole of it when pinned.
        pinned: Whether the index has only one value there, `offset`.
        table: int64[n], where each group of `block` indices begins there; takes the place of `offset`.
        block: How many consecutive indices an entry of `table` stands for.
    """

    offset: int = 0
    pinned: bool = False
    table: Tensor | None = None
    block: int = 1

    @property
    def stays(self) -> bool:
        """Whether every index is what it was."""
        return self.table is None and not self.pinned and self.offset == 0

    def __call__(self, index: Tensor) -> Tensor:
        """Return the index of the original mask."""
        if self.stays:
            return index
        if self.table is None:
            return index.new_full((), self.offset) if self.pinned else index + self.offset
        if self.block == 1:
            return self.table[index]
        return self.table[index // self.block] + index % self.block


STAY = Move()
"""The move that changes nothing."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class MovedMod:
    """A mask_mod read at moved indices."""

    mod: MaskMod
    b: Move = STAY
    h: Move = STAY
    q_idx: Move = STAY
    kv_idx: Move = STAY

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """Return the mask of the pair that the indices move to."""
        return self.mod(self.b(b), self.h(h), self.q_idx(q_idx), self.kv_idx(kv_idx))

    def __repr__(self) -> str:
        moved = [name for name in ("b", "h", "q_idx", "kv_idx") if not getattr(self, name).stays]
        return f"{mod_name(self.mod)} at moved {', '.join(moved)}"


@final
@dataclass(frozen=True, eq=False, repr=False)
class BlocksMod:
    """A mask_mod inside given blocks: True in FULL ones, its own answer in PARTIAL ones, else False."""

    mod: MaskMod
    kinds: Tensor  # uint8[B or 1, H or 1, rows, cols], BlockKind
    q_block: int
    kv_block: int

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """Return the mask of the pair."""
        kind = read_table(self.kinds, b, h, q_idx // self.q_block, kv_idx // self.kv_block)
        return (kind == BlockKind.FULL) | ((kind == BlockKind.PARTIAL) & self.mod(b, h, q_idx, kv_idx))

    def __repr__(self) -> str:
        return f"{mod_name(self.mod)} in given blocks"


def moved_program(program: Program, moves: Mapping[str, Move]) -> Program:
    """Return the program that reads each named index through its move; offsets are numbers."""
    structure = program.structure
    captures, types = list(program.captures), list(structure.captures)
    numbers, number_types = list(program.numbers), list(structure.numbers)
    names = list(program.names)
    replaced: dict[Expr, Expr] = {}
    for name, move in moves.items():
        if move.stays or not program.reads(name):
            continue
        index = var(name)
        if move.table is None:
            shift = number(len(numbers), _INT)
            numbers.append(move.offset)
            number_types.append(_INT)
            replaced[index] = shift if move.pinned else make(Op.ADD, (index, shift))
        else:
            slot = len(captures)
            captures.append(move.table)
            types.append(CaptureType(_INT, 1))
            names.append(f"selected_{name}")
            replaced[index] = _looked_up(slot, index, move.block)
    if not replaced:
        return program
    root = substitute(structure.root, replaced)
    return Program(
        Structure(ModKind.MASK, root, tuple(types), tuple(number_types)),
        tuple(captures),
        tuple(numbers),
        tuple(names),
    )


def folded_program(program: Program, kinds: Tensor, q_block: int, kv_block: int) -> Program:
    """Return the program that means what `BlocksMod` does, with `kinds` as one more capture."""
    structure = program.structure
    slot = len(program.captures)
    places = (
        var("b") if kinds.shape[0] > 1 else _ZERO,
        var("h") if kinds.shape[1] > 1 else _ZERO,
        make(Op.FLOOR_DIV, (var("q_idx"), const(q_block, _INT))),
        make(Op.FLOOR_DIV, (var("kv_idx"), const(kv_block, _INT))),
    )
    kind = load(slot, places, _INT)
    is_full = make(Op.LT, (_ONE, kind))  # FULL is the only kind above PARTIAL, which is 1
    is_partial = make(Op.EQ, (kind, _ONE))
    root = make(Op.OR, (is_full, make(Op.AND, (is_partial, structure.root))))
    return Program(
        Structure(ModKind.MASK, root, (*structure.captures, CaptureType(DType.UINT8, 4)), structure.numbers),
        (*program.captures, kinds),
        program.numbers,
        (*program.names, "given_blocks"),
    )


def mod_to(value: T, device: torch.device) -> T:
    """Return a mod with the tensors it holds as fields on `device`; a plain function stays as it is."""
    moved: object = value
    if isinstance(value, torch.Tensor):
        moved = value.to(device)
    elif isinstance(value, tuple):
        moved = tuple(mod_to(part, device) for part in value)
    elif is_dataclass(value) and not isinstance(value, (type, Program)):
        moved = copy.copy(value)
        for one in fields(value):
            object.__setattr__(moved, one.name, mod_to(getattr(value, one.name), device))
    return cast("T", moved)


def mod_name(mod: MaskMod) -> str:
    """How a mod is named to people: its function name, or its repr where it has none."""
    if isinstance(mod, Program):
        return "a program"
    name = getattr(mod, "__name__", None)
    return name if isinstance(name, str) else repr(mod)


def _looked_up(slot: int, index: Expr, block: int) -> Expr:
    if block == 1:
        return load(slot, (index,), _INT)
    size = const(block, _INT)
    begin = load(slot, (make(Op.FLOOR_DIV, (index, size)),), _INT)
    return make(Op.ADD, (begin, make(Op.REMAINDER, (index, size))))
