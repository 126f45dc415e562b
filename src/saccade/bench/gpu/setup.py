"""Where a run takes place and who is measured there: a GPU, or a stand-in that is named and never silent."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import final

import torch

from saccade.bench.gpu.clock import Clock, HostClock, cuda_clock
from saccade.bench.machine import Machine, describe_machine
from saccade.errors import ArgumentError, MissingPackageError, UnsupportedError
from saccade.planner import backend_names

__all__ = ["ENGINE", "Setup", "describe_card", "make_setup"]

ENGINE = "triton"
"""The backend that is measured unless another one is named."""

_CUDA = "cuda"


@final
@dataclass(frozen=True, eq=False)
class Setup:
    """What all cases of a run share.

    Attributes:
        device: Where everything lies.
        clock: Who tells the time there.
        engine: The backend that is measured as ours.
        dtype: Type of the inputs.
        compiled: Whether torch's compiled `flex_attention` takes part.
        rounds: Samples of each contender, at most.
        limit_s: Seconds that the samples of one phase of a case may take together.
    """

    device: torch.device
    clock: Clock
    engine: str
    dtype: torch.dtype = torch.bfloat16
    compiled: bool = True
    rounds: int = 20
    limit_s: float = 1.0


def make_setup(
    device: str = _CUDA, *, engine: str = ENGINE, compiled: bool = True, rounds: int = 20
) -> Setup:
    """Return the setup of a device, or say what is missing.

    Args:
        device: `cuda`, or `cpu` to go the same way without a GPU, timed by the host's clock.
        engine: The backend that is measured.
        compiled: Whether torch's compiled `flex_attention` takes part.
        rounds: Samples of each contender, at most.

    Raises:
        UnsupportedError: There is no CUDA device that torch can use.
        MissingPackageError: The engine needs triton, which is not installed.
        ArgumentError: No backend has the name, or the device is another one.

    Example:
        >>> make_setup("cpu", engine="eager").clock
        <saccade.bench.gpu.clock.HostClock object at ...>
    """
    where = _device(device)
    if engine not in backend_names():
        raise ArgumentError(f"backend must be one of {', '.join(backend_names())}, got {engine!r}")
    if engine == ENGINE and importlib.util.find_spec("triton") is None:
        raise MissingPackageError(
            "saccade bench gpu measures the backend 'triton', which needs the package triton, and that is "
            "not installed; install it with: pip install 'saccade[gpu]'"
        )
    clock = cuda_clock(where) if where.type == _CUDA else HostClock()
    return Setup(where, clock, engine, compiled=compiled, rounds=rounds)


def _device(name: str) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    if name != _CUDA:
        raise ArgumentError(f"device must be cuda or cpu, got device={name!r}; name one of these")
    if torch.cuda.is_available():
        return torch.device(_CUDA, torch.cuda.current_device())
    built = "is built without CUDA" if torch.version.cuda is None else "finds no device"
    raise UnsupportedError(
        f"saccade bench gpu needs a CUDA device, and torch {torch.__version__} {built} "
        "(torch.cuda.is_available() is False); run it on a machine with an NVIDIA GPU and a CUDA build of "
        "torch, or measure this machine with: saccade bench cpu"
    )


def describe_card(device: torch.device) -> tuple[Machine, dict[str, float | int | None]]:
    """Return the machine with the card's driver among its versions, and the card's numbers by name with unit.

    Args:
        device: The card; of a device that is none, there are no numbers.
    """
    machine = describe_machine()
    if device.type != _CUDA:
        return machine, {}
    card = torch.cuda.get_device_properties(device)
    versions = {**machine.versions, "driver": _driver(), "cuda": torch.version.cuda}
    return replace(machine, accelerator=card.name, versions=versions), {
        "capability": 10 * card.major + card.minor,
        "multiprocessors": card.multi_processor_count,
        "memory_bytes": card.total_memory,
        "l2_bytes": getattr(card, "L2_cache_size", None),
    }


def _driver() -> str | None:
    """The driver's version as its own tool tells it; None where there is no such tool, or it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    found = subprocess.run(
        [tool, "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return found.stdout.strip().partition("\n")[0] or None
