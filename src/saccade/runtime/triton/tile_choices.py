"""Which tile was the fastest, remembered between processes: a file an architecture and a version.

Knows nothing of tiles: a choice is a few integers, a question a text. Invariant: what is remembered was
measured with this generator and this version of triton, which the file's name tells, so that versions which
share a directory leave each other's files alone; a file that cannot be read is no more than an empty one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, final

from saccade.errors import CompilationError, OutOfResourcesError
from saccade.runtime.fork import renew_in_child
from saccade.runtime.triton.atomic_file import write_atomically
from saccade.runtime.triton.directory import cache_room
from saccade.runtime.triton.fingerprint import generator_fingerprint
from saccade.runtime.triton.installed import triton_package

__all__ = ["Choice", "fastest", "remember", "remembered"]

_log = logging.getLogger("saccade")

Choice = tuple[int, ...]
Candidate = TypeVar("Candidate")


def remembered(arch: str, key: str) -> Choice | None:
    """Return what was chosen for a question on an architecture; None if it was not asked.

    A process reads an architecture's file once, but looks at the directory at every question: ask once a
    kernel, not once a launch.

    Args:
        arch: A target's name, as `cuda:90`, or a device's.
        key: The question: whatever the answer depends on.

    Raises:
        SettingError: There is no cache directory that is safe to use.
        MissingPackageError: Triton is not installed.
    """
    return _memory.choices(_path(arch)).get(key)


def remember(arch: str, key: str, choice: Sequence[int]) -> None:
    """Keep a choice, in this process and for those to come.

    Processes that write at the same time may lose one of two choices, never both, and never the file.

    Args:
        arch: As for `remembered`.
        key: As for `remembered`.
        choice: The answer.

    Raises:
        SettingError: There is no cache directory that is safe to use.
        OSError: The file cannot be written.
    """
    _memory.add(_path(arch), key, tuple(choice))


def fastest(candidates: Sequence[Candidate], measure: Callable[[Candidate], float]) -> Candidate:
    """Return the candidate that takes the least time, the first of equals.

    Args:
        candidates: What to try, at least one.
        measure: Compiles and times one, in any unit. A candidate for which it raises CompilationError (that
            it does not fit is one) is passed over, and the logger `saccade` tells so at DEBUG.

    Raises:
        OutOfResourcesError: No candidate fits.
        CompilationError: No candidate can be compiled; each reason is told.

    Example:
        >>> fastest([64, 128], measure=lambda rows: abs(rows - 100))
        128
    """
    assert candidates
    times: list[tuple[float, int]] = []
    refusals: list[tuple[Candidate, CompilationError]] = []
    for place, candidate in enumerate(candidates):
        try:
            times.append((measure(candidate), place))
        except CompilationError as fault:
            _log.debug("%s is passed over: %s", candidate, fault)
            refusals.append((candidate, fault))
    if times:
        return candidates[min(times)[1]]
    reasons = "".join(f"\n  {candidate}: {fault}" for candidate, fault in refusals)
    unfit = all(isinstance(fault, OutOfResourcesError) for _, fault in refusals)
    raise (OutOfResourcesError if unfit else CompilationError)(
        f"none of {len(refusals)} tiles can be used:{reasons}"
    ) from refusals[-1][1]


def _path(arch: str) -> Path:
    writer = hashlib.sha256(_writer().encode()).hexdigest()[:16]
    return cache_room("tiles") / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', arch)}-{writer}.json"


def _writer() -> str:
    return f"{generator_fingerprint()} triton {triton_package().__version__}"


@final
class _Memory:
    """What this process knows of the files."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Choice]] = {}
        self._lock = threading.Lock()
        renew_in_child(self)

    def choices(self, path: Path) -> dict[str, Choice]:
        known = self._known.get(path)
        if known is None:
            with self._lock:
                known = self._known.setdefault(path, _read(path))
        return known

    def add(self, path: Path, key: str, choice: Choice) -> None:
        with self._lock:
            # Another process may have written since.
            known = {**self._known.get(path, {}), **_read(path), key: choice}
            self._known[path] = known
            content = {"writer": _writer(), "choices": known}
            write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def renew(self) -> None:
        self._lock = threading.Lock()


def _read(path: Path) -> dict[str, Choice]:
    """A file's choices; none from a file of another generator, or one that is damaged."""
    try:
        content = json.loads(path.read_bytes())
        if content["writer"] != _writer():
            _log.debug("%s was written by another version; tiles are chosen anew", path)
            return {}
        return {str(key): tuple(map(int, choice)) for key, choice in content["choices"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as fault:
        _log.debug("%s cannot be read (%s: %s); tiles are chosen anew", path, type(fault).__name__, fault)
        return {}


_memory = _Memory()
