"""The functions that programs' text may call, as Triton text: written into a module only where used.

Each is a `@triton.jit` function of values whose shapes broadcast, float32 or float64, int32 or int64. They
hold to what Triton has on every device and in its interpreter: no libdevice, no assembly. None leans on a
multiplication being joined to an addition, nor on its not being.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from saccade.codegen.triton.program.float_functions import FLOAT_FUNCTIONS
from saccade.codegen.triton.program.function import Function
from saccade.codegen.triton.program.integer_functions import INTEGER_FUNCTIONS
from saccade.codegen.triton.program.power_functions import POWER_FUNCTIONS
from saccade.codegen.triton.program.terms import Term, call

__all__ = ["FUNCTIONS", "Calls", "functions_text"]

FUNCTIONS: dict[str, Function] = {
    function.name: function for function in (*INTEGER_FUNCTIONS, *FLOAT_FUNCTIONS, *POWER_FUNCTIONS)
}


@final
class Calls:
    """Writes calls, and remembers what they name."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}

    def __call__(self, name: str, type_: str, *args: Term) -> Term:
        """Return a call of a function of the table."""
        self._used[name] = None
        return call(FUNCTIONS[name].name, type_, *args)

    @property
    def used(self) -> tuple[str, ...]:
        """The names called so far, in the order of the first call."""
        return tuple(self._used)


def functions_text(names: Iterable[str]) -> str:
    """Return the definitions of functions and of what they call, each once, callees first.

    Args:
        names: From `ProgramText.functions`, of one program or several.

    Example:
        >>> print(functions_text(["ir_tan"]))
        @triton.jit
        def ir_tan(x):
            return tl.sin(x) / tl.cos(x)
        <BLANKLINE>
    """
    wanted = sorted(set(names))
    ordered: dict[str, None] = {}
    for name in wanted:
        ordered.update(dict.fromkeys(_with_callees(name)))
    return "\n\n".join(FUNCTIONS[name].text for name in ordered)


def _with_callees(name: str) -> list[str]:
    return [callee for own in FUNCTIONS[name].calls for callee in _with_callees(own)] + [name]
