"""The programs of a kernel, and their places in it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Which"]


class Which(IntEnum):
    """The programs of a kernel."""

    MASK = 1  # the block mask's, asked in PARTIAL ranges
    MASK_MOD = 2  # the one that must hold beside it
    SCORE = 3
    SCORE_GRADIENT = 4  # its derivative, of the same captures and numbers; only where gradients are computed
