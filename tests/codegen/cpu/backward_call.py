"""A backward kernel called as plainly as can be, on what a forward kernel gave.

Memory that the kernel may not rely on is filled with NaN before, so that reading it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from codegen.cpu.forward_call import (
    Forward,
    Result,
    aligned,
    bits,
    fill_block,
    run_forward,
    tensor_slots,
)
from saccade.analysis.runs import BlockKind
from saccade.block_mask.tiles import TileRuns, key_tile_runs
from saccade.codegen.cpu.arguments import State
from saccade.codegen.cpu.backward_tiling import backward_tile_shape
from saccade.codegen.cpu.kernel import emit
from saccade.codegen.cpu.spec import KernelKind, KernelSource, KernelSpec
from saccade.codegen.program.derivative import derivative
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.program import Program
from saccade.problem import Wanted
from saccade.runtime import team
from saccade.runtime.llvm import CompiledKernel, Target, compile_kernel, host_triple


@dataclass(frozen=True, eq=False)
class Backward:
    """What a call asks for.

    Attributes:
        forward: The forward call.
        grad_out: The gradient of its output.
        grad_lse: The gradient of its lse; no part of the code without one.
        tile: Rows and keys of a tile; the recommended ones unless given.
        wanted: Which gradients; all unless given.
        ranges: Into how many chunks the keys of a head are cut, if there are so many tiles.
        place: Where gradients are put: from a tensor to one of its shape.
    """

    forward: Forward
    grad_out: Tensor
    grad_lse: Tensor | None = None
    tile: tuple[int, int] | None = None
    wanted: Wanted | None = None
    ranges: int = 4
    place: Callable[[Tensor], Tensor] = torch.clone

    @property
    def spec(self) -> KernelSpec:
        forward = self.forward.spec
        wanted = self.wanted or Wanted(True, True, True, sinks=self.forward.sinks is not None)
        outputs = replace(forward.key.outputs, lse=self.grad_lse is not None)
        key = replace(forward.key, outputs=outputs, wanted=wanted)
        gradient = None
        if self.forward.score_mod is not None and wanted.of_scores:
            program = self.forward.score_mod
            structure = derivative(program.structure)
            gradient = self.forward.facts(Program(structure, program.captures, program.numbers))
        return replace(
            forward,
            kind=KernelKind.BACKWARD,
            key=key,
            rows=(self.tile or backward_tile_shape(key))[0],
            keys=(self.tile or backward_tile_shape(key))[1],
            score_gradient=gradient,
        )


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a call gives; those of query, key, value and sinks, and 7 where nothing was written."""

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None
    state: np.ndarray


@lru_cache(maxsize=256)
def compiled(spec: KernelSpec) -> tuple[KernelSource, CompiledKernel]:
    source, isa = emit(spec), spec.isa
    target = Target(host_triple(), isa.cpu, isa.features)
    return source, compile_kernel("backward", source.text, source.entries, target)


def run_backward(call: Backward) -> Gradients:
    """Forward, then backward, on torch's team."""
    return prepared(call, run_forward(call.forward))()


