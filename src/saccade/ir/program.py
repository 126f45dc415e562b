"""Programs: what a mod means, with what it captured.

A `Program` is a `Structure` plus what changes from call to call without a new kernel: the captured arrays and
the run-time numbers. It holds captures without looking into them, so it serves torch tensors and numpy arrays
alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol, final

from saccade.ir.expr import Expr, make, relocate
from saccade.ir.interpret import interpret
from saccade.ir.ops import Op
from saccade.ir.structure import ModKind, Structure
from saccade.ir.text import format_structure, parse_structure


class Array(Protocol):
    """What a capture offers: torch tensors and numpy arrays do."""

    @property
    def shape(self) -> Sequence[int]:
        """The extent of each dimension."""
        ...


@final
@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A traced mod: its structure, the tensors it captured and its run-time numbers.

    Attributes:
        structure: What code depends on.
        captures: The captured arrays, by slot, untouched (they keep their device and their autograd graph).
        numbers: The run-time numbers, by slot.
        names: What the user calls each capture, for messages.
    """

    structure: Structure
    captures: tuple[Array, ...] = ()
    numbers: tuple[int | float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def kind(self) -> ModKind:
        """MASK or SCORE."""
        return self.structure.kind

    @property
    def root(self) -> Expr:
        """The result expression."""
        return self.structure.root

    @property
    def is_noop(self) -> bool:
        """True for the mask that hides nothing and the score mod that returns its score."""
        return self.structure.is_noop

    def reads(self, *names: str) -> bool:
        """Whether the result depends on any of the named variables, such as ``"b"`` or ``"kv_idx"``."""
        return self.structure.reads(*names)

    def __call__(self, *args: Any) -> Any:
        """Use the program as the mod it came from.

        On the indices of a mod being traced it is inlined; on numpy arrays or Python numbers (broadcast
        together) it is interpreted and a numpy array returned.
        """
        for arg in args:
            inline = getattr(arg, "__saccade_inline__", None)
            if inline is not None:
                return inline(self, args)
        return interpret(self.structure, args, self.captures, self.numbers, self.names)

    def __repr__(self) -> str:
        return format_structure(self.structure, numbers=self.numbers, names=self.names)

    def _repr_html_(self) -> str:
        return f'<pre style="line-height:1.3">{escape(repr(self))}</pre>'

    def __reduce__(self) -> tuple[Callable[..., Program], tuple[object, ...]]:
        # As text: pickle descends by recursion, and a program may be thousands of nodes deep.
        return _from_text, (format_structure(self.structure), self.captures, self.numbers, self.names)


def _from_text(
    text: str, captures: tuple[Array, ...], numbers: tuple[int | float, ...], names: tuple[str, ...]
) -> Program:
    return Program(parse_structure(text), captures, numbers, names)


def conjunction(first: Program, second: Program) -> Program:
    """The mask program that is True where both masks are."""
    if first.is_noop or second.is_noop:
        return second if first.is_noop else first
    a, b = first.structure, second.structure
    moved = relocate(b.root, captures=len(a.captures), numbers=len(a.numbers))
    root = make(Op.AND, (a.root, moved))
    return Program(
        Structure(ModKind.MASK, root, a.captures + b.captures, a.numbers + b.numbers),
        first.captures + second.captures,
        first.numbers + second.numbers,
        first.names + second.names,
    )
