"""A file is there whole or not at all, whoever else writes it at the same time.

Owns writing and nothing about content. Invariant: readers see an old text or a new one, never a part.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at a path, replacing what is there in one step.

    Args:
        path: Where; its directory exists. The file can be read and written by its owner alone.
        content: All of the file.

    Raises:
        OSError: The directory cannot be written, or the disk is full; what was at the path is still there.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
