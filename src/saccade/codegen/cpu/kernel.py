"""A kernel's specification becomes LLVM IR text: the one door to code generation for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llvmlite import ir

from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.backward import emit_attend as emit_backward
from saccade.codegen.cpu.backward_captures import emit_captures
from saccade.codegen.cpu.backward_merge import emit_merge as emit_backward_merge
from saccade.codegen.cpu.backward_pack import emit_pack as emit_backward_pack
from saccade.codegen.cpu.backward_pack import emit_sinks
from saccade.codegen.cpu.backward_tiling import BackwardTiling
from saccade.codegen.cpu.decode import emit_attend as emit_decode
from saccade.codegen.cpu.decode_merge import emit_merge
from saccade.codegen.cpu.decode_tiling import DecodeTiling
from saccade.codegen.cpu.forward import emit_attend
from saccade.codegen.cpu.packing import emit_pack
from saccade.codegen.cpu.spec import KernelKind, KernelSource, KernelSpec
from saccade.codegen.cpu.tiling import ForwardTiling
from saccade.ir.dtype import DType

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


def _backward(spec: KernelSpec, module: ir.Module, layout: ArgumentLayout) -> KernelSource:
    tiling = BackwardTiling(spec)
    wanted, entries, scratch_bytes = tiling.wanted, ["pack"], 0
    sum_types: Mapping[int, DType] = {}
    emit_backward_pack(tiling, module, layout, "pack")
    if wanted.sinks:
        emit_sinks(tiling, module, layout, "sinks")
        entries.append("sinks")
    if tiling.has_weights:
        attended = emit_backward(tiling, module, layout, "attend")
        scratch_bytes, sum_types = attended.scratch_bytes, attended.sum_types
        entries.append("attend")
    if wanted.query:
        emit_backward_merge(tiling, module, layout, "merge", scratch_bytes)
        entries.append("merge")
    if sum_types:
        emit_captures(tiling, module, layout, "captures", sum_types)
        entries.append("captures")
    return KernelSource(
        text=str(module),
        entries=tuple(entries),
        layout=layout,
        scratch_bytes=scratch_bytes,
        partial_bytes=tiling.partial_row,
        row_bytes=tiling.row_bytes,
        padding_rows=tiling.padding_rows,
        sum_types=sum_types,
    )


_WRITERS: dict[KernelKind, Callable[[KernelSpec, ir.Module, ArgumentLayout], KernelSource]] = {
    KernelKind.FORWARD: _forward,
    KernelKind.DECODE: _decode,
    KernelKind.BACKWARD: _backward,
}
