"""Gradients of a problem's attention by the CPU engine: what the forward gave, and its gradients, in.

The backward kernel recomputes the weights from lse, so a forward that will be differentiated must return it.
Gradients of captured tensors are not computed yet. Invariant: what the arguments point to is held until the
kernel has returned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn, final

import torch
from torch import Tensor

from saccade.backends.base import Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, Corners, fill_rows, fill_tensor, template
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.operands import Blocks, Programs, programs_of
from saccade.backends.cpu.poison import Place, raise_poison
from saccade.backends.cpu.specialise import mods_of, specify_backward
from saccade.backends.cpu.walk import walk_of
from saccade.backends.cpu.work import Extent
from saccade.backends.layout import strides_like
from saccade.codegen.cpu.arguments import ArgumentLayout, State, Which
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.cpu.program.derivative import derivative
from saccade.problem import AttentionProblem
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuBackward", "Gradients"]

_SLOT = ArgumentLayout.slot


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
        self._extent, self._corners = Extent.of(problem), Corners.of(problem)
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
        captures = [Capture(each) for program in programs.values() for each in program.captures]
        ready = self._made_ready(tuple([capture.is_dense for capture in captures]), grad_lse is not None)
        walk = walk_of(ready.loaded, self._blocks.of(operands), self._extent, self._blocks.everything)
        block = ready.template[:]
        for slot, number in walk.work.slots:
            block[slot] = number
        gradients, held = self._fill(block, operands, results, grad_out, grad_lse)
        for capture, slots in zip(captures, ready.loaded.captures, strict=True):
            capture.fill(block, slots)
        state = walk.launch(block)
        del held
        if state[State.ERROR]:
            self._raise(state, operands, programs)
        return gradients

    def _made_ready(self, dense: tuple[bool, ...], grad_lse: bool) -> _Ready:
        """The kernel for captures of these strides."""
        key = (grad_lse, *dense)
        ready = self._ready.get(key)
        if ready is None:
            spec = specify_backward(self._problem, self._isa, self._mods, dense, grad_lse=grad_lse)
            loaded = load_kernel(spec)
            ready = _Ready(loaded, template(self._problem, self._mods, loaded.source.layout))
            self._ready[key] = ready
        return ready

    def _fill(
        self, block: Block, operands: Operands, results: Results, grad_out: Tensor, grad_lse: Tensor | None
    ) -> tuple[Gradients, list[Tensor]]:
        """Write where tensors are; returns the gradients, not yet written, and what the kernel reads."""
        assert results.lse is not None, "weights are recomputed from lse"
        query, key, value = operands.query, operands.key, operands.value
        sinks, corners = operands.sinks, self._corners
        gradients = Gradients(
            torch.empty_strided(query.shape, strides_like(query.shape, query.stride()), dtype=query.dtype),
            torch.empty(key.shape, dtype=key.dtype),
            torch.empty(value.shape, dtype=value.dtype),
            None if sinks is None else torch.empty(sinks.shape, dtype=self._precise),
        )
        fill_tensor(block, _SLOT("grad_query"), gradients.query, corners.query)
        fill_tensor(block, _SLOT("grad_key"), gradients.key, corners.key)
        fill_tensor(block, _SLOT("grad_value"), gradients.value, corners.value)
        held = [
            fill_tensor(block, _SLOT("query"), query, corners.query),
            fill_tensor(block, _SLOT("key"), key, corners.key),
            fill_tensor(block, _SLOT("value"), value, corners.value),
            fill_tensor(block, _SLOT("out"), results.out, corners.out),
            fill_tensor(block, _SLOT("grad_out"), grad_out, corners.out),
            fill_rows(block, _SLOT("lse"), results.lse, self._precise, "lse"),
        ]
        if grad_lse is not None:
            held.append(fill_rows(block, _SLOT("grad_lse"), grad_lse, self._precise, "the gradient of lse"))
        if sinks is not None:
            assert gradients.sinks is not None, "made above"
            held.append(fill_rows(block, _SLOT("sinks"), sinks, self._precise, "sinks"))
            block[_SLOT("grad_sinks")] = gradients.sinks.data_ptr()
        if operands.dropout_seed is not None:
            block[_SLOT("seed")] = int(operands.dropout_seed)
        return gradients, held

    def _raise(self, state: list[int], operands: Operands, programs: Programs) -> NoReturn:
        score = programs.get(Which.SCORE)
        if score is not None:
            changed = replace(score, structure=derivative(score.structure))
            programs = {**programs, Which.SCORE_GRADIENT: changed}
        lanes = ISAS[self._isa].lanes(self._problem.accumulates_in)
        raise_poison(self._problem, operands, programs, Place.noted(state, lanes, self._problem.kv_len))
