"""Structures: the part of a program that machine code may depend on.

Two programs with one structure run the same kernel. Because expressions are hash-consed, structures compare
and hash by the identity of their root: a structure keys a cache at the cost of a tuple. `saccade.ir.text`
writes the same key for other processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

from saccade.ir.dtype import DType
from saccade.ir.expr import Expr
from saccade.ir.ops import Op


class ModKind(Enum):
    """Which of the two functions a program came from. The value is its keyword in program text."""

    MASK = "mask"
    SCORE = "score"

    __hash__ = object.__hash__  # as in DType: members are singletons


@final
@dataclass(frozen=True)
class CaptureType:
    """The part of a captured tensor that code depends on."""

    dtype: DType  # as stored
    rank: int  # number of dimensions, each indexed by one argument of LOAD


@final
@dataclass(frozen=True)
class Structure:
    """A program without its data: the structural key.

    Attributes:
        kind: MASK (a BOOL of b, h, q_idx, kv_idx) or SCORE (a float of score and those).
        root: The result.
        captures: The kind of each captured tensor, by LOAD slot.
        numbers: The type of each run-time number, by slot: INT64, FLOAT32 or FLOAT64.
    """

    kind: ModKind
    root: Expr
    captures: tuple[CaptureType, ...] = ()
    numbers: tuple[DType, ...] = ()

    def reads(self, *names: str) -> bool:
        """Whether the result depends on any of the named variables."""
        return self.root.depends_on(*names)

    @property
    def is_noop(self) -> bool:
        """True for the mask that hides nothing and the score mod that returns its score."""
        if self.kind is ModKind.MASK:
            return self.root.op is Op.CONST and self.root.attr is True
        return self.root.op is Op.VAR and self.root.attr == "score"
