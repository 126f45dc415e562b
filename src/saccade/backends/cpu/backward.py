"""Gradients of a problem's attention by the CPU engine: what the forward gave, and its gradients, in.

The backward kernel recomputes the weights from lse, so a forward that will be differentiated must return it.
Gradients of captured tensors are not computed yet. Invariant: what the arguments point to is held until the
kernel has returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, fill_tensor, readable, template
from saccade.backends.cpu.backward_work import BackwardWork, backward_work, whole_backward
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.launch import Step, launch
from saccade.backends.cpu.operands import Blocks, programs_of
from saccade.backends.cpu.poison import Place, raise_poison
from saccade.backends.cpu.specialise import mods_of, specify_backward
from saccade.backends.cpu.work import Extent
from saccade.backends.layout import strides_like
from saccade.codegen.cpu.arguments import ArgumentLayout, State, Which
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.program.derivative import derivative
from saccade.codegen.cpu.spec import KernelSpec
from saccade.problem import AttentionProblem
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuBackward", "Gradients"]

_SLOT = ArgumentLayout.slot
_COPY = 8  # multiply-adds that moving an element takes as long as
_PRODUCTS = 5  # of a tile


@final
@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a call's operands, of their shapes and types; None for sinks that were not there."""

    query: Tensor
    key: Tensor
    value: Tensor
    sinks: Tensor | None = None


@final
@dataclass(frozen=True, eq=False)
class _Ready:
    """A loaded kernel, and its arguments as far as the problem fixes them."""

    spec: KernelSpec
    loaded: LoadedKernel
    template: Block


