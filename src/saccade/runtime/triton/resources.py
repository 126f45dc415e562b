"""What a compiled kernel uses of a multiprocessor, read from the machine code: no device is needed.

Owns the tools that tell it: `cuobjdump`, which triton brings along, for NVIDIA's cubins; the assembler's own
summary for AMD.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from saccade.errors import UnsupportedError
from saccade.runtime.triton.installed import triton_package
from saccade.runtime.triton.target import Target

__all__ = ["Resources", "read_resources"]

TritonKernel: TypeAlias = Any
"""A `triton.compiler.CompiledKernel`, which is not typed."""

# From compute capability 9.0 on, a cubin counts the memory that the system keeps of each block as the
# block's own; the limit of a block is told without it (CUDA programming guide, shared memory of Hopper).
_RESERVED_SHARED_BYTES = 1024


@final
@dataclass(frozen=True)
class Resources:
    """What a kernel uses.

    Attributes:
        registers: Of one thread, 32 bits each.
        spills: Bytes of local memory of one thread: registers that did not fit, in device memory.
        shared_bytes: Shared memory of one block, static and dynamic, without what the system reserves.
    """

    registers: int
    spills: int
    shared_bytes: int


def read_resources(kernel: TritonKernel, target: Target) -> Resources:
    """Read what a kernel uses from its machine code.

    Raises:
        UnsupportedError: Nothing here reads machine code of that kind of device.
    """
    read = {"cuda": _of_cubin, "hip": _of_amdgcn}.get(target.backend)
    if read is None:
        raise UnsupportedError(
            f"resources can be read from machine code for cuda and hip, but target={target.name!r}"
        )
    return read(kernel, target)


def _of_cubin(kernel: TritonKernel, target: Target) -> Resources:
    tool = triton_package().knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        done = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    use = {name: int(amount) for name, amount in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", done.stdout)}
    reserved = _RESERVED_SHARED_BYTES if isinstance(target.arch, int) and target.arch >= 90 else 0
    static = max(0, use["SHARED"] - reserved)
    return Resources(use["REG"], use["STACK"] + use["LOCAL"], static + kernel.metadata.shared)


def _of_amdgcn(kernel: TritonKernel, target: Target) -> Resources:
    summary = kernel.asm["amdgcn"].rpartition("\t.amdgpu_metadata")[2]
    use = {
        name: int(amount)
        for name, amount in re.findall(
            r"^ +\.(vgpr_count|private_segment_fixed_size|group_segment_fixed_size): +(\d+)$", summary, re.M
        )
    }
    static = use["group_segment_fixed_size"]
    return Resources(use["vgpr_count"], use["private_segment_fixed_size"], static + kernel.metadata.shared)
