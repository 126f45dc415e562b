"""The process where Triton interprets: it runs test bodies and answers with what they raised."""

from __future__ import annotations

import functools
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from conftest import SEED

__all__ = ["serve"]


def serve(connection: Connection) -> None:
    """Answer requests until the other end is closed."""
    # A device computes on through infinities and NaN, and so do interpreted kernels.
    np.seterr(all="ignore")
    while True:
        try:
            path, name, arguments = connection.recv()
        except EOFError:
            return
        connection.send(_raised(path, name, arguments))


def _raised(path: str, name: str, arguments: dict[str, object]) -> str | None:
    try:
        test = _body(_module(path), name)
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            test(**arguments)
    # Whatever it is, pytest's own outcomes among it, it is the test's and not this process's.
    except BaseException as fault:
        return "".join(traceback.format_exception(fault))
    return None


def _body(module: ModuleType, name: str) -> Callable[..., None]:
    """A decorated function without its decorator, or a method so, bound to an object of its class."""
    body: Callable[..., None] = attrgetter(name)(module).__wrapped__
    owner, _, _ = name.rpartition(".")
    return functools.partial(body, attrgetter(owner)(module)()) if owner else body


@functools.cache
def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"interpreted_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
