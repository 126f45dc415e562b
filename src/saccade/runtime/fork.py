"""What a forked child must know and do: that it is one, and which of its objects to make anew.

A child has the forking thread alone. Locks that other threads held stay held, builds they had begun never
end, and the team of OpenMP threads is gone. This module owns the one hook that mends objects in the child;
what mending means is each object's own business.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Renewable", "is_forked_child", "renew_in_child"]


class Renewable(Protocol):
    """An object with locks or threads behind it."""

    def renew(self) -> None:
        """Make the object usable in a child, whatever other threads were doing to it at the fork."""


_renewables: WeakSet[Renewable] = WeakSet()
_forked = False


def is_forked_child() -> bool:
    """Tell whether this process is the child of a fork that happened after this module was imported.

    Example:
        >>> is_forked_child()
        False
    """
    return _forked


def renew_in_child(owner: Renewable) -> None:
    """Have an object renewed in every child forked while it lives."""
    _renewables.add(owner)


def _mend() -> None:
    global _forked
    _forked = True
    for owner in list(_renewables):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mend)
