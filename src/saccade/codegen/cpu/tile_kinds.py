"""Plain tiles and others: code for tiles whose pairs are all visible, beside code for those that hide some.

A tile is *plain* where all its pairs are known to be visible; of it nothing is asked. Which passes exist
twice is the kernel's choice.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade.codegen.cpu.emitter import Emitter, Value
from saccade.codegen.cpu.rows import OnVector
from saccade.codegen.cpu.tile_programs import PairPlaces, TilePrograms

__all__ = ["by_kind", "change_of_row", "is_plain"]


def is_plain(
    e: Emitter, programs: TilePrograms, limits: tuple[Value, Value], keys: int, partial: Value
) -> Value | None:
    """Return whether a tile is plain (BOOL); None where that is never known.

    Args:
        e: The function.
        programs: Its programs.
        limits: int64, the first column within the range, and the column after the last.
        keys: Columns of a tile.
        partial: BOOL, whether the range is PARTIAL.
    """
    if programs.has_mask_mod:
        return None
    low, high = limits
    whole = e.compare("==", e.builder.sub(high, low), e.whole(keys))
    return e.builder.and_(whole, e.builder.not_(partial))


def by_kind(
    e: Emitter, plain: Value | None, all_seen: Callable[[], None], some_hidden: Callable[[], None]
) -> None:
    """Emit the code for either kind of tile, of which the tile's own runs."""
    if plain is None:
        some_hidden()
        return
    with e.builder.if_else(plain) as (seen, hidden):
        with seen:
            all_seen()
        with hidden:
            some_hidden()


def change_of_row(
    e: Emitter,
    programs: TilePrograms,
    places: PairPlaces,
    row: Value,
    unit: Value,
    visible: Callable[[Value], Value] | None,
) -> OnVector | None:
    """Return what becomes of a row's scores before their maximum is found; None where they stay as they are.

    Args:
        e: The function.
        programs: Its programs.
        places: Where the pairs are.
        row: int64, within the tile.
        unit: What a score in memory is multiplied by to be a score.
        visible: From a column to the visible lanes of its vector; None where all are.
    """
    if visible is None and not programs.has_score:
        return None
    mod = programs.score_of_row(places, row) if programs.has_score else None
    nothing = e.real(float("-inf"))

    def changed(score: Value, column: Value) -> Value:
        lanes = None if visible is None else visible(column)
        if mod is not None:
            score = mod(e.binary("fmul", score, unit), column, lanes)
        return score if lanes is None else e.select(lanes, score, nothing)

    return changed
