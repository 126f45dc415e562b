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
        cpu_rank: Its place in the order of `auto` for tensors on a CPU; None where it is not asked at all.
        accelerator_rank: Its place for tensors on any other device.
        visibility: What torch's dispatcher can see of it.
    """

    name: str
    module: str
    cls: str
    cpu_rank: int | None
    accelerator_rank: int
    visibility: Visibility = Visibility.NATIVE


# On a CPU torch's flex_attention comes after eager: its first call of a pattern takes a C++ compiler several
# seconds. On a GPU the libraries' kernels for exact patterns come before those that take any mod: the newest,
# which are for the newest GPUs alone, first. (docs/decisions/012)
ENTRIES: tuple[Entry, ...] = (
    Entry("cpu", "cpu", "CpuBackend", cpu_rank=0, accelerator_rank=7),
    Entry("sdpa", "sdpa", "SdpaBackend", cpu_rank=1, accelerator_rank=0, visibility=Visibility.TORCH),
    *(
        Entry(
            f"flash_attention_{version}",
            "flash",
            f"FlashAttention{version}Backend",
            cpu_rank=None,
            accelerator_rank=5 - version,
            visibility=Visibility.DATA,
        )
        for version in (4, 3, 2)
    ),
    Entry("triton", "triton", "TritonBackend", cpu_rank=None, accelerator_rank=4),
    Entry(
        "flex_attention", "flex", "FlexBackend", cpu_rank=3, accelerator_rank=5, visibility=Visibility.DATA
    ),
    Entry("eager", "eager", "EagerBackend", cpu_rank=2, accelerator_rank=6, visibility=Visibility.DATA),
)


@cache
def candidates(device: str) -> tuple[str, ...]:
    """Return the names of backends in the order `auto` asks them.

    Args:
        device: The type of the tensors' device.

    Example:
        >>> candidates("cpu")
        ('cpu', 'sdpa', 'eager', 'flex_attention')
    """
    ranks = {entry.name: entry.cpu_rank if device == "cpu" else entry.accelerator_rank for entry in ENTRIES}
    asked = {name: rank for name, rank in ranks.items() if rank is not None}
    return tuple(sorted(asked, key=asked.__getitem__))


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
