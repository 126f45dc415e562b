"""A mask as text: one cell of two characters per section of blocks. Standard library only.

██ every block of the section is FULL    ░░ some pairs are visible    blank: none is
"""

from __future__ import annotations

from collections.abc import Sequence

from saccade.errors import ArgumentError

_CELLS = {0: "  ", 1: "░░", 2: "██"}


def grid_text(sections: Sequence[Sequence[int]]) -> str:
    """Draw the sections of one batch and head.

    Args:
        sections: Per row of sections, the kind of each: 0 empty, 1 partial, 2 full.

    Returns:
        One line a row, each ending with a newline.

    Example:
        >>> print(grid_text([[1, 0, 0], [2, 1, 0], [2, 2, 1]]), end="")
        ░░
        ██░░
        ████░░
    """
    return "".join("".join(_CELLS[kind] for kind in row) + "\n" for row in sections)


def mask_text(grids: Sequence[tuple[tuple[int, int], Sequence[Sequence[int]]]], omitted: bool) -> str:
    """Draw several batches and heads one below the other, each under its indices.

    Args:
        grids: Pairs of ``(b, h)`` and its sections, as for `grid_text`.
        omitted: Whether there are more than were given.

    Returns:
        The text, its last line ending with a newline unless more were omitted.
    """
    parts = [f"({b}, {h})\n{grid_text(sections)}" for (b, h), sections in grids]
    if omitted:
        parts += [
            "...",
            "To print out more, set BlockMask.to_string(limit=N)",
            "You can also index (BlockMask[batch, head]) to choose a specific batch or head",
        ]
    return "\n".join(parts)


def steps(grid_size: int | tuple[int, int], blocks: tuple[int, int]) -> tuple[int, int]:
    """Return the block rows and columns of a section, so that at most `grid_size` sections are drawn.

    Raises:
        ArgumentError: A grid size is neither positive nor -1.
    """
    limits = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
    if any(limit < 1 and limit != -1 for limit in limits):
        raise ArgumentError(
            "grid_size must be a positive number, a pair (rows, columns), or -1 for every block, "
            f"got {grid_size!r}"
        )
    rows, cols = (
        1 if limit == -1 else max(1, -(-count // limit)) for limit, count in zip(limits, blocks, strict=True)
    )
    return rows, cols
