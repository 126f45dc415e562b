"""A kernel's specification becomes a Triton module: the one door to code generation for GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from saccade.codegen.triton.backward_delta import write_delta
from saccade.codegen.triton.backward_key import write_key_gradient
from saccade.codegen.triton.backward_query import write_query_gradient
from saccade.codegen.triton.combine import write_combine
from saccade.codegen.triton.forward import write_forward
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import KernelKind, TritonSpec

__all__ = ["write"]

_WRITERS: Mapping[KernelKind, Callable[[TritonSpec], TritonSource]] = {
    KernelKind.FORWARD: write_forward,
    KernelKind.SPLIT: write_forward,
    KernelKind.COMBINE: write_combine,
    KernelKind.DELTA: write_delta,
    KernelKind.QUERY_GRADIENT: write_query_gradient,
    KernelKind.KEY_GRADIENT: write_key_gradient,
}


@lru_cache(maxsize=1024)
def write(spec: TritonSpec) -> TritonSource:
    """Write a kernel; equal specs give equal text."""
    return _WRITERS[spec.kind](spec)
