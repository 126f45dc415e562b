"""A problem made ready for the GPU engine, and its call: operands in, results out.

Owns what happens at every call: which kernel, which tables, which arguments. Nothing here waits for the
device, unless poison is asked for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple, final

import torch
from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.layout import strides_like
from saccade.backends.mods import programs_of
from saccade.backends.triton.arguments import Values, fill_written
from saccade.backends.triton.blocks import blocks_of
from saccade.backends.triton.descriptors import describable, described
from saccade.backends.triton.kernels import LoadedKernel, load_kernel
from saccade.backends.triton.operands import OperandReader
from saccade.backends.triton.options import Options
from saccade.backends.triton.poison_record import lend_record, raise_noted
from saccade.backends.triton.specialise import (
    Choice,
    Circumstances,
    analysis_pays,
    choose,
    describes,
    key_of,
    precision_of,
    question_of,
    specify,
)
from saccade.backends.triton.tables import Cut, longest_walk, tables_of, without_tables
from saccade.backends.triton.tile_trials import Attempt, Settling, Trial
from saccade.block_mask import BlockMask
from saccade.codegen.triton.spec import KernelKind, Tile, Walk
from saccade.codegen.triton.tiles import default_tile, tile_choices
from saccade.problem import AttentionProblem, KernelKey
from saccade.runtime.triton import describe_device
from saccade.schedule import Schedule

__all__ = ["TritonKernel"]

_NOTHING_GIVEN = Circumstances((), Walk.FULL, True, False, False, "ieee")

_strides_like = lru_cache(maxsize=256)(strides_like)


@final
@dataclass(eq=False)
class _OnDevice:
    """A problem on one device.

    Attributes:
        choice: How it is computed there, but for the tile.
        settling: The tile.
        key: What its kernels' code depends on.
        kernels: Those of calls so far.
    """

    choice: Choice
    settling: Settling
    key: KernelKey
    kernels: dict[tuple[Tile, Circumstances], LoadedKernel] = field(default_factory=dict)


class _Call(NamedTuple):
    """A call, read.

    Attributes:
        values: The arguments of kernels, but for tables and partial results.
        mask: The blocks that are walked.
        given: What its kernel depends on; whether dropout is aligned follows from the tile.
        device: Where it runs.
    """

    values: Values
    mask: BlockMask | None
    given: Circumstances
    device: torch.device


@final
class TritonKernel:
    """The callable of one problem.

    Args:
        problem: What is asked; it has queries and keys.
        hints: The schedule of its calls.
        checks: Whether poison raises, for which every call waits.
    """

    def __init__(self, problem: AttentionProblem, hints: Schedule, *, checks: bool) -> None:
        self._problem, self._hints, self._checks = problem, hints, checks
        self._reader = OperandReader(problem)
        self._blocks = blocks_of(problem, analyses=analysis_pays(problem))
        self._shape = (problem.batch, problem.q_heads, problem.q_len, problem.value_dim)
        self._devices: dict[torch.device, _OnDevice] = {}

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        device = operands.query.device
        here = self._devices.get(device)
        if here is None:
            here = self._devices[device] = self._on(device)
        values, aligned, layouts = self._reader.read(operands)
        results = self._results(operands.query)
        fill_written(values, "out", results.out)
        values["lse"], values["max_scores"] = results.lse, results.max_scores
        mask, precision = self._blocks.of(operands), precision_of(self._problem)
        describing = here.choice.descriptors and describes(self._problem.dtype, precision)
        given = Circumstances(
            layouts,
            self._blocks.otherwise if mask is None else Walk.TABLE,
            aligned,
            describing and aligned and describable(values),
            True,
            precision,
        )
        call = _Call(values, mask, given, device)

        def apart() -> Attempt:
            tried = call._replace(mask=without_tables(mask))
            return lambda tile: self._attend(here, tile, tried)

        here.settling.run(lambda tile: self._attend(here, tile, call), device, apart)
        if self._checks:
            raise_noted(values, self._problem, operands, programs_of(operands), here.settling.tile)
        return results if self._problem.outputs.lse else Results(results.out, None, results.max_scores)

    def _on(self, device: torch.device) -> _OnDevice:
        problem, hints, facts = self._problem, self._hints, describe_device(device)
        target = facts.target.name
        choice, key = choose(problem, hints, facts), key_of(problem, target)
        trial = None
        if Options.of(hints, "fwd_").tries:
            tiles = tile_choices(KernelKind.FORWARD, key, facts.shared_limit or sys.maxsize)
            trial = Trial(question_of(problem, choice.kind, key, choice.packed), tiles)
        settling = Settling(choice.tile, hints, target, trial, keeps_rows=choice.keeps_rows)
        return _OnDevice(choice, settling, key)

    def _results(self, query: Tensor) -> Results:
        """The outputs, not yet written; lse always among them."""
        shape, device = self._shape, query.device
        out = torch.empty_strided(
            shape, _strides_like(shape, query.stride()), dtype=query.dtype, device=device
        )
        lse = torch.empty(shape[:3], dtype=torch.float32, device=device)
        return Results(out, lse, torch.empty_like(lse) if self._problem.outputs.max_scores else None)

    def _attend(self, here: _OnDevice, tile: Tile, call: _Call) -> None:
        """Start the kernels of a call."""
        problem, choice, mask, splits = self._problem, here.choice, call.mask, here.choice.splits
        values, device, given = call.values, call.device, call.given
        packed = problem.group_size if choice.packed else 1
        queries = tile.rows // packed
        tiles = values["tiles"] = -(-problem.q_len // queries)
        if mask is not None:
            if splits > 1:
                splits = min(splits, -(-longest_walk(mask, queries, packed) // tile.keys))
            tables = tables_of(mask, Cut(queries, tile.keys, packed, splits), device)
            values.update(tables.lend())
            tiles = tables.tiles
            given = given._replace(aligned_dropout=mask.kv_block % tile.keys == 0)
        values["splits"] = splits
        if self._checks:
            lend_record(values, device)
        if given.descriptors:
            values = {**values, **described(values, tile.keys)}
        kernel = self._kernel(here, tile, given, device)
        programs = problem.batch * (problem.kv_heads if choice.packed else problem.q_heads) * tiles
        if choice.kind is KernelKind.FORWARD:
            kernel.launch(programs, values, device)
            return
        values.update(self._partial_results(splits, device))
        kernel.launch(programs * splits, values, device)
        rows = problem.batch * problem.q_heads * problem.q_len
        tile = default_tile(KernelKind.COMBINE, here.key)
        self._combining(here, tile, device).launch(-(-rows // tile.rows), values, device)

    def _kernel(
        self, here: _OnDevice, tile: Tile, given: Circumstances, device: torch.device
    ) -> LoadedKernel:
        """The kernel that attends."""
        kernel = here.kernels.get((tile, given))
        if kernel is None:
            kind, packed = here.choice.kind, here.choice.packed
            mods, checks = self._reader.mods, self._checks
            spec = specify(self._problem, kind, here.key, tile, mods, given, packed=packed, checks=checks)
            kernel = here.kernels[tile, given] = load_kernel(spec, device)
        return kernel

    def _combining(self, here: _OnDevice, tile: Tile, device: torch.device) -> LoadedKernel:
        """The kernel that merges partial results."""
        kernel = here.kernels.get((tile, _NOTHING_GIVEN))
        if kernel is None:
            bare = replace(here.key, score=None, mask=None, mask_mod=None, dropout=False)
            spec = specify(self._problem, KernelKind.COMBINE, bare, tile, {}, _NOTHING_GIVEN)
            kernel = here.kernels[tile, _NOTHING_GIVEN] = load_kernel(spec, device)
        return kernel

    def _partial_results(self, splits: int, device: torch.device) -> Values:
        """Memory for partial results."""
        *rows, width = self._shape
        shape = (splits, *rows)
        return {
            "partial_out": torch.empty((*shape, width), dtype=torch.float32, device=device),
            "partial_max": torch.empty(shape, dtype=torch.float32, device=device),
            "partial_sum": torch.empty(shape, dtype=torch.float32, device=device),
        }
