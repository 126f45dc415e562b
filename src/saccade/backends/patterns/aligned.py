"""A pattern over the keys that some query sees, counted from the lower right corner, as libraries count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.backends.patterns.exact import Pattern

__all__ = ["Aligned", "aligned"]


@final
@dataclass(frozen=True)
class Aligned:
    """A band whose last query has the place of the last key.

    With n keys, query q sees key k, both counted from 0, where ``-left <= k - (q + n - q_len) <= right``.

    Attributes:
        start: The first key that is taken.
        stop: The end of those that are: n is stop - start.
        left: How many keys before its place a query sees; None for all.
        right: How many after it, likewise.
    """

    start: int
    stop: int
    left: int | None
    right: int | None

    @property
    def is_causal(self) -> bool:
        """Whether a query sees its own place and all before, and no more."""
        return self.left is None and self.right == 0

    @property
    def hides_nothing(self) -> bool:
        """Whether every query sees every key that is taken."""
        return self.left is None and self.right is None


def aligned(pattern: Pattern, q_len: int, kv_len: int) -> Aligned | None:
    """Count a pattern's band from the lower right corner; documents are as long in queries as in keys.

    Args:
        pattern: The pattern.
        q_len: Queries.
        kv_len: Keys.

    Returns:
        The band; None where a query's own place is outside of it, or no key is seen at all (in a call that
        has some).

    Example:
        >>> aligned(Pattern(right=0), 3, 5)  # causal from the upper left: the last two keys are not seen
        Aligned(start=0, stop=3, left=None, right=0)
        >>> aligned(Pattern(right=2), 3, 5)  # from the lower right
        Aligned(start=0, stop=5, left=None, right=0)
    """
    left, right = pattern.left, pattern.right
    start, stop = 0, kv_len
    if left is None and right is None:
        return Aligned(start, stop, left, right)
    if not pattern.documents:
        start = 0 if left is None else max(0, -left)
        stop = kv_len if right is None else min(kv_len, q_len + right)
    if stop <= start:
        return None
    if left is not None:
        left += stop - q_len
        if left < 0:
            return None
    if right is not None:
        right += q_len - stop
        if right < 0:
            return None
    # In documents, which may be shorter, the same limits hide nothing either.
    return Aligned(
        start,
        stop,
        None if left is None or left >= stop - start - 1 else left,
        None if right is None or right >= q_len - 1 else right,
    )
