"""What wrote a text: a fingerprint of this version of Saccade, as far as kernels depend on it.

Invariant: two installations whose generators differ in a byte have different fingerprints, whatever their
version says.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

__all__ = ["generator_fingerprint"]

_PACKAGE = Path(__file__).resolve().parents[2]

# The version stands in `__init__.py`; `ir` is what texts are made from, `codegen` makes them.
_PARTS = ("__init__.py", "ir", "codegen", "runtime/triton")


@cache
def generator_fingerprint() -> str:
    """Return 16 hexadecimal digits that stand for the files which generate kernels, read once.

    Example:
        >>> len(generator_fingerprint())
        16
    """
    return fingerprint_of(_PACKAGE, _PARTS)


def fingerprint_of(root: Path, parts: tuple[str, ...]) -> str:
    """The fingerprint of files and directories under a root, without what Python compiles."""
    digest = hashlib.sha256()
    for part in parts:
        here = root / part
        files = [here] if here.is_file() else sorted(here.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = file.read_bytes()
                digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()[:16]
