"""FILE.py:FUNCTION on the command line: a mod of the user's own, loaded from a file.

The file runs as a module, as Python would run it; that is what the user asked for by naming it. Owns the
reading of such references and the messages about what is missing.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from saccade.errors import ArgumentError

__all__ = ["is_file_reference", "load_mod"]

_REFERENCE = re.compile(r"(?P<path>.*\.py)(?::(?P<name>.*))?", re.DOTALL)


def is_file_reference(text: str) -> bool:
    """Whether a text names a function in a file, rather than being an expression.

    Example:
        >>> is_file_reference("mods/tree.py:tree_mask"), is_file_reference("causal")
        (True, False)
    """
    return _REFERENCE.fullmatch(text.strip()) is not None


def load_mod(reference: str) -> Callable[..., object]:
    """Load the function that FILE.py:FUNCTION names.

    Args:
        reference: A path that ends in .py, a colon, and a name that the file defines at its top level.

    Returns:
        What the name stands for: the user's own function or mod, untouched.

    Raises:
        ArgumentError: The file or the name does not exist, the file fails to run, or the name is no function.
    """
    found = _REFERENCE.fullmatch(reference.strip())
    if found is None or not found["name"]:
        raise ArgumentError(f"expected FILE.py:FUNCTION, got {reference!r}; name the function after a colon")
    path, name = Path(found["path"]).expanduser(), found["name"]
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r} (looked in {Path.cwd()}); correct the path")
    module = _run(path)
    mod = getattr(module, name, None)
    if mod is None:
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, own, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no function at all'}"
        raise ArgumentError(f"{path} has no function called {name}; {remedy}")
    if not callable(mod):
        raise ArgumentError(f"{path}:{name} must be a function, got the {type(mod).__name__} {mod!r}")
    loaded: Callable[..., object] = mod
    return loaded


def _run(path: Path) -> ModuleType:
    """Run a file as a module, with its directory importable meanwhile."""
    # A name of its own: the file may be called as a module of the standard library is.
    name = f"saccade_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, because dataclasses look their own module up.
    sys.modules[name] = module
    directory = str(path.resolve().parent)
    sys.path.insert(0, directory)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as fault:
        raise ArgumentError(
            f"{path} fails when it is run: {type(fault).__name__}: {fault}; correct the file"
        ) from fault
    finally:
        sys.path.remove(directory)
    return module
