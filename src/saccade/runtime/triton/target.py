"""What kernels are compiled for, by name and without a device, and what a block of it may use.

Pure data: no package, no driver. A present device tells its own limits (`devices`); the tables here are for
compilation without one. Invariant: `Target.parse(target.name) == target`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from saccade.errors import ArgumentError

__all__ = ["TENSOR_MEMORY_COLUMNS", "Target"]

_KIB = 1 << 10

# NVIDIA: CUDA C++ Programming Guide, technical specifications per compute capability, "maximum amount of
# shared memory per thread block"; AMD: LDS of a work-group, CDNA 3 and 4 instruction set references.
_SHARED_BYTES: dict[tuple[str, int | str], int] = {
    ("cuda", 70): 96 * _KIB,
    ("cuda", 75): 64 * _KIB,
    ("cuda", 80): 163 * _KIB,
    ("cuda", 86): 99 * _KIB,
    ("cuda", 87): 163 * _KIB,
    ("cuda", 89): 99 * _KIB,
    ("cuda", 90): 227 * _KIB,
    ("cuda", 100): 227 * _KIB,
    ("cuda", 103): 227 * _KIB,
    ("cuda", 120): 99 * _KIB,
    ("cuda", 121): 99 * _KIB,
    ("hip", "gfx90a"): 64 * _KIB,
    ("hip", "gfx942"): 64 * _KIB,
    ("hip", "gfx950"): 160 * _KIB,
}

TENSOR_MEMORY_COLUMNS = 512
"""Columns of tensor memory of a multiprocessor, from compute capability 10.0 on (PTX ISA, tcgen05)."""


class Target(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        backend: Triton's name of the kind of device: `cuda`, `hip`.
        arch: The architecture in triton's spelling: 90 for compute capability 9.0, or `gfx942`.
        warp_size: Threads of a warp.

    Example:
        >>> Target.parse("cuda:90")
        Target(backend='cuda', arch=90, warp_size=32)
        >>> Target.parse("cuda:90").name
        'cuda:90'
    """

    backend: str
    arch: int | str
    warp_size: int

    @classmethod
    def parse(cls, name: str) -> Target:
        """Read a target's name.

        Args:
            name: Backend and architecture, as `cuda:90` or `hip:gfx942`. The warp size follows from them: 32,
                and 64 on AMD's gfx9.

        Raises:
            ArgumentError: The text is not of this form.
        """
        found = re.fullmatch(r"(\w+):(\w+)", name)
        if found is None:
            raise ArgumentError(
                f"a target must be backend and architecture, as 'cuda:90' or 'hip:gfx942', but name={name!r}"
            )
        backend, arch = found.groups()
        warp_size = 64 if arch.startswith("gfx9") else 32
        return cls(backend, int(arch) if arch.isdigit() else arch, warp_size)

    @property
    def name(self) -> str:
        """Backend and architecture, as `parse` reads them."""
        return f"{self.backend}:{self.arch}"

    @property
    def shared_limit(self) -> int | None:
        """Bytes of shared memory that one block may use; None where no table tells.

        Example:
            >>> Target.parse("cuda:90").shared_limit == 227 * 1024
            True
        """
        return _SHARED_BYTES.get((self.backend, self.arch))

    @property
    def has_descriptors(self) -> bool:
        """Whether tensor descriptors are hardware: compute capability 9.0 (Hopper) and later."""
        return self.backend == "cuda" and isinstance(self.arch, int) and self.arch >= 90
