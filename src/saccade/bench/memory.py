"""Memory a call needs at its peak, as the operating system counts it.

Linux keeps a high-water mark of resident memory for every process (VmHWM) and lets the process reset it, so
the mark of one call is its true peak, scratch memory of every library included. Elsewhere nothing comparable
is offered, and the answer is None rather than a guess.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["available_bytes", "peak_memory"]

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")


def peak_memory(call: Callable[[], T]) -> tuple[T, int | None]:
    """Call a function and tell by how many bytes the process grew at the call's peak.

    Args:
        call: What to measure; called once.

    Returns:
        What the call returned, and the peak resident memory during the call minus the resident memory before
        it, in bytes. None where the system does not tell. What the process holds unused is handed back
        first, as far as its allocator can, so that the call takes its memory anew.
    """
    before = _restart_high_water_mark()
    value = call()
    after = _kilobytes(_STATUS, "VmHWM")
    if before is None or after is None:
        return value, None
    return value, max(0, after - before) * 1024


def available_bytes() -> int | None:
    """Return the bytes that new work may take without swapping; None where the system does not tell."""
    available = _kilobytes(_MEMINFO, "MemAvailable")
    return None if available is None else available * 1024


def _restart_high_water_mark() -> int | None:
    """Set VmHWM to the present resident memory and return that, in kilobytes; None where it cannot be set."""
    _hand_back_unused()
    try:
        # 5 is the kernel's code for this one effect (proc(5), /proc/pid/clear_refs).
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    return _kilobytes(_STATUS, "VmRSS")


def _hand_back_unused() -> None:
    """Return freed memory to the system; glibc keeps some of it for later calls."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _kilobytes(source: Path, field: str) -> int | None:
    """Read a field such as `VmHWM:  1234 kB`."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", source.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1])
