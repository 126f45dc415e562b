"""MASK and SCORE on the command line, in either form: an expression, or FILE.py:FUNCTION.

Owns the choice between the two and the messages about a mod of the wrong kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.cli.expression import parse_expression
from saccade.cli.mod_file import is_file_reference, load_mod
from saccade.errors import ArgumentError, SaccadeError
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.tracing import trace

__all__ = ["read_kind", "read_mod"]

_PLACES = {ModKind.MASK: "MASK", ModKind.SCORE: "--score"}


def read_mod(text: str) -> tuple[Callable[..., Any], Program]:
    """Return the mod that a text names, and its program.

    Args:
        text: An expression over the ready-made mods, or FILE.py:FUNCTION.

    Raises:
        ArgumentError: The text is no expression and names no function, or the function fails.
        SaccadeError: The function cannot be read as a program.

    Example:
        >>> mod, program = read_mod("causal & sliding_window(4)")
        >>> mod
        causal & sliding_window(4)
    """
    mod: Callable[..., Any] = load_mod(text) if is_file_reference(text) else parse_expression(text)
    try:
        return mod, trace(mod)
    except SaccadeError:
        raise
    except Exception as fault:
        # The user's own code: a name that is missing, say.
        raise ArgumentError(
            f"{text} fails when it is read: {type(fault).__name__}: {fault}; correct the function"
        ) from fault


def read_kind(text: str, kind: ModKind) -> tuple[Callable[..., Any], Program]:
    """Return the mod that a text names, which must be a mask (MASK) or a score (--score).

    Raises:
        ArgumentError: It is the other kind, or see `read_mod`.
    """
    mod, program = read_mod(text)
    if program.kind is not kind:
        given = program.kind
        raise ArgumentError(
            f"expected a {kind.value} as {_PLACES[kind]}, got the {given.value} {text!r}; "
            f"give it as {_PLACES[given]}"
        )
    return mod, program
