"""What a measurement ran on: processor, cores, instruction sets, versions.

Owns every question to the machine that a report needs. It reads; it changes nothing and imports no engine:
versions come from the installed packages' metadata.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Machine", "describe_machine", "find_compiler", "package_version"]

PACKAGES = ("saccade", "torch", "numpy", "llvmlite", "triton", "transformers", "matplotlib", "rich", "typer")
"""The packages whose versions a report names, whether installed or not."""

_FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
    "asimd", "bf16", "i8mm", "sve",
)  # fmt: skip
_CPUINFO = Path("/proc/cpuinfo")
_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Machine:
    """The facts that a time depends on.

    Attributes:
        system: Operating system and machine type.
        processor: The processor's name as the system gives it.
        cores: Processors this process may use.
        threads: Threads torch works with.
        features: Instruction sets that attention kernels care about and the processor reports.
        memory_bytes: Installed memory, or None where the system does not tell.
        accelerator: Name of the CUDA device, or None.
        versions: Package name to version, None for one not installed; `python` among them.
    """

    system: str
    processor: str
    cores: int
    threads: int
    features: tuple[str, ...]
    memory_bytes: int | None
    accelerator: str | None
    versions: dict[str, str | None]

    def as_json(self) -> dict[str, object]:
        """The machine as plain data."""
        return dataclasses.asdict(self)


def describe_machine() -> Machine:
    """Describe the machine this process runs on.

    Example:
        >>> describe_machine().cores >= 1
        True
    """
    cpuinfo = _CPUINFO.read_text() if _CPUINFO.is_file() else ""
    flags = set(re.findall(r"\w+", _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""))
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(cpuinfo),
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        features=tuple(feature for feature in _FEATURES if feature in flags),
        memory_bytes=_memory_bytes(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        versions={"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
    )


def package_version(name: str) -> str | None:
    """Return the version of an installed package, without importing it; None when it is not installed.

    Example:
        >>> package_version("no-such-package") is None
        True
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_compiler() -> str | None:
    """Return the path of a C++ compiler, which torch.compile needs on a CPU; None where there is none."""
    return next(filter(None, map(shutil.which, _COMPILERS)), None)


def _field(cpuinfo: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return None if found is None else found[1].strip()


def _processor(cpuinfo: str) -> str:
    """The processor's name, with family and model: on rented machines the name alone says little."""
    name = _field(cpuinfo, "model name") or platform.processor() or platform.machine()
    family, model = _field(cpuinfo, "cpu family"), _field(cpuinfo, "model")
    return name if family is None or model is None else f"{name} (family {family}, model {model})"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