def prepared(call: Backward, result: Result) -> Callable[[], Gradients]:
    """A function of no arguments that returns the gradients, given what the forward gave."""
    forward, spec = call.forward, call.spec
    source, kernel = compiled(spec)
    query, key, value = forward.query, forward.key, forward.value
    (batch, q_heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = query.shape, key.shape
    runs = _runs(call, spec.keys)
    items, item_offsets, partial_rows = _chunks(call, runs, source.padding_rows)
    q_tiles, threads = -(-q_len // spec.rows), team.thread_count()
    rows = batch * q_heads * (q_len + q_len % 2 + source.padding_rows)
    precise = result.lse.dtype
    sinks = torch.zeros(q_heads) if forward.sinks is None else forward.sinks
    memory = {
        **{name: aligned(rows * size) for name, size in source.row_bytes.items()},
        "partials": aligned(partial_rows * source.partial_bytes),
        "scratch": aligned(threads * source.scratch_bytes),
        "lse": result.lse,
        "grad_lse": result.lse if call.grad_lse is None else call.grad_lse.to(precise).contiguous(),
        "sinks": sinks.to(precise).contiguous(),
        "grad_sinks": torch.full((q_heads,), 7.0, dtype=precise),
    }
    arrays = {
        "items": items,
        "item_offsets": item_offsets,
        "state": np.zeros(len(State), np.int64),
        "tile_first": runs.first,
        "tile_last": runs.last,
        "run_offsets": runs.offsets,
        "run_start": runs.start,
        "run_stop": runs.stop,
        "run_kind": runs.kind,
    }
    grads = {
        "grad_query": call.place(torch.full_like(query, 7.0)),
        "grad_key": call.place(torch.full_like(key, 7.0)),
        "grad_value": call.place(torch.full_like(value, 7.0)),
    }
    p, seed = forward.dropout
    stored_b, stored_h, tiles = runs.shape
    numbers = {
        "batch": batch,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "group": q_heads // kv_heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "scale": bits(forward.factor),
        "keep_threshold": drop_threshold(p),
        "keep_factor": bits(1.0 / keep_rate(p)),
        "seed": seed,
        "runs_b": stored_h * tiles if stored_b > 1 else 0,
        "runs_h": tiles if stored_h > 1 else 0,
        "tiles": tiles,
        "q_tiles": q_tiles,
        "kv_share": batch // kv_batch,
        **{name: array.ctypes.data for name, array in arrays.items()},
        **{name: tensor.data_ptr() for name, tensor in memory.items()},
    }
    tensors = {"query": query, "key": key, "value": value, "out": result.out, "grad_out": call.grad_out}
    for name, tensor in (tensors | grads).items():
        numbers |= tensor_slots(name, tensor, "k" if name.endswith(("key", "value")) else "q")
    block = fill_block(source.layout, numbers, forward.programs)
    counts = {
        "pack": batch * q_heads * q_tiles,
        "sinks": q_heads,
        "attend": len(items),
        "merge": batch * q_heads * q_tiles,
    }
    held = {**memory, **arrays, **tensors}  # while the kernel runs

    def run() -> Gradients:
        for entry in source.entries:
            state = held["state"]
            team.run_sliced(kernel.address(entry), block.ctypes.data, threads, state, [counts[entry]])
        grad_sinks = None if forward.sinks is None else memory["grad_sinks"]
        return Gradients(*grads.values(), grad_sinks, arrays["state"])

    return run


def _runs(call: Backward, keys: int) -> TileRuns:
    forward = call.forward
    q_len, kv_len = forward.query.shape[2], forward.key.shape[2]
    if forward.block_mask is not None:
        return key_tile_runs(forward.block_mask, keys)
    first = np.arange(0, kv_len, keys, dtype=np.int32)
    tiles = len(first)
    return TileRuns(
        (1, 1, tiles),
        first,
        np.minimum(first + keys, kv_len).astype(np.int32),
        np.arange(tiles + 1, dtype=np.int64),
        np.zeros(tiles, np.int32),
        np.full(tiles, q_len, np.int32),
        np.full(tiles, BlockKind.FULL, np.uint8),
    )


def _chunks(call: Backward, runs: TileRuns, padding: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Items, where those of each kv head begin, and the rows of all partial results."""
    (batch, q_heads), (kv_batch, kv_heads) = call.forward.query.shape[:2], call.forward.key.shape[:2]
    tiles, group, share = runs.shape[2], q_heads // kv_heads, batch // kv_batch
    borders = np.linspace(0, tiles, min(call.ranges, tiles) + 1).astype(int)
    items, offsets, rows = [], [0], 0
    for kv_head in range(kv_batch * kv_heads):
        for first, stop in pairwise(borders):
            seen = [
                run
                for b in range(kv_head // kv_heads * share, (kv_head // kv_heads + 1) * share)
                for h in range(kv_head % kv_heads * group, (kv_head % kv_heads + 1) * group)
                for tile in range(first, stop)
                for run in runs.tile(min(b, runs.shape[0] - 1), min(h, runs.shape[1] - 1), tile)
            ]
            low = min((run[0] - run[0] % 2 for run in seen), default=0)
            high = max((run[1] for run in seen), default=0)
            items.append((kv_head, first, stop, low, high, rows))
            rows += share * group * (high - low + padding)
        offsets.append(len(items))
    return np.array(items, np.int64).reshape(-1, 6), np.array(offsets, np.int64), rows
