"""Which kernel computes a problem: its kind, its tile, what is proven of its programs.

Everything that the engine chooses is chosen here, from the problem, the hints of its schedule and the device.
Nothing here looks at an operand. What calls of one problem may differ in, and code depends on, is their
`Circumstances`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple, final

import torch

from saccade.backends.mods import masks_of, proven
from saccade.backends.triton.arguments import Layout
from saccade.backends.triton.options import Options
from saccade.codegen.program.contributions import contributions
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.codegen.triton.spec import KernelKind, Tile, TritonSpec, Walk
from saccade.codegen.triton.tiles import default_tile
from saccade.ir.dtype import DType
from saccade.ir.text import format_structure
from saccade.problem import AttentionProblem, KernelKey, ModFacts, Outputs, Wanted
from saccade.runtime.triton import INTERPRETER, Device, Target
from saccade.schedule import Schedule

__all__ = [
    "Choice",
    "Circumstances",
    "analysis_pays",
    "choose",
    "describes",
    "has_descriptors",
    "hinted_tile",
    "key_of",
    "precision_of",
    "question_of",
    "specify",
    "specify_gradient",
]

_MOST_PACKED_QUERIES = 64  # with more, a head fills tiles by itself
_MOST_GROUP = 64
_LEAST_TILE, _MOST_TILE = 16, 256
_PROGRAMS_A_MULTIPROCESSOR = 2  # so many blocks of a kernel run there at a time
_LEAST_SPLIT_KEYS = 256  # fewer, and a partial result costs as much as they do
_MOST_SPLITS = 128

# Multiply-adds. A device does some 2**38 in a millisecond, about what the host takes to find blocks, and what
# is found serves several calls.
_ANALYSED_ONCE = 2**28
_ANALYSED_EACH_TIME = 2**35


@final
@dataclass(frozen=True)
class Choice:
    """How the forward of a problem is computed.

    Attributes:
        kind: FORWARD, or SPLIT, which COMBINE follows.
        tile: The tile.
        keeps_rows: Whether the tile's rows stay, because they are all that there are or heads are packed.
        packed: Whether the heads of a group are rows of one tile.
        splits: Among how many programs the keys of a tile are shared; 1 in FORWARD.
        descriptors: Whether keys and values are reached through descriptors, where operands allow it.
    """

    kind: KernelKind
    tile: Tile
    keeps_rows: bool
    packed: bool
    splits: int
    descriptors: bool

    def schedule(self, hints: Schedule, target: str) -> Schedule:
        """Return the hints with what was chosen in their place."""
        chosen = (
            ("kernel", self.kind.name.lower()),
            ("target", target),
            ("packed", self.packed),
            ("splits", self.splits),
            ("descriptors", self.descriptors),
        )
        return replace(
            hints,
            q_tile=self.tile.rows,
            kv_tile=self.tile.keys,
            num_warps=self.tile.warps,
            num_stages=self.tile.stages,
            engine_options=hints.engine_options + chosen,
        )


class Circumstances(NamedTuple):
    """What calls of one problem may differ in, as far as code depends on it.

    Attributes:
        layouts: How each capture lies, program by program.
        walk: Where ranges come from.
        aligned: See `TritonSpec`, as for those that follow.
        descriptors: See there.
        aligned_dropout: See there.
        precision: See there.
    """

    layouts: tuple[Layout, ...]
    walk: Walk
    aligned: bool
    descriptors: bool
    aligned_dropout: bool
    precision: str


def choose(problem: AttentionProblem, hints: Schedule, device: Device) -> Choice:
    """Choose how the forward of a problem is computed.

    Few queries are packed with those of the other heads of their group, so that keys are read once; and where
    their tiles are too few for the device, keys are shared among programs. Given blocks that differ among
    heads are the truth of each, so such heads stay apart.

    Args:
        problem: A problem that the engine takes, with queries and keys.
        hints: Tile sizes are rounded up to powers of two from 16 to 256.
        device: What computes it.
    """
    options, group, blocks = Options.of(hints, "fwd_"), problem.group_size, problem.block_mask
    differ = blocks is not None and not blocks.analysed and blocks.heads > 1
    packed = 1 < group <= _MOST_GROUP and problem.q_len <= _MOST_PACKED_QUERIES and not differ
    few = _few_rows(problem, packed)
    named = replace(hints, q_tile=hints.q_tile or few)
    usual = KernelKind.FORWARD if few is None else KernelKind.SPLIT
    tile = hinted_tile(named, default_tile(usual, key_of(problem, device.target.name)))
    if packed and tile.rows < group:
        packed = False
    queries = tile.rows // group if packed else tile.rows
    programs = (
        problem.batch * (problem.kv_heads if packed else problem.q_heads) * -(-problem.q_len // queries)
    )
    own = 1 if few is None else _splits(programs, problem.kv_len, device.multiprocessors)
    splits = options.splits or own
    splits = max(1, min(splits, -(-problem.kv_len // tile.keys)))
    kind = KernelKind.FORWARD if splits == 1 else KernelKind.SPLIT
    keeps_rows = packed or few is not None
    descriptors = has_descriptors(options, device.target) and describes(problem.dtype, precision_of(problem))
    return Choice(kind, tile, keeps_rows, packed, splits, descriptors)


def has_descriptors(options: Options, target: Target) -> bool:
    """Return whether keys and values are reached through descriptors, where operands allow it.

    Hardware has them from Hopper on; the interpreter, where a call asks for them.
    """
    if options.descriptors is None:
        return target.has_descriptors
    return options.descriptors and (target.has_descriptors or target == INTERPRETER)


def describes(dtype: DType, precision: str) -> bool:
    """Return whether descriptors serve operands of a dtype, multiplied in a precision.

    In full float32 there is no matrix unit to hand a tile to: it goes through registers, and more of them are
    spilled than by loads through pointers.
    """
    return dtype is not DType.FLOAT32 or precision != "ieee"


def _few_rows(problem: AttentionProblem, packed: bool) -> int | None:
    """The rows that hold all queries, where they are fewer than those of a tile; None for a tile's own."""
    rows = problem.q_len * problem.group_size if packed else problem.q_len
    return _power_of_two(rows) if rows <= _MOST_PACKED_QUERIES else None


