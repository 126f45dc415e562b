"""What is proven of a program for the sizes at hand, as far as code depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["ProgramFacts"]


@final
@dataclass(frozen=True)
class ProgramFacts:
    """Facts about the nodes of a program, numbered in the order of `walk` over its lowered root.

    Of a derivative the roots are those of `contributions.roots_of`.

    They speak of the values that nodes have at pairs in range, where they have one.

    Attributes:
        narrow: INT64 nodes whose values fit 32 bits.
        bounded: (LOAD, dimension) whose index stays inside the captured tensor.
        nonzero: FLOOR_DIV and REMAINDER nodes of INT64 whose divisor is never 0.
        nonnegative: INT64 nodes that are never negative, of those where it matters: indices and dividends.
        dense: For each capture, whether its last stride is one element.
    """

    narrow: frozenset[int] = frozenset()
    bounded: frozenset[tuple[int, int]] = frozenset()
    nonzero: frozenset[int] = frozenset()
    nonnegative: frozenset[int] = frozenset()
    dense: tuple[bool, ...] = ()
