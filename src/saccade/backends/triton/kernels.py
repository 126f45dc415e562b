"""The engine's compiled kernels: written, compiled and kept, once for each specification and target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias, final

import torch

from saccade.backends.triton.arguments import Values
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.codegen.program.which import Which
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import TritonSpec
from saccade.ir.text import format_structure
from saccade.runtime.cache import KernelCache
from saccade.runtime.triton import Compiled, Target, compile_kernel

__all__ = ["KERNELS", "LoadedKernel", "load_kernel"]

Pick: TypeAlias = Callable[[Values], tuple[object, ...]]


@final
@dataclass(frozen=True, eq=False)
class LoadedKernel:
    """A kernel that can be launched.

    Attributes:
        source: Its text, and what a caller must know.
        compiled: It.
        pick: The arguments in the order of its parameters, out of all by name.
    """

    source: TritonSource
    compiled: Compiled
    pick: Pick

    def launch(self, programs: int, values: Values, device: torch.device) -> None:
        """Start it on the device's current stream.

        Args:
            programs: How many programs run.
            values: An argument for each of its parameters, and others.
            device: Where the tensors are.
        """
        self.compiled.launch(programs, self.pick(values), device)


KERNELS: KernelCache[TritonSpec, LoadedKernel] = KernelCache(capacity=512)
"""Every kernel of this process; an evicted one lives on where it is held."""


def load_kernel(spec: TritonSpec, device: torch.device) -> LoadedKernel:
    """Return a kernel, compiling it the first time.

    Args:
        spec: Its specification; the target is the device's.
        device: Where it will run.

    Raises:
        CompilationError: Triton refuses it, or a block of it needs more memory than the target has.
        UnsupportedError: It must be compiled, or loaded on the device, and a graph is captured.
    """
    kernel = KERNELS.get(spec, lambda: _compile(spec, device))
    if not kernel.compiled.is_loaded(device):
        require_no_capture(device, "its kernel is not loaded on the device")
    return kernel


def _compile(spec: TritonSpec, device: torch.device) -> LoadedKernel:
    require_no_capture(device, "its kernel is not compiled")
    source = write(spec)
    parameters = source.parameters
    compiled = compile_kernel(
        source.text,
        source.name,
        {each.name: each.type for each in parameters},
        {each.name: each.divisible for each in parameters if each.divisible > 1},
        target=Target.parse(spec.key.target),
        warps=source.warps,
        stages=source.stages,
        mods=_told(spec),
    )
    # Every kernel has several parameters, so that what is picked is a tuple.
    return LoadedKernel(source, compiled, itemgetter(*[each.name for each in parameters]))


def _told(spec: TritonSpec) -> str:
    """The programs of a kernel as text."""
    given = {Which.SCORE: spec.key.score, Which.MASK: spec.key.mask, Which.MASK_MOD: spec.key.mask_mod}
    return "\n".join(format_structure(each) for each in given.values() if each is not None)
