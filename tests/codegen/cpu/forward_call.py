"""A forward kernel called as plainly as can be: what the engine's host side does, without its choices.

Memory that the kernel may not rely on is filled with NaN before, so that reading it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.analysis.runs import BlockKind
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import tile_runs
from saccade.codegen.cpu.arguments import ArgumentLayout, State
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelKind, KernelSource, KernelSpec
from saccade.codegen.cpu.tiling import TILE_SHAPE
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.problem import AttentionProblem, KernelKey, ModFacts, Outputs
from saccade.runtime import team
from saccade.runtime.host import this_host
from saccade.runtime.llvm import CompiledKernel, Target, compile_kernel, host_triple

DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.float64: DType.FLOAT64,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
}


@dataclass(frozen=True, eq=False)
class Forward:
    """What a call asks for.

    Attributes:
        query: [B, Hq, Q, D], last stride 1.
        key: [B or 1, Hkv, K, D], likewise.
        value: [B or 1, Hkv, K, Dv], likewise.
        isa: The instruction set.
        scale: Of scores; 1/√D unless given.
        block_mask: What is visible; all without one.
        mask_mod: What must hold beside it.
        score_mod: What scores become.
        sinks: [Hq].
        dropout: The probability and the seed.
        tile: Rows and keys of a tile; the recommended ones unless given.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    isa: str = "avx2"
    scale: float | None = None
    block_mask: BlockMask | None = None
    mask_mod: Program | None = None
    score_mod: Program | None = None
    sinks: Tensor | None = None
    dropout: tuple[float, int] = (0.0, 0)
    tile: tuple[int, int] | None = None

    @property
    def programs(self) -> dict[Which, Program]:
        mask = None if self.block_mask is None else self.block_mask.program
        given = {Which.MASK: mask, Which.MASK_MOD: self.mask_mod, Which.SCORE: self.score_mod}
        return {which: program for which, program in given.items() if program is not None}

    @property
    def key_of_kernel(self) -> KernelKey:
        (batch, q_heads, q_len, dim), (kv_batch, kv_heads, kv_len, _) = self.query.shape, self.key.shape
        problem = AttentionProblem(
            "cpu",
            DTYPES[self.query.dtype],
            batch,
            kv_batch,
            q_heads,
            kv_heads,
            q_len,
            kv_len,
            dim,
            self.value.shape[-1],
            self.factor,
            score=None if self.score_mod is None else ModFacts(self.score_mod.structure),
            mask_mod=None if self.mask_mod is None else ModFacts(self.mask_mod.structure),
            sinks=None if self.sinks is None else DType.FLOAT32,
            dropout_p=self.dropout[0],
            outputs=Outputs(lse=True, max_scores=True),
        )
        mask = None if self.block_mask is None else self.block_mask.program.structure
        return replace(problem.kernel_key(self.isa, small_indices=True), mask=mask)

    @property
    def factor(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def spec(self) -> KernelSpec:
        key = self.key_of_kernel
        facts = {which: self.facts(program) for which, program in self.programs.items()}
        return KernelSpec(
            KernelKind.FORWARD,
            key,
            *(self.tile or TILE_SHAPE),
            score=facts.get(Which.SCORE),
            mask=facts.get(Which.MASK),
            mask_mod=facts.get(Which.MASK_MOD),
        )

    def facts(self, program: Program) -> ProgramFacts:
        batch, heads, q_len, _ = self.query.shape
        return prove(
            program.structure,
            batch=batch,
            heads=heads,
            q_len=q_len,
            kv_len=self.key.shape[2],
            numbers=program.numbers,
            shapes=tuple(tuple(capture.shape) for capture in program.captures),
            dense=tuple(bool(c.ndim) and c.stride(-1) == 1 for c in program.captures),
        )


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gives."""

    out: Tensor
    lse: Tensor
    max_scores: Tensor
    state: np.ndarray  # int64, see `State`
    memory: dict[str, Any]  # what the kernel worked in, by the arguments' names


@lru_cache(maxsize=256)
def compiled(spec: KernelSpec) -> tuple[KernelSource, CompiledKernel]:
    source, isa = emit(spec), spec.isa
    target = Target(host_triple(), isa.cpu, isa.features)
    return source, compile_kernel("forward", source.text, source.entries, target)


def run_forward(call: Forward) -> Result:
    """Pack and attend, on torch's team."""
    return prepared(call)()


def prepared(call: Forward) -> Callable[[], Result]:
    """A function of no arguments that packs, attends and returns the results."""
    spec = call.spec
    source, kernel = compiled(spec)
    (batch, q_heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = call.query.shape, call.key.shape
    precise = torch.float64 if call.query.dtype == torch.float64 else torch.float32
    out = call.query.new_full((batch, q_heads, q_len, call.value.shape[-1]), 7.0)
    lse, max_scores = (torch.full((batch, q_heads, q_len), 7.0, dtype=precise) for _ in range(2))
    sinks = torch.zeros(q_heads) if call.sinks is None else call.sinks
    sinks = sinks.to(precise).contiguous()
    runs = _runs(call, spec.rows)
    tiles, panels, threads = len(runs["tile_first"]), -(-kv_len // source.panel_keys), team.thread_count()
    items = np.arange(batch * q_heads * tiles, dtype=np.int64)
    pack_items = np.arange(kv_batch * kv_heads * panels, dtype=np.int64)
    state = np.zeros(len(State), np.int64)
    memory = {
        "packed_keys": aligned(len(pack_items) * source.key_panel_bytes),
        "packed_values": aligned(len(pack_items) * source.value_panel_bytes),
        "scratch": aligned(threads * source.scratch_bytes),
    }
    arrays = {**runs, "items": items, "pack_items": pack_items, "state": state}
    tensors = {"lse": lse, "max_scores": max_scores, "sinks": sinks}
    runs_b, runs_h = (1, 1) if call.block_mask is None else tile_runs(call.block_mask, spec.rows).shape[:2]
    p, seed = call.dropout
    numbers = {
        "batch": batch,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "group": q_heads // kv_heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "scale": bits(call.factor),
        "keep_threshold": drop_threshold(p),
        "keep_factor": bits(1.0 / keep_rate(p)),
        "seed": seed,
        "runs_b": runs_h * tiles if runs_b > 1 else 0,
        "runs_h": tiles if runs_h > 1 else 0,
        "tiles": tiles,
        "panels": panels,
        "packed_b": kv_heads * panels if kv_batch > 1 else 0,
        **{name: array.ctypes.data for name, array in arrays.items()},
        **{name: tensor.data_ptr() for name, tensor in (memory | tensors).items()},
    }
    for name, tensor in {"query": call.query, "key": call.key, "value": call.value, "out": out}.items():
        numbers |= tensor_slots(name, tensor, "k" if name in ("key", "value") else "q")
    block = fill_block(source.layout, numbers, call.programs)

    held = {**memory, **arrays, **tensors}  # while the kernel runs

    def run() -> Result:
        for entry, stop in (("pack", len(pack_items)), ("attend", len(items))):
            team.run_sliced(kernel.address(entry), block.ctypes.data, threads, state, [stop])
        return Result(out, lse, max_scores, held["state"], held)

    return run


def _runs(call: Forward, rows: int) -> dict[str, np.ndarray]:
    q_len, kv_len = call.query.shape[2], call.key.shape[2]
    if call.block_mask is not None:
        runs = tile_runs(call.block_mask, rows)
        fields = (runs.first, runs.last, runs.offsets, runs.start, runs.stop, runs.kind)
    else:
        first = np.arange(0, q_len, rows, dtype=np.int32)
        ones = np.ones(len(first) if kv_len else 0, np.int32)
        fields = (
            first,
            np.minimum(first + rows, q_len).astype(np.int32),
            np.arange(len(first) + 1, dtype=np.int64) * bool(kv_len),
            0 * ones,
            kv_len * ones,
            (BlockKind.FULL.value * ones).astype(np.uint8),
        )
    names = ("tile_first", "tile_last", "run_offsets", "run_start", "run_stop", "run_kind")
    return {name: np.ascontiguousarray(field) for name, field in zip(names, fields, strict=True)}


def tensor_slots(name: str, tensor: Tensor, axis: str) -> dict[str, int]:
    """The arguments that say where a tensor is; one batch serves all."""
    strides = [tensor.stride(dim) * tensor.element_size() for dim in range(3)]
    strides[0] = strides[0] if tensor.shape[0] > 1 else 0
    named = {f"{name}_{index}": stride for index, stride in zip(("b", "h", axis), strides, strict=True)}
    return {name: tensor.data_ptr(), **named}


def fill_block(layout: ArgumentLayout, numbers: dict[str, int], programs: dict[Which, Program]) -> np.ndarray:
    """The argument block."""
    block = np.zeros(layout.size, np.int64)
    for name, number in numbers.items():
        block[ArgumentLayout.slot(name)] = number
    for which, program in programs.items():
        for slots, capture in zip(layout.captures[which], program.captures, strict=True):
            block[slots.pointer] = capture.data_ptr()
            block[list(slots.sizes)] = capture.shape
            block[list(slots.strides)] = [stride * capture.element_size() for stride in capture.stride()]
        for slot, number in zip(layout.numbers[which], program.numbers, strict=True):
            block[slot] = bits(number) if isinstance(number, float) else number
    return block


def bits(number: float) -> int:
    return int(np.float64(number).view(np.int64))


def aligned(size: int) -> Tensor:
    """NaN in every float type, from a 64-byte border on."""
    memory = torch.full((size + 64,), 0xFF, dtype=torch.uint8)
    return memory[-memory.data_ptr() % 64 :]


def host_isas() -> list[str]:
    """The instruction sets that this processor can run."""
    order = ["avx512_bf16", "avx512", "avx2", "baseline"]
    best = this_host().isa()
    return order[order.index(best) :] if best in order else [best]
