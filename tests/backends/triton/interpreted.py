"""Tests whose bodies run where Triton interprets: in one other process, which lives as long as this one.

Triton decides when it is imported whether it compiles or interprets, so tests that want its interpreter run
in a process that was started with TRITON_INTERPRET=1. A decorated test is collected, chosen and reported as
any other; only its body is sent there, by name, with its parameters. What it raises there fails it here, and
so does the end of that process, with what it wrote to its standard error.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import saccade
from backends.triton.presence import require_triton

__all__ = ["interpreted"]

_TESTS = Path(__file__).resolve().parents[2]
_SOURCES = Path(saccade.__file__).resolve().parents[1]
_SECONDS = 300.0  # no test takes a tenth of it; one that hangs must end


def interpreted(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test function's or method's body in the process where Triton interprets."""

    @functools.wraps(test)
    def sent(*own: object, **arguments: Any) -> None:
        __tracebackhide__ = True
        assert len(own) <= 1, "only self is given by place"
        require_triton()
        fault = _interpreter().run(inspect.getfile(test), test.__qualname__, arguments)
        if fault is not None:
            pytest.fail(fault, pytrace=False)

    return sent


class _Interpreter:
    """The other process. Where it has ended, the next test starts another."""

    def __init__(self) -> None:
        self._room = tempfile.TemporaryDirectory(prefix="saccade_interpreted_")
        self._errors = Path(self._room.name, "stderr")
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, path: str, name: str, arguments: dict[str, object]) -> str | None:
        """Run a test there; return what it raised, as text."""
        connection = self._started()
        try:
            connection.send((path, name, arguments))
            if not connection.poll(_SECONDS):
                return f"the interpreting process gave no answer in {_SECONDS:.0f} s{self._end()}"
            answer: str | None = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return f"the interpreting process ended{self._end()}"
        return answer

    def close(self) -> None:
        """End the process."""
        self._end()
        self._room.cleanup()

    def _started(self) -> Connection:
        if self._connection is None:
            mine, other = socket.socketpair()
            with other, self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "backends.triton.interpreting_process", str(other.fileno())],
                    pass_fds=[other.fileno()],
                    env=self._environment(),
                    stdout=errors,
                    stderr=errors,
                )
            self._connection = Connection(mine.detach())
        return self._connection

    def _environment(self) -> dict[str, str]:
        roots = [str(_TESTS), str(_SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        return os.environ | {
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join(roots),
            "SACCADE_CACHE_DIR": str(Path(self._room.name, "cache")),
            "OMP_NUM_THREADS": "1",  # tensors are tiny, and others compute beside
        }

    def _end(self) -> str:
        """End the process; return how it ended and what it had to say."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is None or connection is None:
            return ""
        connection.close()
        try:
            code: object = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "none, it was killed"
        return f" (exit status: {code}):\n{self._errors.read_text(errors='replace')[-8000:]}"


@functools.cache
def _interpreter() -> _Interpreter:
    process = _Interpreter()
    atexit.register(process.close)
    return process
