"""Gradients of a problem's attention by the CPU engine: what the forward gave, and its gradients, in.

The backward kernel recomputes the weights from lse, so a forward that will be differentiated must return it.
Invariant: what the arguments point to is held until the kernel has returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, final

import torch
from torch import Tensor

from saccade.backends.base import Gradients, Operands, Results
from saccade.backends.cpu.arguments import Block, Capture, Corners, fill_rows, fill_tensor, template
from saccade.backends.cpu.capture_gradients import CapturePlan, capture_plan
from saccade.backends.cpu.kernels import LoadedKernel, load_kernel
from saccade.backends.cpu.noted_place import noted_place
from saccade.backends.cpu.operands import Blocks
from saccade.backends.cpu.specialise import specify_backward
from saccade.backends.cpu.walk import walk_of
from saccade.backends.cpu.work import Extent
from saccade.backends.layout import strides_like
from saccade.backends.mods import Programs, mods_of, programs_of
from saccade.backends.poison import raise_poison
from saccade.codegen.cpu.arguments import ArgumentLayout, State
from saccade.codegen.cpu.isa import ISAS
from saccade.codegen.program.contributions import summed_derivative
from saccade.codegen.program.which import Which
from saccade.problem import AttentionProblem, Wanted
from saccade.tracing.dtypes import TORCH

__all__ = ["CpuBackward"]

_CPU = torch.device("cpu")  # said, because a default device may be set
_SLOT = ArgumentLayout.slot


@final
@dataclass(frozen=True, eq=False)
class _Ready:
    """A loaded kernel, its arguments as far as the problem fixes them, and where captures' gradients go."""

    loaded: LoadedKernel
    template: Block
    captures: CapturePlan


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
        self._ready: dict[tuple[tuple[bool, ...], Wanted, bool], _Ready] = {}

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
        if grad_out is None:
            grad_out = results.out.new_zeros(()).expand(results.out.shape)
        programs = programs_of(operands) if self._mods else {}
        captures = [Capture(each) for program in programs.values() for each in program.captures]
        dense = tuple([capture.is_dense for capture in captures])
        ready = self._made_ready(dense, wanted, grad_lse=grad_lse is not None)
        blocks = self._blocks
        walk = walk_of(ready.loaded, blocks.of(operands), self._extent, blocks.everything, ready.captures)
        block = ready.template[:]
        for slot, number in walk.work.slots:
            block[slot] = number
        if not ready.loaded.spec.key.outputs.lse:
            grad_lse = None
        held = self._fill(block, operands, results, grad_out, grad_lse)
        gradients = self._gradients(block, operands, wanted)
        for capture, slots in zip(captures, ready.loaded.captures, strict=True):
            capture.fill(block, slots)
        sum_slots = ready.loaded.source.layout.sums
        sums = [each.fill(block, sum_slots[each.slot]) for each in ready.captures.sums]
        state = walk.launch(block)
        del held
        if state[State.ERROR]:
            self._raise(state, operands, programs, wanted)
        if sums:
            gradients = replace(gradients, captures=_of_captures(operands, ready.captures, sums))
        if operands.sinks is None or gradients.sinks is None:
            return gradients
        return replace(gradients, sinks=gradients.sinks.to(operands.sinks.dtype))

    def _made_ready(self, dense: tuple[bool, ...], wanted: Wanted, *, grad_lse: bool) -> _Ready:
        """The kernel of some gradients, for captures of these strides."""
        key = (dense, wanted, grad_lse)
        ready = self._ready.get(key)
        if ready is None:
            spec = specify_backward(
                self._problem, self._isa, self._mods, dense, grad_lse=grad_lse, wanted=wanted
            )
            loaded = load_kernel(spec)
            captures = capture_plan(self._problem, wanted, loaded.source.sum_types)
            ready = _Ready(loaded, template(self._problem, self._mods, loaded.source.layout), captures)
            self._ready[key] = ready
        return ready

    def _fill(
        self, block: Block, operands: Operands, results: Results, grad_out: Tensor, grad_lse: Tensor | None
    ) -> list[Tensor]:
        """Write where tensors are that the kernel reads; returns them."""
        assert results.lse is not None, "weights are recomputed from lse"
        query, key, value = operands.query, operands.key, operands.value
        sinks, corners = operands.sinks, self._corners
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
            held.append(fill_rows(block, _SLOT("sinks"), sinks, self._precise, "sinks"))
        if operands.dropout_seed is not None:
            block[_SLOT("seed")] = int(operands.dropout_seed)
        return held

    def _gradients(self, block: Block, operands: Operands, wanted: Wanted) -> Gradients:
        """The gradients that are wanted, not yet written; writes where they are."""
        corners, query, key, value, sinks = self._corners, None, None, None, None
        if wanted.query:
            shape, strides = operands.query.shape, operands.query.stride()
            query = torch.empty_strided(
                shape, strides_like(shape, strides), dtype=operands.query.dtype, device=_CPU
            )
            fill_tensor(block, _SLOT("grad_query"), query, corners.query)
        if wanted.key:
            key = torch.empty(operands.key.shape, dtype=operands.key.dtype, device=_CPU)
            fill_tensor(block, _SLOT("grad_key"), key, corners.key)
        if wanted.value:
            value = torch.empty(operands.value.shape, dtype=operands.value.dtype, device=_CPU)
            fill_tensor(block, _SLOT("grad_value"), value, corners.value)
        if wanted.sinks:
            assert operands.sinks is not None, "only what is there is wanted"
            sinks = torch.empty(operands.sinks.shape, dtype=self._precise, device=_CPU)
            block[_SLOT("grad_sinks")] = sinks.data_ptr()
        return Gradients(query, key, value, sinks)

    def _raise(self, state: list[int], operands: Operands, programs: Programs, wanted: Wanted) -> NoReturn:
        score = programs.get(Which.SCORE)
        if score is not None:
            changed = replace(score, structure=summed_derivative(score.structure, wanted.captures))
            programs = {**programs, Which.SCORE_GRADIENT: changed}
        lanes = ISAS[self._isa].lanes(self._problem.accumulates_in)
        raise_poison(self._problem, operands, programs, noted_place(state, lanes, self._problem.kv_len))


def _of_captures(operands: Operands, plan: CapturePlan, sums: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of the score program's captures, by slot."""
    assert operands.score is not None, "its captures want gradients"
    found: list[Tensor | None] = [None] * len(operands.score.captures)
    for each, held in zip(plan.sums, sums, strict=True):
        capture = operands.score.captures[each.slot]
        assert isinstance(capture, Tensor), "numpy arrays want no gradient"
        found[each.slot] = each.gradient(held, capture.dtype)
    return tuple(found)
