"""A problem made ready for the CPU engine, and its call: operands in, results out.

Owns what happens at every call: which kernel, which work, which arguments. Invariant: what the arguments
point to is held until the kernel has returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeAlias, final

import torch
from torch import Tensor

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, fill_tensor, in_memory, template
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.poison import Place, raise_poison
from saccade.backends.cpu.specialise import Choice, analysis_pays, mods_of, specify
from saccade.backends.cpu.walk import Walk, masked_walk, whole_walk
from saccade.backends.cpu.work import Extent
from saccade.backends.layout import strides_like
from saccade.block_mask import BlockMask, create_block_mask
from saccade.codegen.cpu.arguments import ArgumentLayout, State, Which
from saccade.codegen.cpu.isa import ISAS
from saccade.ir.program import Program
from saccade.problem import AttentionProblem
from saccade.runtime.team import thread_count
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuKernel"]

_QUERY, _KEY, _VALUE, _OUT = map(ArgumentLayout.slot, ("query", "key", "value", "out"))
_LSE, _MAX_SCORES, _SINKS, _SEED = map(ArgumentLayout.slot, ("lse", "max_scores", "sinks", "seed"))

_strides_like = lru_cache(maxsize=256)(strides_like)

_Programs: TypeAlias = Mapping[Which, Program]


@final
@dataclass(frozen=True, eq=False)
class _Ready:
    """A loaded kernel, and its arguments as far as the problem fixes them."""

    loaded: LoadedKernel
    template: Block


@final
class CpuKernel:
    """The callable of one problem.

    Args:
        problem: What is asked; it has queries and keys.
        choice: How it is computed.
    """

    def __init__(self, problem: AttentionProblem, choice: Choice) -> None:
        self._problem = problem
        self._choice = choice
        self._mods = mods_of(problem)
        self._extent = Extent(
            problem.batch, problem.kv_batch, problem.q_heads, problem.kv_heads, problem.q_len, problem.kv_len
        )
        self._shape = (problem.batch, problem.q_heads, problem.q_len, problem.value_dim)
        queries = problem.batch - 1, problem.q_heads - 1, problem.q_len - 1
        keys = problem.kv_batch - 1, problem.kv_heads - 1, problem.kv_len - 1
        head_dim, value_dim = problem.head_dim - 1, problem.value_dim - 1
        # The last elements of query, key, value and output.
        self._corners = (*queries, head_dim), (*keys, head_dim), (*keys, value_dim), (*queries, value_dim)
        self._precise = TORCH[problem.accumulates_in]
        lone_mask = problem.block_mask is None and problem.mask_mod is not None
        self._everything = BlockKind.PARTIAL if lone_mask else BlockKind.FULL
        self._analyses = lone_mask and analysis_pays(problem)
        self._analysed: BlockMask | None = None  # of a mask_mod that reads no tensor: the problem says it all
        self._ready: dict[tuple[bool, ...], _Ready] = {}

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        results = self._results(operands.query)
        programs = self._programs(operands)
        captures = [Capture(each) for program in programs.values() for each in program.captures]
        ready = self._made_ready(tuple([capture.is_dense for capture in captures]))
        walk = self._walk(ready.loaded, self._mask(operands))
        block = ready.template[:]
        for slot, number in walk.work.slots:
            block[slot] = number
        held = self._fill(block, operands, results)
        for capture, slots in zip(captures, ready.loaded.captures, strict=True):
            capture.fill(block, slots)
        state = walk.launch(block)
        del held
        if state[State.ERROR]:
            self._raise(state, operands, programs)
        return results

    def _results(self, query: Tensor) -> Results:
        """The outputs, not yet written."""
        shape, outputs = self._shape, self._problem.outputs
        out = torch.empty_strided(shape, _strides_like(shape, query.stride()), dtype=query.dtype)
        lse = torch.empty(shape[:3], dtype=self._precise) if outputs.lse else None
        return Results(out, lse, torch.empty(shape[:3], dtype=self._precise) if outputs.max_scores else None)

    def _programs(self, operands: Operands) -> _Programs:
        """The programs of the kernel, in the places `mods_of` gives them."""
        if not self._mods:
            return {}
        blocks = operands.block_mask
        given = {
            Which.MASK: operands.mask if blocks is None else blocks.program,
            Which.MASK_MOD: None if blocks is None else operands.mask,
            Which.SCORE: operands.score,
        }
        return {which: program for which, program in given.items() if program is not None}

    def _made_ready(self, dense: tuple[bool, ...]) -> _Ready:
        """The kernel for captures of these strides."""
        ready = self._ready.get(dense)
        if ready is None:
            loaded = load_kernel(specify(self._problem, self._choice, self._mods, dense))
            ready = _Ready(loaded, template(self._problem, self._mods, loaded.source.layout))
            self._ready[dense] = ready
        return ready

    def _fill(self, block: Block, operands: Operands, results: Results) -> list[Tensor]:
        """Write where the call's tensors are; returns those that the kernel reads."""
        query, key, value, out = self._corners
        held = [
            fill_tensor(block, _QUERY, operands.query, query),
            fill_tensor(block, _KEY, operands.key, key),
            fill_tensor(block, _VALUE, operands.value, value),
        ]
        fill_tensor(block, _OUT, results.out, out)
        if self._problem.kv_batch == 1:
            block[_KEY + 1] = block[_VALUE + 1] = 0
        if results.lse is not None:
            block[_LSE] = results.lse.data_ptr()
        if results.max_scores is not None:
            block[_MAX_SCORES] = results.max_scores.data_ptr()
        if operands.sinks is not None:
            sinks = in_memory(operands.sinks, "sinks").detach().to(self._precise).resolve_neg().contiguous()
            held.append(sinks)
            block[_SINKS] = sinks.data_ptr()
        if operands.dropout_seed is not None:
            block[_SEED] = int(operands.dropout_seed)
        return held

    def _mask(self, operands: Operands) -> BlockMask | None:
        """The blocks to walk; None for every pair."""
        if operands.block_mask is not None or not self._analyses:
            return operands.block_mask
        if self._analysed is not None:
            return self._analysed
        problem, program = self._problem, operands.mask
        assert program is not None, "a mask_mod alone is analysed"
        batch = problem.batch if program.reads("b") else None
        heads = problem.q_heads if program.reads("h") else None
        mask = create_block_mask(program, batch, heads, problem.q_len, problem.kv_len, device="cpu")
        if not program.captures:
            self._analysed = mask
        return mask

    def _walk(self, kernel: LoadedKernel, mask: BlockMask | None) -> Walk:
        if mask is None:
            return whole_walk(kernel, self._extent, self._everything, thread_count())
        return masked_walk(kernel, mask, self._extent, thread_count())

    def _raise(self, state: list[int], operands: Operands, programs: _Programs) -> NoReturn:
        k, lanes = state[State.ERROR_K], ISAS[self._choice.key.target].lanes(self._problem.accumulates_in)
        keys = range(k, min(k + lanes, self._problem.kv_len))
        which, b, h, q = Which(state[State.ERROR]), *state[State.ERROR_B : State.ERROR_K]
        raise_poison(self._problem, operands, programs, Place(which, b, h, q, keys))
