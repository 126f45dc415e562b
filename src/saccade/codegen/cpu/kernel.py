"""A kernel's specification becomes LLVM IR text: the one door to code generation for CPUs."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.decode import emit_attend as emit_decode
from saccade.codegen.cpu.decode_merge import emit_merge
from saccade.codegen.cpu.decode_tiling import DecodeTiling
from saccade.codegen.cpu.forward import emit_attend
from saccade.codegen.cpu.packing import emit_pack
from saccade.codegen.cpu.spec import KernelKind, KernelSource, KernelSpec
from saccade.codegen.cpu.tiling import ForwardTiling

__all__ = ["emit"]


def emit(spec: KernelSpec) -> KernelSource:
    """Write a kernel."""
    return _WRITERS[spec.kind](spec, ir.Module(context=ir.Context()), ArgumentLayout.of(spec.key))


def _forward(spec: KernelSpec, module: ir.Module, layout: ArgumentLayout) -> KernelSource:
    tiling = ForwardTiling(spec)
    emit_pack(tiling, module, layout, "pack")
    scratch_bytes = emit_attend(tiling, module, layout, "attend")
    return KernelSource(
        text=str(module),
        entries=("pack", "attend"),
        layout=layout,
        scratch_bytes=scratch_bytes,
        panel_keys=tiling.keys,
        key_panel_bytes=tiling.key_panel,
        value_panel_bytes=tiling.value_panel,
    )


def _decode(spec: KernelSpec, module: ir.Module, layout: ArgumentLayout) -> KernelSource:
    tiling = DecodeTiling(spec)
    scratch_bytes = emit_decode(tiling, module, layout, "attend")
    emit_merge(tiling, module, layout, "merge", scratch_bytes)
    return KernelSource(
        text=str(module),
        entries=("attend", "merge"),
        layout=layout,
        scratch_bytes=scratch_bytes,
        partial_bytes=tiling.partial.size,
    )


_WRITERS: dict[KernelKind, Callable[[KernelSpec, ir.Module, ArgumentLayout], KernelSource]] = {
    KernelKind.FORWARD: _forward,
    KernelKind.DECODE: _decode,
}
