"""What triton would print while it compiles for Saccade goes to the logger.

When ptxas refuses a kernel, triton prints all of its assembly, and raises an error that holds the complaint.
A library that tries tile after tile must not print. Invariant: only the thread inside `told_to_the_log` is
affected; what triton prints for anyone else is printed.
"""

from __future__ import annotations

import builtins
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from saccade.runtime.triton.installed import triton_package

__all__ = ["told_to_the_log"]

_log = logging.getLogger("saccade")
_here = threading.local()


@contextmanager
def told_to_the_log() -> Iterator[None]:
    """Send what triton's compilers print in this thread to the logger `saccade`, at DEBUG."""
    _listen()
    _here.listens = True
    try:
        yield
    finally:
        _here.listens = False


@cache
def _listen() -> None:
    """Give triton's compilers a `print` that asks who is listening; theirs is the builtin."""
    for backend in triton_package().backends.backends.values():
        vars(sys.modules[backend.compiler.__module__]).setdefault("print", _print)


def _print(*values: Any, **options: Any) -> None:
    if getattr(_here, "listens", False):
        _log.debug("triton: %s", " ".join(map(str, values)))
    else:
        builtins.print(*values, **options)  # noqa: T201 - what triton prints for others
