"""A function of the generated module, as text."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from typing import final

__all__ = ["Function", "function"]


@final
@dataclass(frozen=True)
class Function:
    """A `@triton.jit` function.

    Attributes:
        name: Its name; those of programs begin with `ir_`.
        text: Its definition, decorator and all, with a newline at the end.
        calls: The names of the functions of the table that it calls.
    """

    name: str
    text: str
    calls: tuple[str, ...] = ()


def function(text: str, *calls: str) -> Function:
    """Return the function that a text defines; its decorator is added.

    Args:
        text: From `def` on, indented alike.
        calls: The names of the functions of the table that it calls.
    """
    body = dedent(text).strip()
    name = body.removeprefix("def ").partition("(")[0]
    return Function(name, f"@triton.jit\n{body}\n", calls)