def _splits(programs: int, keys: int, multiprocessors: int) -> int:
    """Among how many programs each tile's keys are shared, so that there is work for all of a device."""
    if 2 * programs > multiprocessors:
        return 1
    wanted = multiprocessors * _PROGRAMS_A_MULTIPROCESSOR // programs
    return min(wanted, keys // _LEAST_SPLIT_KEYS, _MOST_SPLITS)


def hinted_tile(hints: Schedule, tile: Tile) -> Tile:
    """Return a tile with what hints say in its place."""
    return Tile(
        tile.rows if hints.q_tile is None else _power_of_two(hints.q_tile),
        tile.keys if hints.kv_tile is None else _power_of_two(hints.kv_tile),
        tile.warps if hints.num_warps is None else min(1 << (hints.num_warps - 1).bit_length(), 16),
        tile.stages if hints.num_stages is None else hints.num_stages,
    )


def _power_of_two(size: int) -> int:
    """The smallest extent of a tile that holds a size, or the largest one there is."""
    return min(max(1 << (size - 1).bit_length(), _LEAST_TILE), _MOST_TILE)


def key_of(problem: AttentionProblem, target: str) -> KernelKey:
    """Return the key of the problem's forward kernels."""
    mask, mask_mod = masks_of(problem)
    return replace(
        problem.kernel_key(target, small_indices=False),
        mask=None if mask is None else mask.structure,
        mask_mod=None if mask_mod is None else mask_mod.structure,
    )


def question_of(problem: AttentionProblem, kind: KernelKind, key: KernelKey, packed: bool = False) -> str:
    """Return what the speed of a kernel's tiles depends on, in words; lengths count to the power of two.

    Args:
        problem: The problem.
        kind: Which kernel.
        key: Its part of the problem.
        packed: Whether the heads of a group are rows of one tile.
    """
    given = [key.score, key.mask, key.mask_mod]
    texts = [None if each is None else format_structure(each) for each in given]
    others = (texts, key.outputs, key.sinks, key.dropout, problem.block_mask is None)
    heads = problem.batch * problem.q_heads
    return (
        f"{kind.name.lower()} {key.dtype.name.lower()} D{key.head_dim} Dv{key.value_dim} "
        f"group {problem.group_size}{' packed' if packed else ''} heads {_rounded(heads)} "
        f"Q {_rounded(problem.q_len)} K {_rounded(problem.kv_len)} "
        f"{sha256(repr(others).encode()).hexdigest()[:16]}"
    )


def _rounded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def precision_of(problem: AttentionProblem) -> str:
    """Return how float32 operands are multiplied: as torch's own products on a GPU are, here and now."""
    if problem.dtype is not DType.FLOAT32:
        return "ieee"
    own = torch.backends.cuda.matmul
    if hasattr(own, "fp32_precision"):  # torch 2.9; there the older switch may refuse to be read
        return "tf32" if own.fp32_precision == "tf32" else "ieee"
    return "tf32" if own.allow_tf32 else "ieee"


def specify(
    problem: AttentionProblem,
    kind: KernelKind,
    key: KernelKey,
    tile: Tile,
    mods: Mapping[Which, ModFacts],
    given: Circumstances,
    *,
    packed: bool = False,
    checks: bool = False,
) -> TritonSpec:
    """Return the specification of a kernel.

    Args:
        problem: The problem.
        kind: Which kernel.
        key: Its part of the problem.
        tile: Its tile.
        mods: The problem's programs, as `mods_of` gives them.
        given: What is true of the call.
        packed: Whether the heads of a group are rows of one tile.
        checks: Whether poison is noted.
    """
    layouts = _by_program(mods, given.layouts)
    facts = {which: proven(problem, mod, _dense(layouts[which])) for which, mod in mods.items()}
    # Kernels of gradients scale scores as they come.
    attends = kind in (KernelKind.FORWARD, KernelKind.SPLIT)
    return TritonSpec(
        kind,
        key,
        tile,
        given.walk,
        packed=packed,
        aligned=given.aligned,
        descriptors=given.descriptors,
        precision=given.precision,
        aligned_dropout=given.aligned_dropout,
        positive_scale=attends and problem.scale > 0,
        checks=checks,
        score=facts.get(Which.SCORE),
        mask=facts.get(Which.MASK),
        mask_mod=facts.get(Which.MASK_MOD),
        wide_captures=_captures(layouts, lambda layout: layout.is_wide),
        aligned_captures=_captures(layouts, lambda layout: layout.is_aligned),
    )


def _by_program(
    mods: Mapping[Which, ModFacts], layouts: tuple[Layout, ...]
) -> dict[Which, tuple[Layout, ...]]:
    """The layouts of each program's captures, by slot."""
    found, first = {}, 0
    for which, mod in mods.items():
        last = first + len(mod.capture_shapes)
        found[which] = layouts[first:last]
        first = last
    return found


def _captures(
    layouts: Mapping[Which, tuple[Layout, ...]], chooses: Callable[[Layout], bool]
) -> frozenset[tuple[Which, int]]:
    """The captures of some layouts, as program and slot."""
    return frozenset(
        (which, slot) for which, own in layouts.items() for slot, each in enumerate(own) if chooses(each)
    )


def specify_gradient(
    problem: AttentionProblem,
    kind: KernelKind,
    key: KernelKey,
    tile: Tile,
    mods: Mapping[Which, ModFacts],
    given: Circumstances,
    wanted: Wanted,
    ways: tuple[CaptureWay, ...],
    *,
    checks: bool = False,
) -> TritonSpec:
    """Return the specification of a kernel of gradients that walks.

    Args:
        problem: The problem.
        kind: QUERY_GRADIENT or KEY_GRADIENT.
        key: The key of the problem's forward.
        tile: The kernel's tile.
        mods: The problem's programs, as `mods_of` gives them.
        given: What is true of the call.
        wanted: Which gradients, of all kernels.
        ways: How each contribution to a captured tensor is added up.
        checks: Whether poison is noted.
    """
    of_keys = kind is KernelKind.KEY_GRADIENT
    own = Wanted(
        query=wanted.query and not of_keys,
        key=wanted.key and of_keys,
        value=wanted.value and of_keys,
        captures=wanted.captures if ways else (),
    )
    key = replace(key, outputs=Outputs(), sinks=False, wanted=own)
    spec = specify(problem, kind, key, tile, mods, given, checks=checks)
    score = mods.get(Which.SCORE)
    if score is None:
        return spec
    changed = replace(score, structure=derivative(score.structure))
    layouts = _by_program(mods, given.layouts)[Which.SCORE]
    beside = contributions(score.structure, own.captures)
    return replace(spec, score_gradient=proven(problem, changed, _dense(layouts), beside), ways=ways)


def _dense(layouts: tuple[Layout, ...]) -> tuple[bool, ...]:
    return tuple([layout.is_dense for layout in layouts])


def analysis_pays(problem: AttentionProblem) -> bool:
    """Return whether to look for the blocks that a mask_mod alone hides, before computing.

    The host needs some tenths of a millisecond for it, and must wait for the device where the mask reads
    tensors. What is found is kept for calls with the same tensors; where there are none, with any.
    """
    mask_mod = problem.mask_mod
    if mask_mod is None or problem.q_len <= _MOST_PACKED_QUERIES:
        return False
    work = problem.scores * (problem.head_dim + problem.value_dim)
    return work >= (_ANALYSED_EACH_TIME if mask_mod.capture_shapes else _ANALYSED_ONCE)
