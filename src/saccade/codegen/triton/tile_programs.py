"""The programs of a kernel, as text for its two kinds of turns.

In a bounded turn keys may pass the last one: reads there are limited, and nothing else differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import final

from saccade.codegen.program.which import Which
from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.program.function_table import functions_text
from saccade.codegen.triton.program.place import Place
from saccade.codegen.triton.program.text import ProgramText
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines

__all__ = ["TilePrograms", "pair_place"]


def pair_place(spec: TritonSpec) -> Place:
    """Return where programs stand in a tile of queries against keys."""
    return Place(
        names={"b": "b", "h": "h", "q_idx": "q_idx", "kv_idx": "kv_idx", "score": "score"},
        rows=frozenset({"q_idx", "score", "h"} if spec.packed else {"q_idx", "score"}),
        columns=frozenset({"kv_idx", "score"}),
        inner=frozenset({"kv_idx", "score"}),
        shape=("BLOCK_M", "BLOCK_N"),
    )


@final
class TilePrograms:
    """What a kernel asks of every pair.

    Args:
        spec: The kernel.
        asked: Which of its programs.
        inside: The lines' name for which keys of a bounded turn are there, [1, BLOCK_N].
    """

    def __init__(self, spec: TritonSpec, asked: Iterable[Which], inside: str = "inside") -> None:
        place = pair_place(spec)
        places = {False: place, True: replace(place, limits={"kv_idx": inside})}
        self._texts: dict[tuple[Which, bool], ProgramText] = {}
        for which in asked:
            program = spec.program(which)
            if program is not None:
                for bounded, where in places.items():
                    self._texts[which, bounded] = ProgramText(
                        *program,
                        which,
                        where,
                        checks=spec.checks,
                        wide_captures=spec.slots(spec.wide_captures, which),
                        aligned_captures=spec.slots(spec.aligned_captures, which),
                    )

    def text(self, which: Which, *, bounded: bool) -> ProgramText | None:
        """Return a program's text for a kind of turn; None where there is nothing to run."""
        return self._texts.get((which, bounded))

    def __bool__(self) -> bool:
        return bool(self._texts)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The captures and numbers of all programs."""
        return tuple(p for (_, bounded), text in self._texts.items() if not bounded for p in text.parameters)

    @property
    def before(self) -> Lines:
        """What stands before the loops."""
        return tuple(
            line for (_, bounded), text in self._texts.items() if not bounded for line in text.before
        )

    @property
    def functions(self) -> tuple[str, ...]:
        """The texts of the functions that programs call."""
        names = dict.fromkeys(name for text in self._texts.values() for name in text.functions)
        return (functions_text(tuple(names)),) if names else ()
