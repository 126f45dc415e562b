"""What is asked of the CPU code generator, and what it gives back.

A `KernelSpec` is everything machine code depends on; equal specs give equal text, so it keys the cache of
compiled kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import final

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.isa import ISAS, Isa
from saccade.codegen.program.facts import ProgramFacts
from saccade.ir.dtype import DType
from saccade.problem import KernelKey

__all__ = ["KernelKind", "KernelSource", "KernelSpec"]


class KernelKind(Enum):
    """Which of the engine's kernels."""

    FORWARD = "tiles of queries against packed keys"
    DECODE = "few query rows against keys read in place, split over threads"
    BACKWARD = "gradients: tiles of keys against what sees them, in chunks that the problem fixes"

    __hash__ = object.__hash__  # as in DType: members are singletons


@final
@dataclass(frozen=True)
class KernelSpec:
    """A kernel to be written.

    Attributes:
        kind: Which kernel.
        key: The problem's part in it; `key.target` names the instruction set.
        rows: Query rows of a tile: in FORWARD and BACKWARD of one head, in DECODE the packed rows of a head
            group.
        keys: Keys of a tile.
        score: What is proven of the score program; None without one.
        mask: What is proven of the block mask's program; None without one.
        mask_mod: What is proven of the mask_mod; None without one.
        score_gradient: BACKWARD: what is proven of the score program's `derivative` and `contributions`; None
            without one.
    """

    kind: KernelKind
    key: KernelKey
    rows: int
    keys: int
    score: ProgramFacts | None = None
    mask: ProgramFacts | None = None
    mask_mod: ProgramFacts | None = None
    score_gradient: ProgramFacts | None = None

    @property
    def isa(self) -> Isa:
        """The instruction set."""
        return ISAS[self.key.target]

    @property
    def precise(self) -> DType:
        """The type of scores and sums."""
        return self.key.dtype.value_type


@final
@dataclass(frozen=True)
class KernelSource:
    """A kernel as text, and what a caller must know to run it.

    Attributes:
        text: LLVM IR.
        entries: The functions to call, in order; each is `void entry(i8* arguments)`, run by every thread.
            BACKWARD: those of `pack`, `sinks`, `attend`, `merge` and `captures` that the wanted gradients
            need.
        layout: Where the arguments stand.
        scratch_bytes: Private memory of a thread, a multiple of 64.
        panel_keys: FORWARD: keys of a packed panel.
        key_panel_bytes: FORWARD: bytes of a panel of keys.
        value_panel_bytes: FORWARD: bytes of a panel of values.
        partial_bytes: DECODE: bytes of the partial result of one item, a multiple of 64; BACKWARD: of a row,
            0 without a gradient of queries.
        row_bytes: BACKWARD: by the argument's name, bytes of a row of each memory that has one for every
            query of every head; 0 where nothing reads it.
        padding_rows: BACKWARD: rows after the last of each head, in packed rows, row tables and partials;
            in all but partials after as many as are even.
        sum_types: BACKWARD: the type of the sums of each capture whose gradient is wanted, by slot.
    """

    text: str
    entries: tuple[str, ...]
    layout: ArgumentLayout
    scratch_bytes: int
    panel_keys: int = 0
    key_panel_bytes: int = 0
    value_panel_bytes: int = 0
    partial_bytes: int = 0
    row_bytes: Mapping[str, int] = field(default_factory=dict)
    padding_rows: int = 0
    sum_types: Mapping[int, DType] = field(default_factory=dict)
