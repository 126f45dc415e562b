"""Compiled functions on torch's own threads.

Kernels run in the OpenMP team that torch uses: a second pool would fight with torch's workers, which go on
spinning for a while after each of torch's operators. Owns the dispatch, in slices, so that Python sees
signals; what is in the argument block is the engine's. Invariant: when a function of this module returns or
raises, nothing of the work is running.

The team is entered through `GOMP_parallel`, which GNU's, LLVM's and Intel's OpenMP libraries offer alike.
Where the process has none of them, Python threads do the work: slower to begin, otherwise the same.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias, final

import numpy
import torch
from numpy.typing import NDArray

from saccade.runtime.fork import is_forked_child

__all__ = ["NEXT_ITEM", "NEXT_SLOT", "STOP_ITEM", "alone_in_child", "run", "run_sliced", "thread_count"]

NEXT_ITEM, STOP_ITEM, NEXT_SLOT = 0, 1, 2
"""The slots of the state block that a slice sets; kernels know them by the same numbers."""

_Dispatch: TypeAlias = Callable[[int, int, int, int], object]

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # void entry(void *arguments), called without the GIL


def thread_count() -> int:
    """Return how many threads a call should use: torch's number, or 1 in a forked child.

    A child has only the thread that forked; the OpenMP library does not know that and would wait for the
    others.

    Example:
        >>> thread_count() == torch.get_num_threads()
        True
    """
    return 1 if is_forked_child() else torch.get_num_threads()


@contextmanager
def alone_in_child() -> Iterator[None]:
    """Keep torch's own operators on the calling thread if this is a forked child: see `thread_count`."""
    if not is_forked_child():
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run(address: int, arguments: int, threads: int) -> None:
    """Call a compiled function once on every thread of a team, and wait for all.

    Args:
        address: Of a function ``void entry(void *arguments)``. Its kernel must be held by the caller.
        arguments: Address handed to each call. What it points to must be held by the caller.
        threads: 1 to run on the calling thread alone, else `thread_count()`: a team of any other size makes
            the OpenMP library end threads and start them again. The team may turn out smaller.
    """
    if threads == 1:
        _ENTRY(address)(arguments)
    else:
        _team()(address, arguments, threads, 0)


def run_sliced(
    address: int,
    arguments: int,
    threads: int,
    state: NDArray[numpy.int64] | MutableSequence[int],
    stops: Iterable[int],
) -> None:
    """Run a function whose calls take items off a shared counter, slice by slice.

    Python handles signals between slices: Ctrl-C raises KeyboardInterrupt there, and the rest is not done.

    Args:
        address: As for `run`; the function takes items by an atomic add to ``state[NEXT_ITEM]`` until it gets
            `STOP_ITEM` or more.
        arguments: As for `run`.
        threads: As for `run`.
        state: The int64 block that the arguments point to.
        stops: For each slice the item after its last, ascending; the first slice begins at item 0.
    """
    start = 0
    for stop in stops:
        # Set anew each time: every thread of the slice before has gone one item too far.
        state[NEXT_ITEM] = start
        state[STOP_ITEM] = stop
        state[NEXT_SLOT] = 0
        run(address, arguments, threads)
        start = stop


@cache
def _team() -> _Dispatch:
    """`GOMP_parallel` as torch itself calls it, or Python threads in its place."""
    # The dynamic linker resolved torch's own calls in this order.
    for library in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):
        try:
            parallel = ctypes.CDLL(library).GOMP_parallel
        except (OSError, AttributeError, TypeError):  # no such file; no such symbol; no None on Windows
            continue
        parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        parallel.restype = None
        return parallel
    return _python_threads


def _python_threads(address: int, arguments: int, threads: int, _flags: int) -> None:
    """What `GOMP_parallel` does, by threads made for the occasion."""
    entry = _ENTRY(address)
    crew = _Crew(entry, arguments)
    fault: BaseException | None = None
    try:
        for _ in range(threads - 1):
            # Not threading's: an exception inside its `start` leaves a lock in disorder.
            _thread.start_new_thread(crew.lend_a_hand, ())
        entry(arguments)
    except BaseException as raised:
        fault = raised
    while True:  # a signal's handler may interrupt anything but this loop
        try:
            crew.dismiss()
            break
        except BaseException as raised:
            fault = raised
    if fault is not None:
        raise fault


@final
class _Crew:
    """Threads that may take part in one piece of work, until it is declared over."""

    def __init__(self, entry: Callable[[int], object], arguments: int) -> None:
        self._entry = entry
        self._arguments = arguments
        self._lock = threading.Lock()
        self._over = False
        self._at_work = 0

    def lend_a_hand(self) -> None:
        """Take part, unless it is too late: whoever called may have begun and ended alone."""
        with self._lock:
            if self._over:
                return
            self._at_work += 1
        self._entry(self._arguments)
        with self._lock:
            self._at_work -= 1

    def dismiss(self) -> None:
        """Let nobody begin any more, and wait for those at work; may be interrupted and called again."""
        with self._lock:
            self._over = True
        # By naps, because conditions and events do not survive an exception inside them either.
        while self._at_work:
            time.sleep(20e-6)
