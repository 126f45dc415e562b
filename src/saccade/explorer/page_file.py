"""The page as a file: written whole or not at all.

Owns where the file is put and how; what it holds is said in `page`. Invariant: a reader finds the old page or
the new one, never a part, and nothing is left beside them.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from stat import S_IMODE, S_ISREG

from saccade.errors import ArgumentError

__all__ = ["write_page"]


def write_page(path: Path, text: str, *, given: str) -> None:
    """Write a page in one step.

    Args:
        path: The file. Missing directories are made. An old file is replaced and hands on its mode; a
            symbolic link stays, and what it points to is replaced.
        text: What the file holds, written as UTF-8.
        given: How the user named the file, for the message.

    Raises:
        ArgumentError: The file cannot be written, or is a directory, a pipe or a device.

    Example:
        >>> written = getfixture("tmp_path") / "new" / "page.html"
        >>> write_page(written, "<!doctype html>", given=f"--html {written}")
        >>> written.read_text()
        '<!doctype html>'
    """
    try:
        _replace(path, text.encode())
    # Of a path that holds a zero byte, Python says so by a ValueError.
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise ArgumentError(
            f"expected a file that can be written, got {given} ({reason}); choose another"
        ) from fault


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place, then put it there."""
    mode = _mode(path)
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            file.write(content)
        if mode is not None:
            beside.chmod(mode)
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int | None:
    """The mode of the old file; None where there is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return S_IMODE(mode)
