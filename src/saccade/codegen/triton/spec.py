"""What is asked of the Triton code generator: everything that a kernel's text depends on.

Equal specs give equal text. Batch, heads, lengths, strides, scale and a program's numbers are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.ir.structure import Structure
from saccade.problem import KernelKey

__all__ = ["KernelKind", "Tile", "TritonSpec", "Walk"]


class KernelKind(Enum):
    """Which of the engine's kernels."""

    FORWARD = "tiles of queries against keys: out, lse, max_scores"
    SPLIT = "tiles of queries against a share of their keys: partial results"
    COMBINE = "partial results: out, lse, max_scores"
    DELTA = "the mean gradient of each row's scores"
    QUERY_GRADIENT = "tiles of queries against keys: grad_query, captured gradients"
    KEY_GRADIENT = "tiles of keys against queries: grad_key, grad_value, captured gradients of columns"

    __hash__ = object.__hash__  # as in DType: members are singletons


class Walk(Enum):
    """Where a kernel's ranges of keys (in KEY_GRADIENT: of queries) come from."""

    TABLE = "a block mask's runs, from tables in device memory"
    FULL = "one range of all, every pair visible; no table"
    PARTIAL = "one range of all, every pair asked; no table"

    __hash__ = object.__hash__


@final
@dataclass(frozen=True)
class Tile:
    """What one program of a kernel works on at a time, and how the compiler schedules it.

    Attributes:
        rows: Query rows, a power of two from 16 on; packed, queries times the heads of a group.
        keys: Keys, likewise.
        warps: Warps of 32 threads that share a tile.
        stages: How many tiles of the walk are in flight.
    """

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2


@final
@dataclass(frozen=True)
class TritonSpec:
    """A kernel to be written.

    Attributes:
        kind: Which kernel.
        key: The problem's part in it; `key.target` names the architecture, as in "cuda:90".
        tile: Its tile. COMBINE and DELTA have no keys and read the rows alone.
        walk: Where its ranges come from.
        packed: FORWARD and SPLIT: whether the heads of a group are rows of one tile.
        aligned: Whether all pointers lie on 16 bytes and all strides are multiples of 8 elements.
        descriptors: Whether K and V are reached through tensor descriptors that the host makes.
        precision: How float32 operands are multiplied: "ieee" or "tf32".
        aligned_dropout: Whether every range begins on a multiple of the tile's keys, which divide 128 or are
            a multiple of it, so that a tile finds its random words together.
        positive_scale: Whether `scale` is known to be above 0: FORWARD and SPLIT are then faster.
        checks: Whether poison is noted.
        score: What is proven of the score program; None without one.
        mask: What is proven of the block mask's program; None without one.
        mask_mod: What is proven of the mask_mod; None without one.
        score_gradient: What is proven of the score program's `derivative` and `contributions`; None without
            one.
        ways: QUERY_GRADIENT and KEY_GRADIENT: how each contribution to a wanted capture is added up, from
            `capture_ways`.
        wide_captures: The captures, as program and slot, that may span 2**31 elements or more.
        aligned_captures: Those whose addresses are multiples of 16 bytes and strides, but the last, of 8
            elements.
    """

    kind: KernelKind
    key: KernelKey
    tile: Tile
    walk: Walk
    packed: bool = False
    aligned: bool = True
    descriptors: bool = False
    precision: str = "ieee"
    aligned_dropout: bool = False
    positive_scale: bool = False
    checks: bool = False
    score: ProgramFacts | None = None
    mask: ProgramFacts | None = None
    mask_mod: ProgramFacts | None = None
    score_gradient: ProgramFacts | None = None
    ways: tuple[CaptureWay, ...] = ()
    wide_captures: frozenset[tuple[Which, int]] = frozenset()
    aligned_captures: frozenset[tuple[Which, int]] = frozenset()

    def program(self, which: Which) -> tuple[Structure, ProgramFacts] | None:
        """Return the structure of a program and what is proven of it; None where there is nothing to run.

        A program that changes no score, or hides nothing, is nothing to run.
        """
        structure, facts = {
            Which.SCORE: (self.key.score, self.score),
            Which.MASK: (self.key.mask, self.mask),
            Which.MASK_MOD: (self.key.mask_mod, self.mask_mod),
            Which.SCORE_GRADIENT: (self.key.score, self.score_gradient),
        }[which]
        if structure is None or structure.is_noop:
            return None
        assert facts is not None, f"the {which.name} program comes with no facts"
        return structure, facts

    def slots(self, captures: frozenset[tuple[Which, int]], which: Which) -> frozenset[int]:
        """Return the slots of a program among `wide_captures` or `aligned_captures`.

        The derivative's captures are the score program's.
        """
        owner = Which.SCORE if which is Which.SCORE_GRADIENT else which
        return frozenset(slot for program, slot in captures if program is owner)