@final
class CpuBackward:
    """What differentiates the calls of one problem.

    Args:
        problem: What was asked; it has queries and keys.
        isa: The instruction set's name.
    """

    def __init__(self, problem: AttentionProblem, isa: str) -> None:
        assert problem.scores, "without a pair every gradient is known"
        self._problem, self._isa = problem, isa
        self._mods, self._blocks = mods_of(problem), Blocks(problem)
        self._extent = Extent(
            problem.batch, problem.kv_batch, problem.q_heads, problem.kv_heads, problem.q_len, problem.kv_len
        )
        self._precise = TORCH[problem.accumulates_in]
        self._ready: dict[tuple[bool, ...], _Ready] = {}

    def __call__(
        self, operands: Operands, results: Results, grad_out: Tensor, grad_lse: Tensor | None = None
    ) -> Gradients:
        """Compute gradients.

        Args:
            operands: Those of the forward.
            results: What it gave, lse among it.
            grad_out: Gradient of the output, [B, Hq, Q, Dv].
            grad_lse: Gradient of lse, [B, Hq, Q]; None where it is 0.
        """
        programs = programs_of(operands) if self._mods else {}
        captures = {which: tuple(map(Capture, each.captures)) for which, each in programs.items()}
        dense = {which: tuple(one.is_dense for one in each) for which, each in captures.items()}
        ready = self._made_ready(dense, grad_lse is not None)
        spec, loaded, block = ready.spec, ready.loaded, ready.template[:]
        for which, each in captures.items():
            for capture, slots in zip(each, loaded.source.layout.captures[which], strict=True):
                capture.fill(block, slots)
        gradients, held = self._fill(block, operands, results, grad_out, grad_lse)
        mask, sizes = self._blocks.of(operands), (self._extent, spec.keys, loaded.source.padding_rows)
        if mask is None:
            work = whole_backward(*sizes, self._blocks.everything)
        else:
            work = backward_work(mask, *sizes)
        state = self._run(loaded, spec, block, work)
        del held
        if state[State.ERROR]:
            k, lanes = state[State.ERROR_K], ISAS[self._isa].lanes(self._problem.accumulates_in)
            keys = range(k, min(k + lanes, self._problem.kv_len))
            which, b, h, q = Which(state[State.ERROR]), *state[State.ERROR_B : State.ERROR_K]
            score = programs.get(Which.SCORE)
            if score is not None:
                changed = replace(score, structure=derivative(score.structure))
                programs = {**programs, Which.SCORE_GRADIENT: changed}
            raise_poison(self._problem, operands, programs, Place(which, b, h, q, keys))
        return gradients

    def _made_ready(self, dense: Mapping[Which, tuple[bool, ...]], grad_lse: bool) -> _Ready:
        """The kernel for captures of these strides."""
        key = (grad_lse, *[flag for each in dense.values() for flag in each])
        ready = self._ready.get(key)
        if ready is None:
            spec = specify_backward(self._problem, self._isa, dense, grad_lse=grad_lse)
            loaded = load_kernel(spec)
            ready = _Ready(spec, loaded, template(self._problem, self._mods, loaded.source.layout))
            self._ready[key] = ready
        return ready

    def _fill(
        self, block: Block, operands: Operands, results: Results, grad_out: Tensor, grad_lse: Tensor | None
    ) -> tuple[Gradients, list[Tensor]]:
        """Write where tensors are; returns the gradients, not yet written, and what the kernel reads."""
        assert results.lse is not None, "weights are recomputed from lse"
        query, key, value = (readable(t.detach()) for t in (operands.query, operands.key, operands.value))
        given = {
            "query": query,
            "key": key,
            "value": value,
            "out": readable(results.out.detach()),
            "grad_out": readable(grad_out.detach()),
        }
        rows = {"lse": results.lse, "grad_lse": grad_lse, "sinks": operands.sinks}
        dense = {
            name: readable(tensor.detach().to(self._precise)).contiguous()
            for name, tensor in rows.items()
            if tensor is not None
        }
        gradients = Gradients(
            torch.empty_strided(query.shape, strides_like(query.shape, query.stride()), dtype=query.dtype),
            torch.empty(key.shape, dtype=key.dtype),
            torch.empty(value.shape, dtype=value.dtype),
            torch.empty_like(dense["sinks"]) if "sinks" in dense else None,
        )
        written = {"query": gradients.query, "key": gradients.key, "value": gradients.value}
        for name, tensor in (given | {f"grad_{name}": each for name, each in written.items()}).items():
            fill_tensor(block, _SLOT(name), tensor)
        for name, tensor in dense.items():
            block[_SLOT(name)] = tensor.data_ptr()
        if gradients.sinks is not None:
            block[_SLOT("grad_sinks")] = gradients.sinks.data_ptr()
        if operands.dropout_seed is not None:
            block[_SLOT("seed")] = int(operands.dropout_seed)
        return gradients, [*given.values(), *dense.values()]

    def _run(self, loaded: LoadedKernel, spec: KernelSpec, block: Block, work: BackwardWork) -> list[int]:
        problem, source = self._problem, loaded.source
        q_tiles = -(-problem.q_len // spec.rows)
        for slot, number in (*work.slots, (_SLOT("q_tiles"), q_tiles)):
            block[slot] = number
        heads, width = problem.batch * problem.q_heads, problem.head_dim + problem.value_dim
        rows, word = heads * (problem.q_len + problem.q_len % 2 + source.padding_rows), spec.precise.itemsize
        moved = float(_COPY * heads * problem.q_len * width)
        products = work.cost.item(-1) * spec.keys * width * _PRODUCTS / 2
        steps = {
            "pack": (heads * q_tiles, moved, None),
            "sinks": (problem.q_heads, float(heads * problem.q_len * _COPY), None),
            "attend": (len(work.items), products, work.cost),
            "merge": (heads * q_tiles, moved, None),
        }
        buffers = {
            "packed_queries": rows * source.query_row_bytes,
            "packed_grads": rows * source.grad_row_bytes,
            "query_words": rows * source.query_word_bytes,
            "grad_words": rows * source.grad_word_bytes,
            "row_lse": rows * word,
            "row_delta": rows * word,
            "partials": work.partial_rows * source.partial_bytes,
        }
        entries = zip(source.entries, loaded.addresses, strict=True)
        return launch(
            [Step(address, *steps[entry]) for entry, address in entries],
            block,
            source.scratch_bytes,
            {_SLOT(name): size for name, size in buffers.items()},
        )
