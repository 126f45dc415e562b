"""The package triton: whether it is there, and whether it interprets kernels instead of compiling them.

Triton is optional and slow to import, so this file alone imports it, when it is first needed; the rest of
the room asks here. Invariant: whether kernels are interpreted does not change in a process that has imported
triton, because triton decides it for its own functions when it is imported.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any, TypeAlias

from saccade.errors import MissingPackageError
from saccade.settings import TRITON_INTERPRET

__all__ = ["TritonPackage", "is_interpreted", "missing_package", "triton_package"]

TritonPackage: TypeAlias = Any
"""The module `triton`, which is not typed."""

_PARTS = ("backends", "compiler", "language", "runtime.interpreter", "tools.tensor_descriptor")


@cache
def missing_package() -> str | None:
    """Tell why triton cannot be imported, as a clause about "it", what needs triton; None if it can.

    Imports triton the first time. The answer holds for the life of the process.
    """
    try:
        import triton  # noqa: F401 - deferred: optional, and slow to import

        for part in _PARTS:
            importlib.import_module(f"triton.{part}")
    except ImportError as fault:
        if isinstance(fault, ModuleNotFoundError) and fault.name == "triton":
            return "it needs the package triton, which is not installed: pip install 'saccade[gpu]'"
        return f"it needs the package triton, which is installed but cannot be imported: {fault}"
    return None


def triton_package() -> TritonPackage:
    """Return the module `triton`, with the submodules that this room uses.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported.
    """
    missing = missing_package()
    if missing is not None:
        raise MissingPackageError(f"saccade.runtime.triton was asked for a kernel; {missing}.")
    return sys.modules["triton"]


def is_interpreted() -> bool:
    """Tell whether kernels run in triton's interpreter, on the CPU; that is chosen by `TRITON_INTERPRET=1`.

    Before triton is imported this reads the variable and imports nothing; afterwards it tells what triton
    found there. Slow and exact, the interpreter is for checking kernels without an accelerator.
    """
    if "triton" in sys.modules and missing_package() is None:
        return _standard_functions_are_interpreted()
    return TRITON_INTERPRET.read()


@cache
def _standard_functions_are_interpreted() -> bool:
    triton = triton_package()
    return isinstance(triton.language.softmax, triton.runtime.interpreter.InterpretedFunction)
