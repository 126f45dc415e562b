"""Gradients of a problem's attention by the GPU engine: what the forward gave, and its gradients, in.

Weights are computed again from lse, so a forward that will be differentiated must return it. One kernel walks
keys for the gradient of queries, another one queries for those of keys and values; neither waits for the
host.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from saccade.backends.base import Gradients, Operands, Results
from saccade.backends.layout import strides_like
from saccade.backends.mods import programs_of
from saccade.backends.triton.arguments import Values, fill_rows, fill_tensor, fill_written
from saccade.backends.triton.blocks import blocks_of
from saccade.backends.triton.capture_sums import CaptureSums
from saccade.backends.triton.descriptors import describable, described
from saccade.backends.triton.determinism import tell_unordered
from saccade.backends.triton.kernels import LoadedKernel, load_kernel
from saccade.backends.triton.operands import OperandReader
from saccade.backends.triton.options import Options
from saccade.backends.triton.poison_record import lend_record, raise_noted
from saccade.backends.triton.specialise import (
    Circumstances,
    analysis_pays,
    describes,
    has_descriptors,
    hinted_tile,
    key_of,
    precision_of,
    question_of,
    specify,
    specify_gradient,
)
from saccade.backends.triton.tables import Cut, tables_of, without_tables
from saccade.backends.triton.tile_trials import Attempt, Settling, Trial
from saccade.block_mask import BlockMask
from saccade.codegen.program.contributions import summed_derivative
from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay, capture_ways
from saccade.codegen.triton.spec import KernelKind, Tile, Walk
from saccade.codegen.triton.tiles import default_tile, tile_choices
from saccade.problem import AttentionProblem, KernelKey, Outputs, Wanted
from saccade.runtime.triton import describe_device
from saccade.schedule import Schedule

__all__ = ["TritonBackward"]


@final
@dataclass(eq=False)
class _OnDevice:
    """A problem's gradients on one device.

    Attributes:
        of_queries: The tile of QUERY_GRADIENT.
        of_keys: The tile of KEY_GRADIENT.
        descriptors: Whether QUERY_GRADIENT has keys and values through descriptors, where operands allow it.
        key: What the code of the forward depends on.
        kernels: Those of calls so far.
    """

    of_queries: Settling
    of_keys: Settling
    descriptors: bool
    key: KernelKey
    kernels: dict[tuple[object, ...], LoadedKernel] = field(default_factory=dict)


class _Call(NamedTuple):
    """A call, read.

    Attributes:
        values: The arguments of kernels, but for tables and sums.
        mask: The blocks that are walked.
        given: What kernels depend on; what follows from their tiles is not in it.
        wanted: Which gradients.
        ways: How each contribution to a captured tensor is added up.
        device: Where it runs.
    """

    values: Values
    mask: BlockMask | None
    given: Circumstances
    wanted: Wanted
    ways: tuple[CaptureWay, ...]
    device: torch.device


@final
class TritonBackward:
    """What differentiates the calls of one problem.

    Args:
        problem: What was asked; it has queries and keys.
        hints: The schedule of its calls.
        checks: Whether poison raises, for which every kernel is waited for.
    """

    def __init__(self, problem: AttentionProblem, hints: Schedule, *, checks: bool) -> None:
        assert problem.scores, "without a pair every gradient is known"
        self._problem, self._hints, self._checks = problem, hints, checks
        self._reader = OperandReader(problem)
        self._blocks = blocks_of(problem, analyses=analysis_pays(problem))
        self._rows = (problem.batch, problem.q_heads, problem.q_len)
        self._devices: dict[torch.device, _OnDevice] = {}
        self._known_ways: dict[tuple[bool, ...], tuple[CaptureWay, ...]] = {}

    def __call__(
        self,
        operands: Operands,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        wanted: Wanted,
    ) -> Gradients:
        """Compute gradients; see `BackwardKernel`."""
        if not (wanted.of_scores or wanted.value or wanted.sinks):
            return Gradients()
        device = operands.query.device
        here = self._devices.get(device)
        if here is None:
            here = self._devices[device] = self._on(device)
        found = _unwritten(operands, wanted)
        call = self._read(operands, results, grad_out, found, wanted)
        values = call.values
        if not all(way.is_deterministic for way in call.ways):
            tell_unordered()
        if wanted.of_scores or wanted.sinks:
            self._find_delta(here, call, grad_lse)
        captures = () if operands.score is None else operands.score.captures

        def no_sums() -> CaptureSums:
            return CaptureSums(self._problem, captures, wanted.captures, device)

        def apart(walk: Callable[[_OnDevice, Tile, _Call, CaptureSums], None]) -> Attempt:
            tried = call._replace(mask=without_tables(call.mask))
            return lambda tile: walk(here, tile, tried, no_sums())

        sums = no_sums()
        if wanted.query or any(not way.is_of_keys for way in call.ways):
            here.of_queries.run(
                lambda tile: self._walk_keys(here, tile, call, sums),
                device,
                lambda: apart(self._walk_keys),
            )
            self._raise_noted(call, operands, here.of_queries.tile)
        if wanted.key or wanted.value or any(way.is_of_keys for way in call.ways):
            here.of_keys.run(
                lambda tile: self._walk_queries(here, tile, call, sums),
                device,
                lambda: apart(self._walk_queries),
            )
            self._raise_noted(call, operands, here.of_keys.tile)
        if wanted.sinks:
            assert operands.sinks is not None, "only what is there is wanted"
            found = replace(found, sinks=_of_sinks(values).to(operands.sinks.dtype))
        return replace(found, captures=sums.gradients())

    def _on(self, device: torch.device) -> _OnDevice:
        facts, hints = describe_device(device), self._hints
        key = key_of(self._problem, facts.target.name)
        options = Options.of(hints, "bwd_")

        def settling(kind: KernelKind, hints: Schedule) -> Settling:
            trial = None
            if options.tries:
                tiles = tile_choices(kind, key, facts.shared_limit or sys.maxsize)
                trial = Trial(question_of(self._problem, kind, key), tiles)
            return Settling(hinted_tile(hints, default_tile(kind, key)), hints, facts.target.name, trial)

        of_queries = replace(hints, q_tile=hints.backward_dq_q_tile, kv_tile=hints.backward_dq_kv_tile)
        of_keys = replace(hints, q_tile=hints.backward_q_tile, kv_tile=hints.backward_kv_tile)
        return _OnDevice(
            settling(KernelKind.QUERY_GRADIENT, of_queries),
            settling(KernelKind.KEY_GRADIENT, of_keys),
            has_descriptors(options, facts.target),
            key,
        )

    def _read(
        self,
        operands: Operands,
        results: Results,
        grad_out: Tensor | None,
        found: Gradients,
        wanted: Wanted,
    ) -> _Call:
        """Put all tensors of a call among the arguments."""
        values, aligned, layouts = self._reader.read(operands)
        out, problem = results.out, self._problem
        aligned &= fill_tensor(values, "out", out)
        aligned &= fill_tensor(values, "grad_out", torch.zeros_like(out) if grad_out is None else grad_out)
        assert results.lse is not None, "weights are recomputed from lse"
        fill_rows(values, "lse", results.lse)
        for name in ("query", "key", "value"):
            gradient = getattr(found, name)
            if gradient is not None:
                fill_written(values, f"grad_{name}", gradient)
        mask = self._blocks.of(operands)
        walk = self._blocks.otherwise if mask is None else Walk.TABLE
        given = Circumstances(layouts, walk, aligned, False, True, precision_of(problem))
        return _Call(values, mask, given, wanted, self._ways(wanted.captures), operands.query.device)

    def _ways(self, wanted: tuple[bool, ...]) -> tuple[CaptureWay, ...]:
        """How each contribution to a wanted capture is added up."""
        problem, score = self._problem, self._problem.score
        if score is None or not wanted:
            return ()
        ways = self._known_ways.get(wanted)
        if ways is None:
            ways = capture_ways(score.structure, wanted, score.numbers, problem.batch, problem.q_heads)
            self._known_ways[wanted] = ways
        return ways

    def _find_delta(self, here: _OnDevice, call: _Call, grad_lse: Tensor | None) -> None:
        """Compute delta, and put it among the arguments."""
        batch, heads, q_len = self._rows
        values, has_grad = call.values, grad_lse is not None
        if grad_lse is not None:
            fill_rows(values, "grad_lse", grad_lse)
        values["delta"] = torch.empty(self._rows, dtype=torch.float32, device=call.device)
        tile = default_tile(KernelKind.DELTA, here.key)
        tiles = values["tiles"] = -(-q_len // tile.rows)
        name = (KernelKind.DELTA, call.given.aligned, has_grad)
        kernel = here.kernels.get(name)
        if kernel is None:
            bare = replace(
                here.key, score=None, mask=None, mask_mod=None, dropout=False, outputs=Outputs(lse=has_grad)
            )
            given = Circumstances((), Walk.FULL, call.given.aligned, False, False, "ieee")
            spec = specify(self._problem, KernelKind.DELTA, bare, tile, {}, given)
            kernel = here.kernels[name] = load_kernel(spec, call.device)
        kernel.launch(batch * heads * tiles, values, call.device)

    def _walk_keys(self, here: _OnDevice, tile: Tile, call: _Call, sums: CaptureSums) -> None:
        """Compute the gradient of queries, and what captures receive by query and by pair."""
        mask, problem, values, given = call.mask, self._problem, call.values, call.given
        if self._checks:
            lend_record(values, call.device)
        tiles = -(-problem.q_len // tile.rows)
        if mask is not None:
            tables = tables_of(mask, Cut(tile.rows, tile.keys), call.device)
            values.update(tables.lend())
            tiles = tables.tiles
            given = given._replace(aligned_dropout=mask.kv_block % tile.keys == 0)
        describing = here.descriptors and describes(problem.dtype, given.precision)
        if describing and given.aligned and describable(values):
            given = given._replace(descriptors=True)
            values = {**values, **described(values, tile.keys)}
        kernel = self._kernel(here, call, KernelKind.QUERY_GRADIENT, tile, given)
        values["tiles"] = tiles
        _launch(kernel, values, problem.batch * problem.q_heads, tiles, call.device, sums)

    def _walk_queries(self, here: _OnDevice, tile: Tile, call: _Call, sums: CaptureSums) -> None:
        """Compute the gradients of keys and values, and what captures receive by key."""
        mask, problem, values, given = call.mask, self._problem, call.values, call.given
        if self._checks:
            lend_record(values, call.device)
        tiles = -(-problem.kv_len // tile.keys)
        if mask is not None:
            tables = tables_of(mask, Cut(tile.keys, tile.rows, by_key=True), call.device)
            values.update(tables.lend())
            tiles = tables.tiles
            fits = mask.q_block % tile.rows == 0 and (mask.analysed or mask.kv_block % tile.keys == 0)
            given = given._replace(aligned_dropout=fits)
        kernel = self._kernel(here, call, KernelKind.KEY_GRADIENT, tile, given)
        values["tiles"] = tiles
        _launch(kernel, values, problem.kv_batch * problem.kv_heads, tiles, call.device, sums)

    def _raise_noted(self, call: _Call, operands: Operands, tile: Tile) -> None:
        """Where poison is asked for, wait for the kernel that was launched last, and raise what it noted."""
        if not self._checks:
            return
        programs = programs_of(operands)
        score = programs.get(Which.SCORE)
        if score is not None:
            changed = replace(score, structure=summed_derivative(score.structure, call.wanted.captures))
            programs = {**programs, Which.SCORE_GRADIENT: changed}
        raise_noted(call.values, self._problem, operands, programs, tile)

    def _kernel(
        self, here: _OnDevice, call: _Call, kind: KernelKind, tile: Tile, given: Circumstances
    ) -> LoadedKernel:
        """A kernel that walks."""
        name = (kind, tile, given, call.wanted)
        kernel = here.kernels.get(name)
        if kernel is None:
            spec = specify_gradient(
                self._problem,
                kind,
                here.key,
                tile,
                self._reader.mods,
                given,
                call.wanted,
                call.ways,
                checks=self._checks,
            )
            kernel = here.kernels[name] = load_kernel(spec, call.device)
        return kernel


def _launch(
    kernel: LoadedKernel, values: Values, heads: int, tiles: int, device: torch.device, sums: CaptureSums
) -> None:
    """Run a kernel that walks, and add up what it gives back."""
    given_back = kernel.source.sums
    sums.lend(values, given_back, tiles)
    kernel.launch(heads * tiles, values, device)
    sums.add(values, given_back)


def _unwritten(operands: Operands, wanted: Wanted) -> Gradients:
    """Memory for the gradients of query, key and value that are wanted."""
    query, key, value = operands.query, operands.key, operands.value
    strides = strides_like(query.shape, query.stride())
    return Gradients(
        torch.empty_strided(query.shape, strides, dtype=query.dtype, device=query.device)
        if wanted.query
        else None,
        torch.empty(key.shape, dtype=key.dtype, device=key.device) if wanted.key else None,
        torch.empty(value.shape, dtype=value.dtype, device=value.device) if wanted.value else None,
    )


def _of_sinks(values: Values) -> Tensor:
    """The gradient of sinks: each is a score of every row, whose value is 0; [Hq] float32."""
    sinks, lse, delta = (values[name] for name in ("sinks", "lse", "delta"))
    assert isinstance(sinks, Tensor), "sinks are among the arguments"
    assert isinstance(lse, Tensor), "what the forward gave is, too"
    assert isinstance(delta, Tensor), "and so is what was found before"
    weights = torch.where(lse == -torch.inf, 0.0, torch.exp(sinks[:, None] - lse))
    return -(weights * delta).sum(dim=(0, 2))
