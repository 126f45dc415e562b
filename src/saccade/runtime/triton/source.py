"""The text of a kernel becomes a file, and the file a function.

Triton reads a kernel from the file its function was defined in, so a text must be in one, whole; debuggers
and profilers show it too. Invariants: a file's name tells its content and its generator; what is imported is
the given text, not whatever the file holds; no bytecode is written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from importlib.abc import SourceLoader
from pathlib import Path
from typing import Any, final

from saccade.runtime.triton.atomic_file import write_atomically
from saccade.runtime.triton.directory import cache_room
from saccade.runtime.triton.fingerprint import generator_fingerprint

__all__ = ["load_function", "store_source"]

_log = logging.getLogger("saccade")


def store_source(text: str, name: str) -> Path:
    """Return the file that holds a text, written if it is missing or was damaged.

    Processes and threads may store one text at the same time.

    Args:
        text: A Python module.
        name: What the file's name begins with, for people.

    Raises:
        SettingError: There is no cache directory that is safe to import from.
        OSError: The file cannot be written, as on a full disk.
    """
    content = text.encode()
    digest = hashlib.sha256(generator_fingerprint().encode() + b"\n" + content).hexdigest()[:32]
    path = cache_room("triton") / f"{name}_{digest}.py"
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        pass
    else:
        if present == content:
            return path
        _log.debug("%s does not hold what was written there; it is written again", path)
    write_atomically(path, content)
    return path


def load_function(path: Path, text: str, name: str) -> Any:
    """Import a stored text as a module of its own, and return the function of that name.

    The module is not in `sys.modules`: it lives as long as its functions.

    Args:
        path: Where `store_source` put the text.
        text: The text.
        name: The function.

    Raises:
        Exception: Whatever the text raises when it is run; AttributeError without such a function.
    """
    spec = importlib.util.spec_from_loader(f"saccade_triton_{path.stem}", _Text(path, text))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@final
class _Text(SourceLoader):
    """Loads one text as if from its file; without `path_stats`, Python keeps no bytecode of it."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = str(path)
        self._content = text.encode()

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        assert path == self._path
        return self._content
