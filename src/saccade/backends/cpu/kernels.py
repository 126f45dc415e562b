"""The engine's compiled kernels: written, compiled and kept, once for each specification."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import final

from saccade.codegen.cpu.arguments import CaptureSlots, programs
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelSource, KernelSpec
from saccade.runtime.cache import KernelCache
from saccade.runtime.llvm import CompiledKernel, Target, compile_kernel, host_triple

__all__ = ["KERNELS", "LoadedKernel", "load_kernel"]


@final
@dataclass(frozen=True, eq=False)
class LoadedKernel:
    """A kernel that can be called as long as this object lives.

    Attributes:
        spec: What it was compiled from.
        source: Its text, and what a caller must know.
        code: Its machine code.
        addresses: Of its entries, in the order of `source.entries`.
    """

    spec: KernelSpec
    source: KernelSource
    code: CompiledKernel
    addresses: tuple[int, ...]

    @cached_property
    def captures(self) -> tuple[CaptureSlots, ...]:
        """Where the captures of all programs stand, in the order of `Which`."""
        layout = self.source.layout
        return tuple([slots for which in sorted(programs(self.spec.key)) for slots in layout.captures[which]])


KERNELS: KernelCache[KernelSpec, LoadedKernel] = KernelCache(capacity=256)
"""Every kernel of this process; an evicted one lives on where it is held."""


def load_kernel(spec: KernelSpec) -> LoadedKernel:
    """Return a kernel, compiling it the first time."""
    return KERNELS.get(spec, lambda: _compile(spec))


def _compile(spec: KernelSpec) -> LoadedKernel:
    with _without_collections():
        source, isa = emit(spec), spec.isa
    name = f"{spec.kind.name.lower()}_{spec.key.dtype.name.lower()}_{spec.key.head_dim}_{isa.name}"
    code = compile_kernel(name, source.text, source.entries, Target(host_triple(), isa.cpu, isa.features))
    return LoadedKernel(spec, source, code, tuple(map(code.address, source.entries)))


@contextmanager
def _without_collections() -> Iterator[None]:
    """Keep the garbage collector away: it would walk what is written, full of cycles, in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
