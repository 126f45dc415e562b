"""A problem made ready for the CPU engine, and its call: operands in, results out.

Owns what happens at every call: which kernel, which work, which arguments. Invariant: what the arguments
point to is held until the kernel has returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, final

import torch
from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, Corners, fill_rows, fill_tensor, template
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.noted_place import noted_place
from saccade.backends.cpu.operands import Blocks
from saccade.backends.cpu.specialise import Choice, specify
from saccade.backends.cpu.walk import walk_of
from saccade.backends.cpu.work import Extent
from saccade.backends.layout import strides_like
from saccade.backends.mods import Programs, mods_of, programs_of
from saccade.backends.poison import raise_poison
from saccade.codegen.cpu.arguments import ArgumentLayout, State
from saccade.codegen.cpu.isa import ISAS
from saccade.problem import AttentionProblem
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuKernel"]

_CPU = torch.device("cpu")  # said, because a default device may be set
_QUERY, _KEY, _VALUE, _OUT = map(ArgumentLayout.slot, ("query", "key", "value", "out"))
_LSE, _MAX_SCORES, _SINKS, _SEED = map(ArgumentLayout.slot, ("lse", "max_scores", "sinks", "seed"))

_strides_like = lru_cache(maxsize=256)(strides_like)


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
        self._extent = Extent.of(problem)
        self._shape = (problem.batch, problem.q_heads, problem.q_len, problem.value_dim)
        self._corners = Corners.of(problem)
        self._precise = TORCH[problem.accumulates_in]
        self._blocks = Blocks(problem)
        self._ready: dict[tuple[bool, ...], _Ready] = {}

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        results = self._results(operands.query)
        programs = programs_of(operands) if self._mods else {}
        captures = [Capture(each) for program in programs.values() for each in program.captures]
        ready = self._made_ready(tuple([capture.is_dense for capture in captures]))
        walk = walk_of(ready.loaded, self._blocks.of(operands), self._extent, self._blocks.everything)
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
        out = torch.empty_strided(shape, _strides_like(shape, query.stride()), dtype=query.dtype, device=_CPU)
        lse, max_scores = (
            torch.empty(shape[:3], dtype=self._precise, device=_CPU) if wanted else None
            for wanted in (outputs.lse, outputs.max_scores)
        )
        return Results(out, lse, max_scores)

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
            held.append(fill_rows(block, _SINKS, operands.sinks, self._precise, "sinks"))
        if operands.dropout_seed is not None:
            block[_SEED] = int(operands.dropout_seed)
        return held

    def _raise(self, state: list[int], operands: Operands, programs: Programs) -> NoReturn:
        lanes = ISAS[self._choice.key.target].lanes(self._problem.accumulates_in)
        raise_poison(self._problem, operands, programs, noted_place(state, lanes, self._problem.kv_len))
