"""Text with holes: a line `<<name>>` stands for a block of lines, which take its indentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Lines", "fill"]

Lines: TypeAlias = tuple[str, ...]
"""Lines of Python without a common indentation."""

_HOLE = re.compile(r"( *)<<(\w+)>>")


def fill(template: str, **blocks: Sequence[str]) -> Lines:
    r"""Return a template's lines, each hole filled; an empty block leaves nothing.

    Args:
        template: Its text.
        blocks: The lines for each of its holes, by name; no other.

    Example:
        >>> print("\n".join(fill("while True:\n    <<body>>", body=["a = 1", "b = 2"])))
        while True:
            a = 1
            b = 2
    """
    holes = {match[2] for line in template.splitlines() if (match := _HOLE.fullmatch(line))}
    assert holes == set(blocks), f"holes and blocks differ: {sorted(holes ^ set(blocks))}"
    return tuple(_filled(template, blocks))


def _filled(template: str, blocks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for line in template.splitlines():
        match = _HOLE.fullmatch(line)
        if match is None:
            yield line
        else:
            for inner in blocks[match[2]]:
                yield match[1] + inner if inner else inner
