"""Every backend by name, and the order in which `auto` asks them; each is imported on first use."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from typing import final

# An engine is loaded late, perhaps in a forked child; what tells it so must stand before the fork.
import saccade.runtime.fork  # noqa: F401
from saccade.backends.base import Backend

__all__ = ["ENTRIES", "Entry", "Visibility", "candidates", "load"]


class Visibility(Enum):
    """What torch's dispatcher, and with it torch's compilers, can see of an engine."""

    TORCH = "torch operations alone, on tensors with data or without"
    DATA = "torch operations that depend on what tensors hold"
    NATIVE = "nothing: other code computes"


@final
@dataclass(frozen=True)
class Entry:
    """Where a backend lives, and when `auto` asks it.

    Attributes:
        name: What `backend=` calls it; equal to the class's `name`.
        module: The module or package under `saccade.backends`.
        cls: The class in it.
        cpu_rank: Its place in the order of `auto` for tensors on a CPU.
        accelerator_rank: Its place for tensors on any other device.
        visibility: What torch's dispatcher can see of it.
    """

    name: str
    module: str
    cls: str
    cpu_rank: int
    accelerator_rank: int
    visibility: Visibility = Visibility.NATIVE


# On a CPU torch's flex_attention comes last: its first call of a pattern takes a C++ compiler several
# seconds.
ENTRIES: tuple[Entry, ...] = (
    Entry("cpu", "cpu", "CpuBackend", cpu_rank=0, accelerator_rank=3),
    Entry("sdpa", "sdpa", "SdpaBackend", cpu_rank=1, accelerator_rank=0, visibility=Visibility.TORCH),
    Entry(
        "flex_attention", "flex", "FlexBackend", cpu_rank=3, accelerator_rank=1, visibility=Visibility.DATA
    ),
    Entry("eager", "eager", "EagerBackend", cpu_rank=2, accelerator_rank=2, visibility=Visibility.DATA),
)


@cache
def candidates(device: str) -> tuple[str, ...]:
    """Return the names of all backends in the order `auto` asks them.

    Args:
        device: The type of the tensors' device.

    Example:
        >>> candidates("cpu")
        ('cpu', 'sdpa', 'eager', 'flex_attention')
    """
    rank = "cpu_rank" if device == "cpu" else "accelerator_rank"
    return tuple(entry.name for entry in sorted(ENTRIES, key=lambda entry: getattr(entry, rank)))


@cache
def load(name: str) -> Backend:
    """Return a backend, importing its module the first time.

    Args:
        name: One of the names in `ENTRIES`.

    Raises:
        KeyError: No entry has the name.

    Example:
        >>> load("eager").name
        'eager'
    """
    entry = {entry.name: entry for entry in ENTRIES}[name]
    backend: Backend = getattr(import_module(f"saccade.backends.{entry.module}"), entry.cls)()
    return backend
