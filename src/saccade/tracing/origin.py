"""Where in the user's code a fault lies: read from the traceback of an error, never while all goes well."""

from __future__ import annotations

import linecache
import os
import re
from pathlib import Path
from types import FunctionType, MethodType, TracebackType

import torch

__all__ = ["TRUTH", "definition", "locate", "origin"]

_OWN = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep

TRUTH = "the truth of a traced value is not known, because it stands for every pair at once"
"""The fault of `if`, `and`, `max` and their like; what to write instead depends on the line."""

# The first that the line matches. What is specific stands first: `if a and b` is about `and`.
_REWRITES = (
    (r"\b(max|min)\(", "write torch.maximum(a, b) or torch.minimum(a, b)"),
    (r"\band\b", "write (a) & (b)"),
    (r"\bor\b", "write (a) | (b)"),
    (r"\bnot\b", "write ~condition"),
    (r"[<>]=?[^<>&|,]*[^<>&|,-][<>]", "write (a <= b) & (b < c) instead of a <= b < c"),
    (r"\bin\b", "write (values == item).any() with a tensor of values"),
)
_CHOICE = "write torch.where(condition, a, b) for a choice and & | ~ for logic"


def locate(error: Exception, mod: object) -> None:
    """Add to an error's message where it arose and, for a question of truth, what to write instead."""
    message = error.args[0]
    where, source = origin(error.__traceback__)
    if message == TRUTH:
        advice = next((advice for pattern, advice in _REWRITES if re.search(pattern, source)), _CHOICE)
        message = f"{message}; {advice}"
    error.args = (message + (where or definition(mod)), *error.args[1:])


def origin(traceback: TracebackType | None) -> tuple[str, str]:
    """The innermost line outside Saccade and torch, as Python shows it, and its source; or empty texts."""
    where = source = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith((_OWN, _TORCH)):
            line = traceback.tb_lineno
            source = linecache.getline(code.co_filename, line, traceback.tb_frame.f_globals).strip()
            where = f'\n  File "{code.co_filename}", line {line}, in {code.co_name}\n    {source}'.rstrip()
        traceback = traceback.tb_next
    return where, source


def definition(mod: object) -> str:
    """Where a mod is defined; empty when Python does not tell."""
    function = mod.__func__ if isinstance(mod, MethodType) else mod
    if not isinstance(function, FunctionType):
        function = getattr(type(mod), "__call__", None)  # noqa: B004 - its code is wanted, not whether it is
    if not isinstance(function, FunctionType):
        return ""
    code = function.__code__
    return f'\n  File "{code.co_filename}", line {code.co_firstlineno}, in {code.co_name}'
