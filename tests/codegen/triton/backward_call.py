"""Backward kernels called as plainly as can be, on the output and lse that the oracle gives.

What kernels read of a forward is the float64 result rounded to the types in which an engine has it, so that
nothing is tested but the backward. Memory that kernels must write is filled with NaN before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import oracle
from codegen.triton.kernel_process import Described, KernelProcess
from saccade.backends.triton.ranges import ranges_of
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import key_tile_runs, tile_runs
from saccade.codegen.program.contributions import Contribution, contributions
from saccade.codegen.program.derivative import derivative
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.prover import prove
from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay, capture_ways
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.module import padded
from saccade.codegen.triton.source import CapturedSum
from saccade.codegen.triton.spec import KernelKind, Tile, TritonSpec, Walk
from saccade.ir.dropout import drop_threshold, keep_mask, keep_rate
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.problem import HeadGroups, KernelKey, Outputs, Wanted
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

DTYPES = {torch.float32: DType.FLOAT32, torch.float16: DType.FLOAT16, torch.bfloat16: DType.BFLOAT16}
_PREFIXES = {Which.MASK: "mask_", Which.MASK_MOD: "mask_mod_", Which.SCORE: "score_"}
_KINDS = (KernelKind.DELTA, KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT)


@dataclass(frozen=True, eq=False)
class Backward:
    """What a call asks for.

    Attributes:
        query: [B, Hq, Q, D], a leaf.
        key: [B or 1, Hkv, K, D], a leaf.
        value: [B or 1, Hkv, K, Dv], a leaf.
        score_mod: What scores become.
        meaning: The oracle's score_mod, where torch cannot run this one.
        learned: The captured tensors of `score_mod` whose gradients are wanted, leaves.
        block_mask: What is visible; all without one.
        mask_mod: What must hold beside it; without a block mask, what is visible.
        scale: Of scores; 1/√D unless given.
        sinks: [Hq], a leaf.
        dropout: The probability and the seed.
        with_lse: Whether lse has a gradient.
        tile: Rows and keys of a tile.
        wanted: Which of query, key and value.
        descriptors: Whether the gradient of queries reads keys and values through descriptors.
        target: For what kernels are written.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    score_mod: ScoreMod | None = None
    meaning: ScoreMod | None = None
    learned: tuple[Tensor, ...] = ()
    block_mask: BlockMask | None = None
    mask_mod: MaskMod | None = None
    scale: float | None = None
    sinks: Tensor | None = None
    dropout: tuple[float, int] = (0.0, 0)
    with_lse: bool = True
    tile: tuple[int, int] = (16, 32)
    wanted: tuple[bool, bool, bool] = (True, True, True)
    descriptors: bool = False
    target: str = "cuda:90"

    @property
    def sizes(self) -> dict[str, int]:
        (batch, q_heads, q_len, _), (kv_batch, kv_heads, kv_len, _) = self.query.shape, self.key.shape
        return {
            "batch": batch,
            "kv_batch": kv_batch,
            "q_heads": q_heads,
            "kv_heads": kv_heads,
            "group": q_heads // kv_heads,
            "q_len": q_len,
            "kv_len": kv_len,
        }

    @property
    def factor(self) -> float:
        return self.query.shape[-1] ** -0.5 if self.scale is None else self.scale

    @cached_property
    def programs(self) -> dict[Which, Program]:
        """What kernels run; a mask_mod alone stands where a block mask's program would."""
        found = {}
        if self.block_mask is not None:
            found[Which.MASK] = self.block_mask.program
        if self.mask_mod is not None:
            place = Which.MASK if self.block_mask is None else Which.MASK_MOD
            found[place] = trace(self.mask_mod, ModKind.MASK)
        if self.score_mod is not None:
            found[Which.SCORE] = trace(self.score_mod, ModKind.SCORE, score_dtype=DType.FLOAT32)
        return found

    @property
    def keep(self) -> Tensor | None:
        """[B, Hq, Q, K] bool: the weights that dropout leaves."""
        if not self.dropout[0]:
            return None
        batch, heads, q_len, _ = self.query.shape
        b_h, q, k = (torch.arange(n).numpy() for n in (batch * heads, q_len, self.key.shape[2]))
        p, seed = self.dropout
        kept = keep_mask(seed, p, b_h[:, None, None], q[:, None], k)
        return torch.from_numpy(kept).view(batch, heads, q_len, -1)

    @property
    def mods(self) -> dict[str, Any]:
        """What the call means, in the oracle's terms."""

        def both(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            seen = torch.ones((), dtype=torch.bool)
            if self.block_mask is not None:
                seen = seen & self._shown(b, h, q, k)
            return seen if self.mask_mod is None else seen & self.mask_mod(b, h, q, k)

        rate = keep_rate(self.dropout[0])
        return {
            "mask": None if self.block_mask is None and self.mask_mod is None else both,
            "score": self.meaning or self.score_mod,
            "scale": self.scale,
            "sinks": self.sinks,
            "keep": self.keep,
            "keep_rate": rate or 1.0,
        }

    def _shown(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """What the block mask shows, by the user's own function where that decides."""
        mask = self.block_mask
        assert mask is not None
        if mask.analysed:
            return torch.as_tensor(mask.mask_mod(b, h, q, k))
        pairs = mask.to_bool()
        return pairs[b % pairs.shape[0], h % pairs.shape[1], q, k]

    @property
    def leaves(self) -> list[Tensor]:
        """What has a gradient here: of query, key and value those that are wanted, and `learned`."""
        three = zip(self.wanted, (self.query, self.key, self.value), strict=True)
        return [*(leaf for is_wanted, leaf in three if is_wanted), *self.learned]

    def captures_wanted(self) -> tuple[bool, ...]:
        score = self.programs.get(Which.SCORE)
        if score is None or not self.learned:
            return ()
        return tuple(any(capture is leaf for leaf in self.learned) for capture in score.captures)

    @property
    def ways(self) -> tuple[CaptureWay, ...]:
        score = self.programs.get(Which.SCORE)
        if score is None:
            return ()
        batch, heads, _, _ = self.query.shape
        return capture_ways(score.structure, self.captures_wanted(), score.numbers, batch, heads)

    def spec(self, kind: KernelKind) -> TritonSpec:
        captures, score = self.captures_wanted(), self.programs.get(Which.SCORE)
        key = KernelKey(
            target=self.target,
            dtype=DTYPES[self.query.dtype],
            head_dim=self.query.shape[-1],
            value_dim=self.value.shape[-1],
            head_groups=HeadGroups.SINGLE if self.sizes["group"] == 1 else HeadGroups.GROUPED,
            score=None if score is None else score.structure,
            mask=None if Which.MASK not in self.programs else self.programs[Which.MASK].structure,
            mask_mod=None if Which.MASK_MOD not in self.programs else self.programs[Which.MASK_MOD].structure,
            outputs=Outputs(lse=self.with_lse),
            sinks=self.sinks is not None,
            dropout=self.dropout[0] > 0,
            small_indices=True,
            wanted=Wanted(*self.wanted, captures=captures),
        )
        facts = {which: self._facts(program) for which, program in self.programs.items()}
        gradient = None
        if score is not None:
            beside = contributions(score.structure, captures)
            gradient = self._facts(replace(score, structure=derivative(score.structure)), beside)
        walk = Walk.FULL if Which.MASK not in self.programs else Walk.PARTIAL
        return TritonSpec(
            kind,
            key,
            Tile(*self.tile, 4, 2),
            walk if self.block_mask is None else Walk.TABLE,
            descriptors=self.descriptors and kind is KernelKind.QUERY_GRADIENT,
            score=facts.get(Which.SCORE),
            mask=facts.get(Which.MASK),
            mask_mod=facts.get(Which.MASK_MOD),
            score_gradient=gradient,
            ways=self.ways,
        )

    def _facts(self, program: Program, beside: tuple[Contribution, ...] = ()) -> ProgramFacts:
        sizes = self.sizes
        return prove(
            program.structure,
            batch=sizes["batch"],
            heads=sizes["q_heads"],
            q_len=sizes["q_len"],
            kv_len=sizes["kv_len"],
            numbers=program.numbers,
            shapes=tuple(tuple(capture.shape) for capture in program.captures),
            dense=tuple(bool(c.ndim) and c.stride(-1) == 1 for c in program.captures),
            contributions=beside,
        )


def run_backward(
    process: KernelProcess, call: Backward, grad_out: Tensor, grad_lse: Tensor | None
) -> list[Tensor]:
    """The gradients of `call.leaves`, those of captured tensors in float32."""
    values = _arguments(call, grad_out, grad_lse)
    names = ("query", "key", "value")
    for name, leaf in zip(names, (call.query, call.key, call.value), strict=True):
        values |= _strided(f"grad_{name}", _nothing(torch.empty_like(leaf)), "q" if name == "query" else "k")
    sums = {id(leaf): torch.zeros(leaf.shape, dtype=torch.float32) for leaf in call.learned}
    for kind in _KINDS:
        if _is_needed(call, kind):
            values |= _launch(process, call, kind, values, sums)
    found = [values[f"grad_{name}"] for name, is_wanted in zip(names, call.wanted, strict=True) if is_wanted]
    return [*found, *sums.values()]


def _is_needed(call: Backward, kind: KernelKind) -> bool:
    query, key, value = call.wanted
    of_keys = [way.is_of_keys for way in call.ways]
    return {
        KernelKind.DELTA: query or key or bool(of_keys),
        KernelKind.QUERY_GRADIENT: query or not all(of_keys),
        KernelKind.KEY_GRADIENT: key or value or any(of_keys),
    }[kind]


def _launch(
    process: KernelProcess,
    call: Backward,
    kind: KernelKind,
    values: Mapping[str, Any],
    sums: Mapping[int, Tensor],
) -> dict[str, Tensor]:
    """Run a kernel, add what it gives of captured tensors to `sums`, and return the rest."""
    spec, sizes = call.spec(kind), call.sizes
    source = write(spec)
    by_key = kind is KernelKind.KEY_GRADIENT
    rows, keys = call.tile
    given = dict(values)
    tiles = -(-sizes["kv_len"] // keys) if by_key else -(-sizes["q_len"] // rows)
    if spec.walk is Walk.TABLE and kind is not KernelKind.DELTA:
        assert call.block_mask is not None
        runs = key_tile_runs(call.block_mask, keys) if by_key else tile_runs(call.block_mask, rows)
        ranges = ranges_of(runs, rows if by_key else keys)
        tiles = ranges.tiles
        tables = {name: torch.from_numpy(array.copy()) for name, array in ranges.arrays.items()}
        given |= {**tables, "runs_b": ranges.runs_b, "runs_h": ranges.runs_h}
    given["tiles"] = tiles
    if spec.descriptors:
        for name in ("key", "value"):
            given[name] = Described(given[name], (1, 1, keys, padded(given[name].shape[-1])))
    for each in source.sums:
        given[each.value] = sums[_captured(call, each)]
        if each.way.is_kept:
            shape = (sizes["batch"], sizes["q_heads"], _places(each.way, sizes, tiles))
            given[each.value] = _nothing(torch.empty(shape))
            given[each.index] = torch.full(shape, -(2**40))
    written = {
        name: given[name]
        for name in (*(parameter.name for parameter in source.parameters),)
        if name.startswith(("grad_query", "grad_key", "grad_value", "delta", "sum"))
        and isinstance(given[name], Tensor)
    }
    heads = sizes["kv_batch"] * sizes["kv_heads"] if by_key else sizes["batch"] * sizes["q_heads"]
    found = process.run(source, heads * tiles, given, tuple(written))
    for each in source.sums:
        total = sums[_captured(call, each)].view(-1)
        value = found.pop(each.value).view(-1)
        if each.way.is_kept:
            total.index_put_((found.pop(each.index).view(-1),), value, accumulate=True)
        else:
            total.copy_(value)
    return found


def _captured(call: Backward, each: CapturedSum) -> int:
    return id(call.programs[Which.SCORE].captures[each.slot])


def _places(way: CaptureWay, sizes: Mapping[str, int], tiles: int) -> int:
    return {
        CaptureWay.PER_QUERY: sizes["q_len"],
        CaptureWay.PER_KEY: sizes["kv_len"],
        CaptureWay.PER_TILE: tiles,
    }[way]


def _nothing(memory: Tensor) -> Tensor:
    return memory.fill_(float("nan"))


def _arguments(call: Backward, grad_out: Tensor, grad_lse: Tensor | None) -> dict[str, Any]:
    """What all kernels are given, of what the call is about."""
    reference = oracle.attention(call.query, call.key, call.value, **call.mods)
    out = reference.out.detach().to(call.query.dtype)
    values: dict[str, Any] = {**call.sizes, "scale": call.factor}
    for name, tensor in (("query", call.query), ("out", out), ("grad_out", grad_out)):
        values |= _strided(name, tensor, "q")
    for name, tensor in (("key", call.key), ("value", call.value)):
        values |= _strided(name, tensor, "k")
    values["lse"] = reference.lse.detach().float()
    values["delta"] = _nothing(torch.empty(reference.lse.shape))
    values["grad_lse"] = None if grad_lse is None else grad_lse.float().contiguous()
    p, seed = call.dropout
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    values["seed_low"], values["seed_high"] = (word - (word >> 31 << 32) for word in (low, high))
    values["keep_threshold"] = drop_threshold(p)
    values["keep_factor"] = 1.0 / (keep_rate(p) or float("inf"))
    for which, program in call.programs.items():
        prefix = _PREFIXES[which]
        values |= {f"{prefix}n{slot}": number for slot, number in enumerate(program.numbers)}
        for slot, capture in enumerate(program.captures):
            assert isinstance(capture, Tensor)
            values[f"{prefix}c{slot}"] = capture.detach()
            for dim, (size, stride) in enumerate(zip(capture.shape, capture.stride(), strict=True)):
                values[f"{prefix}c{slot}_n{dim}"] = size
                values[f"{prefix}c{slot}_s{dim}"] = stride
    return values


def _strided(name: str, tensor: Tensor, rows: str) -> dict[str, Any]:
    b, h, n, last = tensor.stride()
    assert last == 1
    b = 0 if tensor.shape[0] == 1 else b
    return {name: tensor.detach(), f"{name}_b": b, f"{name}_h": h, f"{name}_{rows}": n}
