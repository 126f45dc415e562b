"""What was compiled, by what it was compiled from: bounded, and each key built once.

Owns the agreement between threads that ask for one key at the same time. It knows nothing of kernels: keys
are hashable, values anything. Invariant: the lock is never held while a value is built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, final

from saccade.runtime.fork import renew_in_child

__all__ = ["KernelCache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@final
class _Entry(Generic[Value]):
    """A value, and whether it was asked for since it was last considered for eviction."""

    __slots__ = ("used", "value")

    def __init__(self, value: Value) -> None:
        self.value = value
        self.used = False


@final
class _Build:
    """A build under way, which other threads may wait for."""

    __slots__ = ("builder", "done", "fault")

    def __init__(self) -> None:
        self.builder = threading.get_ident()
        self.done = threading.Event()
        self.fault: Exception | None = None


@final
class KernelCache(Generic[Key, Value]):
    """A bounded map that builds what it lacks, once however many threads ask.

    A hit is one look into a dictionary, without a lock. Recency is therefore approximate ("second chance",
    Corbató 1968): when room is needed the entries are visited in turn; one used since its last turn gets
    another, and the first unused one goes. Users of an evicted value keep it alive.

    Args:
        capacity: The most values held.

    Example:
        >>> lengths: KernelCache[str, int] = KernelCache(capacity=256)
        >>> lengths.get("causal", lambda: len("causal")), lengths.get("causal", lambda: -1)
        (6, 6)
        >>> lengths.builds
        1
    """

    def __init__(self, capacity: int = 256) -> None:
        assert capacity > 0
        self.capacity = capacity
        self.builds = 0
        """How many values were built so far."""
        self._entries: dict[Key, _Entry[Value]] = {}
        self._under_way: dict[Key, _Build] = {}
        self._lock = threading.Lock()
        renew_in_child(self)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, build: Callable[[], Value]) -> Value:
        """Return the value of a key, building it if there is none.

        Args:
            key: What the value depends on.
            build: Makes the value. An exception it raises reaches every thread that waits for this build, and
                is not remembered: the next call tries again. If the builder is interrupted (Ctrl-C), a
                waiting thread builds in its place.
        """
        entry = self._entries.get(key)
        if entry is None:
            return self._get_or_build(key, build)
        entry.used = True
        return entry.value

    def clear(self) -> None:
        """Forget every value; builds under way finish and are stored."""
        with self._lock:
            self._entries.clear()

    def renew(self) -> None:
        """Drop, in a forked child, the builds of threads that it does not have."""
        self._lock = threading.Lock()
        self._under_way.clear()

    def _get_or_build(self, key: Key, build: Callable[[], Value]) -> Value:
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    entry.used = True
                    return entry.value
                running = self._under_way.get(key)
                if running is None:
                    mine = self._under_way[key] = _Build()
                    break
            assert running.builder != threading.get_ident(), f"the build of {key!r} asks for itself"
            running.done.wait()
            if running.fault is not None:
                raise running.fault
        return self._build(key, build, mine)

    def _build(self, key: Key, build: Callable[[], Value], mine: _Build) -> Value:
        try:
            value = build()
            with self._lock:
                self.builds += 1
                self._make_room()
                self._entries[key] = _Entry(value)
            return value
        except Exception as fault:
            mine.fault = fault
            raise
        finally:
            with self._lock:
                self._under_way.pop(key, None)
            mine.done.set()

    def _make_room(self) -> None:
        """Evict the first entry in turn that was not used since its last turn; the lock is held."""
        while len(self._entries) >= self.capacity:
            key = next(iter(self._entries))
            entry = self._entries.pop(key)
            if entry.used:
                entry.used = False
                self._entries[key] = entry
