"""What is at hand where a node is evaluated."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import CaptureSlots
from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.program.split import Split
from saccade.codegen.cpu.program.widths import Widths
from saccade.codegen.program.contributions import Contribution, roots_of
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, walk
from saccade.ir.ops import Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import Structure

__all__ = ["Evaluated", "Place", "Prepared"]


@final
@dataclass(frozen=True)
class Evaluated:
    """A value, and where it has none.

    Attributes:
        value: Scalar or vector; arbitrary in poison lanes.
        poison: BOOL, or a vector of BOOL; None where there is no poison.
    """

    value: Value
    poison: Value | None = None


@final
class Prepared:
    """A program and all that its places share.

    Args:
        emitter: The function under construction.
        which: Which of the kernel's programs it is.
        structure: The program.
        facts: What is proven of it.
        arguments: The kernel's arguments.
        row_variables: The variables that vary from row to row.
        contributions: What is evaluated beside it.
    """

    def __init__(
        self,
        emitter: Emitter,
        which: Which,
        structure: Structure,
        facts: ProgramFacts,
        arguments: Arguments,
        row_variables: tuple[str, ...],
        contributions: Sequence[Contribution] = (),
    ) -> None:
        self.emitter = emitter
        self.arguments = arguments
        self.root = lower(structure.root)
        self.contributions = tuple(contributions)
        numbers = {node: number for number, node in enumerate(walk(*roots_of(self.root, contributions)))}
        self.widths = Widths(numbers, facts)
        dense = facts.dense or (False,) * len(structure.captures)
        beside = [part for each in contributions for part in (*each.element.args, each.value)]
        self.split = Split(self.root, row_variables, dense, beside)
        self.numbers: tuple[int, ...] = arguments.layout.numbers[which]
        self._captures = arguments.layout.captures[which]
        self._stored = tuple(capture.dtype for capture in structure.captures)
        self._dense = dense
        self._nonzero = frozenset(node for node, number in numbers.items() if number in facts.nonzero)
        self._bounded = {
            node: frozenset(dim for dim in range(len(node.args)) if (number, dim) in facts.bounded)
            for node, number in numbers.items()
            if node.op is Op.LOAD
        }
        self._nonnegative = frozenset(node for node, number in numbers.items() if number in facts.nonnegative)
        self._fallible: set[Expr] = set()
        for node in numbers:
            if not self.is_proven(node) or any(arg in self._fallible for arg in node.args):
                self._fallible.add(node)

    def is_bounded(self, lookup: Expr, dim: int) -> bool:
        """Whether the index of one dimension of a LOAD is known to be in range."""
        return dim in self._bounded[lookup]

    def is_proven(self, node: Expr) -> bool:
        """Whether a node gives no poison of its own."""
        if node.op is Op.LOAD:
            return len(self._bounded[node]) == len(node.args)
        if node.op in (Op.FLOOR_DIV, Op.REMAINDER) and node.dtype is DType.INT64:
            divisor = node.args[1]
            return node in self._nonzero or (divisor.op is Op.CONST and divisor.attr != 0)
        return True

    def is_fallible(self, node: Expr) -> bool:
        """Whether a node may be poison."""
        return node in self._fallible

    def is_nonnegative(self, node: Expr) -> bool:
        """Whether an INT64 node is known never to be negative."""
        return bool(node in self._nonnegative or (node.op is Op.CONST and node.attr >= 0))

    def capture(self, slot: int) -> tuple[CaptureSlots, DType, bool]:
        """Return where a captured tensor's arguments stand, its stored type and whether it is dense."""
        return self._captures[slot], self._stored[slot], self._dense[slot]


@final
@dataclass(frozen=True)
class Place:
    """Where nodes are evaluated, and what is known there.

    Attributes:
        program: The program.
        values: What has been evaluated, or was given; grows.
        first_key: int64, kv_idx of lane 0, where lanes are consecutive keys; else None.
        inside: Lanes that are in range; None: all are.
    """

    program: Prepared
    values: MutableMapping[Expr, Evaluated]
    first_key: Value | None = None
    inside: Value | None = None
