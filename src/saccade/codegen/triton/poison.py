"""Poison, noted: where an index out of range or a division by zero decided something visible.

The first tile to meet it writes the record, six int64: the program's `Which` plus one (0: nothing noted), b,
a head, the tile's first query, its first key, and one that is spare.
"""

from __future__ import annotations

from saccade.codegen.program.which import Which
from saccade.codegen.triton.template import Lines

__all__ = ["NOTE_POISON", "note"]

NOTE_POISON = '''\
@triton.jit
def note_poison(record, flags, which, b, h, q_idx, kv_idx):
    """Note the smallest head with a flag in a tile, if there is one, and nothing was noted before."""
    head = tl.min(tl.where(flags, h, 0x7FFFFFFF))
    if head != 0x7FFFFFFF:
        if tl.atomic_cas(record, tl.full([], 0, tl.int64), which.to(tl.int64)) == 0:
            tl.store(record + 1, b)
            tl.store(record + 2, head)
            tl.store(record + 3, q_idx)
            tl.store(record + 4, kv_idx)
'''


def note(which: Which, poison: str, deciding: str, *, of_keys: bool = False) -> Lines:
    """Return lines that note poison in a tile of pairs.

    Args:
        which: The program.
        poison: Which pairs are poison.
        deciding: Which of them decide something, of the shape of a tile.
        of_keys: Whether the tile is one of keys, from `first` on, of which queries are walked, from `start_m`
            on; else it is one of queries from `first` on, and keys from `start_n`.
    """
    flags = f"({deciding}) & ({poison})"
    place = "start_m, first" if of_keys else "first, start_n"
    return (f"note_poison(poison, {flags}, tl.full([], {which + 1}, tl.int32), b, h, {place})",)
