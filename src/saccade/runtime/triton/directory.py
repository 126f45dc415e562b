"""Where files are kept between processes: one directory of the user's own, and rooms inside it.

Generated sources are imported from there and so run as the user; hence the invariant: the directory belongs
to this user, and nobody else can write into it. One that breaks this is refused, never repaired.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

from saccade.errors import SettingError
from saccade.runtime.fork import renew_in_child
from saccade.settings import CACHE_DIR, USER_CACHE, user_cache_directory

__all__ = ["cache_directory", "cache_room"]

_log = logging.getLogger("saccade")


def cache_directory() -> Path:
    """Return the directory that `SACCADE_CACHE_DIR` names, created with mode 0700 where it is missing.

    Unless the variable is set that is `saccade` in `XDG_CACHE_HOME`, or in `~/.cache`. Where that cannot be
    made or written, or is another user's (as under `sudo`, which may keep the home), a private temporary
    directory serves until this process ends, and the logger `saccade` tells so at DEBUG; a directory that was
    asked for by name is used or refused.

    Raises:
        SettingError: The directory named cannot be written or belongs to another user, or others can write
            into the directory, named or not.
    """
    named = CACHE_DIR.read()
    if named != USER_CACHE:
        try:
            return _own(_writable(Path(named)))
        except OSError as fault:
            raise SettingError(
                f"{CACHE_DIR.name} must name a directory that can be made and written, but "
                f"{CACHE_DIR.name}={named!r}: {fault}; name another, or unset it for the user's own."
            ) from fault
    directory = user_cache_directory()
    if directory is None:
        return _temporary.path("there is no home directory")
    try:
        if (owner := _foreign_owner(_writable(directory))) is not None:
            return _temporary.path(f"{directory} belongs to user {owner}")
    except OSError as fault:
        return _temporary.path(str(fault))
    return _own(directory)


def cache_room(name: str) -> Path:
    """Return a directory of that name inside the cache directory, created where it is missing.

    Raises:
        SettingError: As `cache_directory`.
    """
    room = cache_directory() / name
    room.mkdir(mode=0o700, exist_ok=True)
    return _own(room)


def _writable(directory: Path) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} cannot be written")
    return directory


def _own(directory: Path) -> Path:
    """The directory, if it is this user's alone to write."""
    owner, mode = _foreign_owner(directory), directory.stat().st_mode
    if owner is not None:
        raise SettingError(
            f"the cache directory must belong to the user who runs this, for code is imported from it, but "
            f"{directory} belongs to user {owner} and this is user {os.getuid()}; "
            f"set {CACHE_DIR.name} to a directory of your own."
        )
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SettingError(
            f"the cache directory must be writable by its owner alone, for code is imported from it, but "
            f"{directory} has mode {stat.S_IMODE(mode):04o}; chmod go-w it, "
            f"or set {CACHE_DIR.name} to another."
        )
    return directory


def _foreign_owner(directory: Path) -> int | None:
    """The user it belongs to, if that is another one."""
    owner = directory.stat().st_uid
    return owner if hasattr(os, "getuid") and owner != os.getuid() else None


class _Temporary:
    """A private directory in place of the user's own, as long as the process that made it lives."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._lock = threading.Lock()
        renew_in_child(self)

    def path(self, reason: str) -> Path:
        with self._lock:
            if self._path is None or not self._path.is_dir():
                self._path = Path(tempfile.mkdtemp(prefix="saccade-"))
                _log.debug("files are kept in %s until this process ends: %s", self._path, reason)
                atexit.register(_remove, self._path, os.getpid())
            return self._path

    def renew(self) -> None:
        """In a forked child: the parent's directory is the parent's to remove."""
        self._path = None
        self._lock = threading.Lock()


def _remove(directory: Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(directory, ignore_errors=True)


_temporary = _Temporary()
