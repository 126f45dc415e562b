"""A forward kernel called as plainly as can be: what the engine's host side does, without its choices.

Memory that a kernel writes is filled before with what it never writes, so that a row left out shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codegen.triton.kernel_process import Described, KernelProcess
from saccade.backends.triton.ranges import ranges_of
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import tile_runs
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.module import padded
from saccade.codegen.triton.spec import KernelKind, Tile, TritonSpec, Walk
from saccade.ir.dropout import drop_threshold, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.problem import AttentionProblem, KernelKey, ModFacts, Outputs

DTYPES = {torch.float32: DType.FLOAT32, torch.float16: DType.FLOAT16, torch.bfloat16: DType.BFLOAT16}
UNWRITTEN = 7.0


@dataclass(frozen=True, eq=False)
class Forward:
    """What a call asks for.

    Attributes:
        query: [B, Hq, Q, D], last stride 1.
        key: [B or 1, Hkv, K, D], likewise.
        value: [B or 1, Hkv, K, Dv], likewise.
        scale: Of scores; 1/√D unless given.
        block_mask: What is visible; all without one.
        mask: Without a block mask, its program, asked at every pair.
        mask_mod: What must hold beside it.
        score_mod: What scores become.
        sinks: [Hq].
        dropout: The probability and the seed.
        rows: Of a tile.
        keys: Of a tile.
        splits: Among how many programs a tile's keys are shared; 0 for the kernel that shares none.
        packed: Whether the heads of a group share tiles.
        aligned: Whether the kernel is told that loads are aligned.
        descriptors: Whether K and V are described.
        checks: Whether poison is noted.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float | None = None
    block_mask: BlockMask | None = None
    mask: Program | None = None
    mask_mod: Program | None = None
    score_mod: Program | None = None
    sinks: Tensor | None = None
    dropout: tuple[float, int] = (0.0, 0)
    rows: int = 16
    keys: int = 16
    splits: int = 0
    packed: bool = False
    aligned: bool = False
    descriptors: bool = False
    checks: bool = False

    @property
    def programs(self) -> dict[Which, Program]:
        mask = self.mask if self.block_mask is None else self.block_mask.program
        given = {Which.MASK: mask, Which.MASK_MOD: self.mask_mod, Which.SCORE: self.score_mod}
        return {which: program for which, program in given.items() if program is not None}

    @property
    def factor(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def queries(self) -> int:
        """Of a tile."""
        return self.rows // self.group if self.packed else self.rows

    @property
    def kernel_key(self) -> KernelKey:
        (batch, q_heads, q_len, dim), (kv_batch, kv_heads, kv_len, _) = self.query.shape, self.key.shape
        problem = AttentionProblem(
            "cuda",
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
        mask = self.programs.get(Which.MASK)
        key = problem.kernel_key("cuda:90", small_indices=True)
        return replace(key, mask=None if mask is None else mask.structure)

    @property
    def spec(self) -> TritonSpec:
        facts = {which: self.facts(program) for which, program in self.programs.items()}
        walk = Walk.FULL if self.mask is None else Walk.PARTIAL
        return TritonSpec(
            KernelKind.SPLIT if self.splits else KernelKind.FORWARD,
            self.kernel_key,
            Tile(self.rows, self.keys),
            walk if self.block_mask is None else Walk.TABLE,
            packed=self.packed,
            aligned=self.aligned,
            descriptors=self.descriptors,
            aligned_dropout=self._starts_on_tiles(),
            positive_scale=self.factor > 0,
            checks=self.checks,
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

    def tables(self) -> tuple[dict[str, Any], int]:
        """The tables' arguments, and how many tiles there are."""
        if self.block_mask is None:
            return {}, -(-self.query.shape[2] // self.queries)
        runs = tile_runs(self.block_mask, self.queries, self.group if self.packed else 1)
        ranges = ranges_of(runs, self.keys, max(self.splits, 1))
        arrays = {name: torch.from_numpy(array) for name, array in ranges.arrays.items()}
        return {"runs_b": ranges.runs_b, "runs_h": ranges.runs_h, **arrays}, ranges.tiles

    def _starts_on_tiles(self) -> bool:
        tables, _ = self.tables()
        starts = [tables[name] for name in ("full_start", "partial_start") if name in tables]
        return all(bool((start % self.keys == 0).all()) for start in starts)


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gives."""

    out: Tensor
    lse: Tensor
    max_scores: Tensor
    poison: list[int]


def run_forward(process: KernelProcess, call: Forward) -> Result:
    """Attend, and combine where keys are split."""
    spec = call.spec
    batch, q_heads, q_len, _ = call.query.shape
    kv_heads, value_dim = call.key.shape[1], call.value.shape[-1]
    tables, tiles = call.tables()
    values = {**numbers(call), **tables, "tiles": tiles, **results(call)}
    values |= tensor_values(call) | program_values(call.programs)
    grid = batch * (kv_heads if call.packed else q_heads) * tiles
    names = ("out", "lse", "max_scores")
    if not call.splits:
        found = process.run(write(spec), grid, values, [*names, "poison"])
        return Result(found["out"], found["lse"], found["max_scores"], record(found))
    parts = (call.splits, batch * q_heads, q_len)
    values |= {
        "partial_out": torch.full((*parts, value_dim), UNWRITTEN),
        "partial_sum": torch.full(parts, UNWRITTEN),
        "partial_max": torch.full(parts, UNWRITTEN),
    }
    partial = ["partial_out", "partial_sum", "partial_max", "poison"]
    found = process.run(write(spec), grid * call.splits, values, partial)
    combine = replace(spec, kind=KernelKind.COMBINE, walk=Walk.FULL)
    rows = -(-batch * q_heads * q_len // call.rows)
    merged = process.run(write(combine), rows, values | found, names)
    return Result(merged["out"], merged["lse"], merged["max_scores"], record(found))


def record(found: dict[str, Tensor]) -> list[int]:
    """What was noted; nothing where nothing can be."""
    return found["poison"].tolist() if "poison" in found else [0] * 6


def numbers(call: Forward) -> dict[str, Any]:
    """Sizes, and what dropout needs."""
    (batch, q_heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = call.query.shape, call.key.shape
    p, seed = call.dropout
    low, high = (int(np.uint32(seed >> shift & 0xFFFFFFFF).view(np.int32)) for shift in (0, 32))
    return {
        "batch": batch,
        "kv_batch": kv_batch,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "group": call.group,
        "q_len": q_len,
        "kv_len": kv_len,
        "splits": call.splits,
        "scale": call.factor,
        "seed_low": low,
        "seed_high": high,
        "keep_threshold": drop_threshold(p),
        "keep_factor": 1.0 / keep_rate(p) if p < 1.0 else 0.0,
    }


def results(call: Forward) -> dict[str, Tensor]:
    batch, q_heads, q_len, _ = call.query.shape
    return {
        "out": call.query.new_full((batch, q_heads, q_len, call.value.shape[-1]), UNWRITTEN),
        "lse": torch.full((batch, q_heads, q_len), UNWRITTEN),
        "max_scores": torch.full((batch, q_heads, q_len), UNWRITTEN),
        "sinks": torch.zeros(q_heads) if call.sinks is None else call.sinks,
        "poison": torch.zeros(6, dtype=torch.int64),
    } | strides("out", call.query.new_empty(batch, q_heads, q_len, call.value.shape[-1]), "q")


def tensor_values(call: Forward) -> dict[str, Any]:
    """Query, key and value, with their strides."""
    found: dict[str, Any] = {}
    for name, axis in (("query", "q"), ("key", "k"), ("value", "k")):
        tensor = getattr(call, name)
        found |= {name: tensor, **strides(name, tensor, axis)}
        if call.descriptors and axis == "k":
            found[name] = Described(tensor, (1, 1, call.keys, padded(tensor.shape[-1])))
    return found


def strides(name: str, tensor: Tensor, axis: str) -> dict[str, int]:
    """By parameter; one batch serves all."""
    steps = tensor.stride()
    by_axis = zip(("b", "h", axis), (steps[0] if tensor.shape[0] > 1 else 0, *steps[1:]), strict=False)
    return {f"{name}_{index}": step for index, step in by_axis}


def program_values(programs: dict[Which, Program]) -> dict[str, Any]:
    """Captures with their strides and sizes, and numbers."""
    found: dict[str, Any] = {}
    for which, program in programs.items():
        prefix = which.name.lower()
        for slot, capture in enumerate(program.captures):
            name = f"{prefix}_c{slot}"
            found[name] = capture.detach()
            found |= {f"{name}_s{dim}": step for dim, step in enumerate(capture.stride())}
            found |= {f"{name}_n{dim}": size for dim, size in enumerate(capture.shape)}
        found |= {f"{prefix}_n{slot}": number for slot, number in enumerate(program.numbers)}
    return found
