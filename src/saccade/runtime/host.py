"""What this processor is: the instruction sets it can run, its caches, its cores.

Instruction sets go by the names of `SACCADE_CPU_ISA` and `codegen.cpu`; what each needs is a table here.
Invariant: a name is given only if the processor, and the system for its registers, reports every feature
that code under that name may use.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

from saccade.errors import SettingError
from saccade.runtime.llvm import host_features
from saccade.settings import BEST_ISA, CPU_ISA

__all__ = ["FALLBACK_CACHES", "Host", "describe_host", "host_isa", "this_host"]

# The levels of the x86-64 psABI, as LLVM's processors x86-64-v3 and -v4 use them.
_V2 = frozenset({"cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

_NEEDS: dict[str, dict[str, frozenset[str]]] = {  # architecture -> name -> features, best first
    "x86_64": {
        "avx512_bf16": _V4 | {"avx512bf16"},
        "avx512": _V4,
        "avx2": _V3,
        "baseline": frozenset(),
    },
    "aarch64": {"neon": frozenset()},
}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}  # other systems' names

_CACHES = Path("/sys/devices/system/cpu")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

FALLBACK_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
"""Bytes of cache by level where the system does not tell: what nearly any server or laptop has at least."""


@final
@dataclass(frozen=True)
class Host:
    """The processor that kernels run on.

    Attributes:
        isas: Instruction sets it can run, the best first; empty on an architecture without kernels.
        l1d_bytes: First-level data cache of a core.
        l2_bytes: Second-level cache of a core.
        l3_bytes: Third-level cache, as far as one core reaches it; shared among cores.
        cores: Processors this process may use.
        has_amx: Whether it multiplies tiles of bfloat16 matrices; no kernel here does.
    """

    isas: tuple[str, ...]
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int
    has_amx: bool = False

    def isa(self, limit: str = BEST_ISA) -> str:
        """Return the instruction set to compile for; there must be one.

        Args:
            limit: A value of `SACCADE_CPU_ISA`. `baseline` is the least of every architecture.

        Raises:
            SettingError: This processor cannot run it.

        Example:
            >>> Host(("avx2", "baseline"), 32 << 10, 512 << 10, 8 << 20, 4).isa()
            'avx2'
        """
        if limit == BEST_ISA:
            return self.isas[0]
        if limit == "baseline":
            return self.isas[-1]
        if limit not in self.isas:
            raise SettingError(
                f"{CPU_ISA.name} must name an instruction set that this processor can run, one of "
                f"{', '.join(self.isas)}, but {CPU_ISA.name}={limit!r}; name one, or unset it for the best."
            )
        return limit


def host_isa() -> str:
    """Return the instruction set to compile for here: the best, or what `SACCADE_CPU_ISA` says now.

    Raises:
        SettingError: The setting names none, or one that this processor cannot run.
    """
    return this_host().isa(CPU_ISA.read())


@cache
def this_host() -> Host:
    """Return what this processor is, found out once."""
    return describe_host(host_features(), platform.machine(), _CACHES)


def describe_host(features: Mapping[str, bool], machine: str, system: Path) -> Host:
    """Describe a processor from what LLVM and the system report of it.

    Args:
        features: LLVM's names of features, and whether the processor has them.
        machine: The architecture as `platform.machine()` names it.
        system: The directory that Linux describes processors in; where it is missing or incomplete,
            `FALLBACK_CACHES` stands in, level by level.
    """
    needs = _NEEDS.get(_ARCHITECTURES.get(machine.lower(), machine.lower()), {})
    isas = tuple(name for name, needed in needs.items() if all(features.get(one, False) for one in needed))
    usable = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    sizes = FALLBACK_CACHES | _cache_sizes(system / f"cpu{usable[0]}" / "cache")
    return Host(isas, sizes[1], sizes[2], sizes[3], len(usable), features.get("amx-bf16", False))


def _cache_sizes(directory: Path) -> dict[int, int]:
    """Level to bytes, of the caches that hold data."""
    sizes: dict[int, int] = {}
    for one in directory.glob("index*"):
        try:
            level, kind, size = ((one / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and amount is not None and int(level) in FALLBACK_CACHES:
            sizes[int(level)] = int(amount[1]) * _UNITS[amount[2]]
    return sizes
