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

from saccade.backends.base import Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, fill_tensor, readable, template
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.launch import Step, launch
from saccade.backends.cpu.operands import Blocks, Programs, programs_of
from saccade.backends.cpu.poison import Place, raise_poison
from saccade.backends.cpu.specialise import Choice, mods_of, specify
from saccade.backends.cpu.work import (
    DecodeWork,
    Extent,
    ForwardWork,
    decode_work,
    forward_work,
    whole_decode,
    whole_forward,
)
from saccade.backends.layout import strides_like
from saccade.block_mask import BlockMask
from saccade.codegen.cpu.arguments import ArgumentLayout, State, Which
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.spec import KernelKind
from saccade.problem import AttentionProblem
from saccade.runtime.team import thread_count
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuKernel"]

_QUERY, _KEY, _VALUE, _OUT = map(ArgumentLayout.slot, ("query", "key", "value", "out"))
_LSE, _MAX_SCORES, _SINKS, _SEED = map(ArgumentLayout.slot, ("lse", "max_scores", "sinks", "seed"))
_PACKED_KEYS, _PACKED_VALUES = ArgumentLayout.slot("packed_keys"), ArgumentLayout.slot("packed_values")
_PARTIALS = ArgumentLayout.slot("partials")

_COPY = 8  # multiply-adds that moving an element takes as long as

_strides_like = lru_cache(maxsize=256)(strides_like)

_Captures: TypeAlias = Mapping[Which, tuple[Capture, ...]]


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
        self._precise = TORCH[problem.accumulates_in]
        self._width = problem.head_dim + problem.value_dim
        self._blocks = Blocks(problem)
        self._ready: dict[tuple[bool, ...], _Ready] = {}

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        results = self._results(operands.query)
        programs = programs_of(operands) if self._mods else {}
        captures = {which: tuple(map(Capture, each.captures)) for which, each in programs.items()}
        ready = self._made_ready(captures)
        block = ready.template[:]
        held = self._fill(block, operands, results)
        for which, each in captures.items():
            for capture, slots in zip(each, ready.loaded.source.layout.captures[which], strict=True):
                capture.fill(block, slots)
        state = self._run(ready.loaded, block, self._blocks.of(operands))
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

    def _made_ready(self, captures: _Captures) -> _Ready:
        """The kernel for captures of these strides."""
        dense = tuple(capture.is_dense for each in captures.values() for capture in each)
        ready = self._ready.get(dense)
        if ready is None:
            by_program = {which: tuple(one.is_dense for one in each) for which, each in captures.items()}
            loaded = load_kernel(specify(self._problem, self._choice, by_program))
            ready = _Ready(loaded, template(self._problem, self._mods, loaded.source.layout))
            self._ready[dense] = ready
        return ready

    def _fill(self, block: Block, operands: Operands, results: Results) -> list[Tensor]:
        """Write where the call's tensors are; returns those that the kernel reads."""
        key, value = readable(operands.key), readable(operands.value)
        held = [readable(operands.query), key, value]
        fill_tensor(block, _QUERY, held[0])
        fill_tensor(block, _KEY, key)
        fill_tensor(block, _VALUE, value)
        fill_tensor(block, _OUT, results.out)
        if self._problem.kv_batch == 1:
            block[_KEY + 1] = block[_VALUE + 1] = 0
        if results.lse is not None:
            block[_LSE] = results.lse.data_ptr()
        if results.max_scores is not None:
            block[_MAX_SCORES] = results.max_scores.data_ptr()
        if operands.sinks is not None:
            sinks = readable(operands.sinks.detach().to(self._precise)).contiguous()
            held.append(sinks)
            block[_SINKS] = sinks.data_ptr()
        if operands.dropout_seed is not None:
            block[_SEED] = int(operands.dropout_seed)
        return held

    def _run(self, loaded: LoadedKernel, block: Block, mask: BlockMask | None) -> list[int]:
        if self._choice.kind is KernelKind.DECODE:
            threads = thread_count()
            if mask is None:
                return self._decode(
                    loaded, block, whole_decode(self._extent, threads, self._blocks.everything)
                )
            return self._decode(loaded, block, decode_work(mask, self._extent, threads))
        sizes = (self._extent, self._choice.rows, loaded.source.panel_keys)
        if mask is None:
            return self._forward(loaded, block, whole_forward(*sizes, self._blocks.everything))
        return self._forward(loaded, block, forward_work(mask, *sizes))

    def _forward(self, loaded: LoadedKernel, block: Block, work: ForwardWork) -> list[int]:
        for slot, number in work.slots:
            block[slot] = number
        source, (pack, attend) = loaded.source, loaded.addresses
        panels = self._problem.kv_batch * self._problem.kv_heads * work.panels
        count, panel_work = len(work.pack_items), _COPY * source.panel_keys * self._width
        total = work.cost.item(-1) * self._choice.rows * self._width
        return launch(
            (Step(pack, count, count * panel_work), Step(attend, len(work.items), total, work.cost)),
            block,
            source.scratch_bytes,
            {
                _PACKED_KEYS: panels * source.key_panel_bytes,
                _PACKED_VALUES: panels * source.value_panel_bytes,
            },
        )

    def _decode(self, loaded: LoadedKernel, block: Block, work: DecodeWork) -> list[int]:
        for slot, number in work.slots:
            block[slot] = number
        source, (attend, merge) = loaded.source, loaded.addresses
        count, heads = len(work.items), len(work.item_offsets) - 1
        # Reading a key and value takes as long as some multiply-adds, however few the rows.
        total = work.cost.item(-1) * max(self._choice.rows, _COPY) * self._width
        return launch(
            (
                Step(attend, count, total, work.cost),
                Step(merge, heads, float(count * self._choice.rows * self._width)),
            ),
            block,
            source.scratch_bytes,
            {_PARTIALS: count * source.partial_bytes},
        )

    def _raise(self, state: list[int], operands: Operands, programs: Programs) -> NoReturn:
        k, lanes = state[State.ERROR_K], ISAS[self._choice.key.target].lanes(self._problem.accumulates_in)
        keys = range(k, min(k + lanes, self._problem.kv_len))
        which, b, h, q = Which(state[State.ERROR]), *state[State.ERROR_B : State.ERROR_K]
        raise_poison(self._problem, operands, programs, Place(which, b, h, q, keys))
