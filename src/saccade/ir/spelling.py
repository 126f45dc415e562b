"""Structures spelled as text and read back, remembered: for programs that travel as text at every call.

Owns two bounded tables, each of a pure function. What the text says is `text`'s affair.
"""

from __future__ import annotations

import re
from functools import lru_cache

from saccade.ir.structure import Structure
from saccade.ir.text import format_structure, parse_structure

__all__ = ["names_in", "spelled", "understood"]

_REMEMBERED = 1024
_CAPTURE = re.compile(r"(\w+): \w+\[\d+\]")


@lru_cache(_REMEMBERED)
def spelled(structure: Structure, names: tuple[str, ...] = ()) -> str:
    r"""Return the text of a structure, its captured tensors named as the user names them where that can be.

    Example:
        >>> from saccade.ir.text import parse_structure
        >>> spelled(parse_structure("mask(c0: i32[1]) -> bool \n c0[q_idx] == c0[kv_idx]"), ("document",))
        'mask(document: i32[1]) -> bool\ndocument[q_idx] == document[kv_idx]'
    """
    return format_structure(structure, names=names)


@lru_cache(_REMEMBERED)
def understood(text: str) -> Structure:
    """Return the structure that a text spells.

    Raises:
        ProgramError: The text spells none.
    """
    return parse_structure(text)


@lru_cache(_REMEMBERED)
def names_in(text: str) -> tuple[str, ...]:
    r"""Return the names that a text has for the captured tensors, by slot.

    Example:
        >>> names_in("mask(document: i32[1], n0: i64) -> bool\ndocument[q_idx] == n0")
        ('document',)
    """
    return tuple(_CAPTURE.findall(text.partition("\n")[0]))
