"""Scratch memory that calls share one after the other, so that each does not fault its pages in again.

A fresh 32 MB buffer costs 3 ms of page faults before the first useful write; a returned one costs nothing.
Owns which buffers are kept. Invariant: free buffers hold at most `limit` bytes together, and a buffer is
lent to one borrower at a time.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import final

import numpy
from numpy.typing import NDArray

from saccade.runtime.fork import renew_in_child

__all__ = ["ALIGNMENT", "WORKSPACE", "Loan", "Workspace"]

ALIGNMENT = 64
"""Every buffer starts at a multiple of this many bytes: a cache line, and the widest vector."""

_SMALLEST = 4096


@final
class Loan:
    """A buffer on loan, handed back when its `with` block ends.

    One that is never handed back (an exception struck before the block was entered) is freed, not leaked.

    Attributes:
        memory: uint8 [size], 64-byte aligned, holding whatever the last borrower left.
        address: Of its first byte.
        size: In bytes: what was asked for, or somewhat more.
    """

    __slots__ = ("_workspace", "address", "memory", "size")

    def __init__(self, workspace: Workspace, memory: NDArray[numpy.uint8]) -> None:
        self._workspace = workspace
        self.memory = memory
        self.address: int = memory.ctypes.data
        self.size = memory.nbytes

    def __enter__(self) -> Loan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workspace.take_back(self)


@final
class Workspace:
    """Reusable memory for packed keys and threads' scratch.

    Args:
        limit: The most bytes kept while nobody uses them. A larger buffer is freed when it comes back.

    Example:
        >>> workspace = Workspace(limit=1 << 20)
        >>> with workspace.borrow(10_000) as loan:
        ...     loan.size, loan.address % ALIGNMENT
        (10240, 0)
        >>> workspace.kept
        10240
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self.limit = limit
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Start empty, as a forked child does: its parent's buffers are copied when written, page by page."""
        self._lock = threading.Lock()
        self._free: list[Loan] = []  # in the order they came back
        self.kept = 0
        """Bytes held for the next borrowers."""

    def borrow(self, size: int) -> Loan:
        """Lend a buffer of at least `size` bytes, its contents unspecified.

        Args:
            size: In bytes; 0 is allowed.
        """
        rounded = _rounded(size)
        with self._lock:
            for place in range(len(self._free) - 1, -1, -1):
                if self._free[place].size == rounded:
                    self.kept -= rounded
                    return self._free.pop(place)
        return Loan(self, _aligned(rounded))

    def take_back(self, loan: Loan) -> None:
        """Keep a buffer for the next borrower, in place of those unused for longest where room is short."""
        if loan.size > self.limit:
            return
        with self._lock:
            self._free.append(loan)
            self.kept += loan.size
            while self.kept > self.limit:
                self.kept -= self._free.pop(0).size


def _rounded(size: int) -> int:
    """The size rounded up to four steps an octave, so that nearly equal calls share buffers."""
    step = max(1 << max(0, size.bit_length() - 3), _SMALLEST // 4)
    return max(_SMALLEST, -(-size // step) * step)


def _aligned(size: int) -> NDArray[numpy.uint8]:
    """Fresh memory; numpy asks for huge pages where it is large, which torch does not."""
    memory = numpy.empty(size + ALIGNMENT, numpy.uint8)
    skipped = -memory.ctypes.data % ALIGNMENT
    return memory[skipped : skipped + size]


WORKSPACE = Workspace()
"""The process's own."""
