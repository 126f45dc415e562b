"""Gradients of kernels that compute outside torch's operations.

One autograd function stands around a call, another one around its backward, to say that this has no
derivative itself where someone asks for one; users meet their names as `grad_fn`. Neither holds a tensor of
a call but through `save_for_backward`, so hooks on saved tensors, checkpoints, torch's check for tensors
changed in place and the transforms of torch.func work as with torch's own functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, final

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, _SingleLevelFunction

from saccade.backends.base import BackwardKernel, Kernel, Operands, Results
from saccade.block_mask import BlockMask
from saccade.errors import UnsupportedError
from saccade.ir.program import Array, Program
from saccade.problem import Outputs, Wanted

__all__ = ["Differentiable", "DifferentiableKernel", "Tensors", "recorded", "recorded_gradients"]

_unwrap_if_dead = torch._C._functorch.unwrap_if_dead

Tensors: TypeAlias = Sequence[Tensor | None]


class Differentiable(Protocol):
    """A call but for its tensors: what computes it and its gradients."""

    def attend(self, tensors: Tensors) -> Results:
        """Compute the call for tensors, in the order of the call's own; lse is among the results."""
        ...

    def differentiate(
        self,
        tensors: Tensors,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needed: tuple[bool, ...],
    ) -> list[Tensor]:
        """Compute the gradients of the tensors that need one, in their order.

        Args:
            tensors: Those of the call.
            results: Its output and lse.
            grad_out: Gradient of the output; None where it is 0.
            grad_lse: Gradient of lse, likewise.
            needed: For each tensor, whether its gradient is wanted; for one at least it is.
        """
        ...


def recorded(call: Differentiable, tensors: Tensors) -> Results:
    """Compute a call so that autograd knows its backward.

    Args:
        call: The call.
        tensors: Its tensors.
    """
    return Results(*_applied(FusedAttention, call, *tensors))


def recorded_gradients(
    call: Differentiable,
    tensors: Tensors,
    results: Results,
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    needed: tuple[bool, ...],
) -> list[Tensor]:
    """Compute gradients so that autograd knows that they have none of their own; see `Differentiable`."""
    found = _applied(
        FusedAttentionGradient,
        _Asked(call, needed),
        *(grad_out, grad_lse),
        *tensors,
        *(results.out, results.lse),
    )
    return list(found)


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """What `function.apply` returns, without its reading of a signature, which takes longer than all else."""
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_dynamo_compiling():
        return function.apply(*arguments)  # type: ignore[no-untyped-call]
    alive = [_unwrap_if_dead(one) if isinstance(one, Tensor) else one for one in arguments]
    return super(_SingleLevelFunction, function).apply(*alive)  # type: ignore[misc]


def _are_many(grad: Tensor | None) -> bool:
    """Tell whether a gradient stands for a batch of them, as `is_grads_batched=True` makes it."""
    return grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad)


def _of_many(function: type[torch.autograd.Function], *arguments: Any) -> list[Tensor]:
    """Apply a function once for each of a batch of gradients: no transform hands them over one by one."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    apart = [
        torch._remove_batch_dim(one, level, 1, 0).unbind()
        if isinstance(one, Tensor) and _are_many(one)
        else None
        for one in arguments
    ]
    count = next(len(many) for many in apart if many is not None)
    each = [
        _applied(
            function,
            *[one if many is None else many[number] for one, many in zip(arguments, apart, strict=True)],
        )
        for number in range(count)
    ]
    stacked = [torch.stack(gradients) for gradients in zip(*each, strict=True)]
    return [torch._add_batch_dim(gradients, 0, level) for gradients in stacked]


class FusedAttention(torch.autograd.Function):
    """A call."""

    @staticmethod
    def forward(call: Differentiable, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        results = call.attend(tensors)
        return results.out, results.lse, results.max_scores

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.call, *tensors = inputs
        out, lse, max_scores = output
        ctx.set_materialize_grads(False)
        if max_scores is not None:
            ctx.mark_non_differentiable(max_scores)
        ctx.save_for_backward(*tensors, out, lse)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None, _: None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[1:]
        if grad_out is None and grad_lse is None:
            return (None,) * (1 + len(needed))
        differentiate = _of_many if _are_many(grad_out) or _are_many(grad_lse) else _applied
        found = iter(
            differentiate(
                FusedAttentionGradient, _Asked(ctx.call, needed), grad_out, grad_lse, *ctx.saved_tensors
            )
        )
        return None, *[next(found) if wanted else None for wanted in needed]


@final
@dataclass(frozen=True)
class _Asked:
    """A call, and whose gradients are needed: one object, which no transform looks into."""

    call: Differentiable
    needed: tuple[bool, ...]


class FusedAttentionGradient(torch.autograd.Function):
    """The backward of a call; its arguments end with the call's tensors, output and lse."""

    @staticmethod
    def forward(
        asked: _Asked, grad_out: Tensor | None, grad_lse: Tensor | None, *saved: Tensor | None
    ) -> tuple[Tensor, ...]:
        *tensors, out, lse = saved
        assert out is not None, "a call has an output"
        results = Results(out, lse)
        return tuple(asked.call.differentiate(tensors, results, grad_out, grad_lse, asked.needed))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Differentiate once for each of many gradients, as for a Jacobian."""

        def chosen(number: int) -> list[Any]:
            return [
                one if dim is None else one.select(dim, number)
                for one, dim in zip(inputs, in_dims, strict=True)
            ]

        each = [_applied(FusedAttentionGradient, *chosen(number)) for number in range(info.batch_size)]
        stacked = tuple([torch.stack(gradients) for gradients in zip(*each, strict=True)])
        return stacked, (0,) * len(stacked)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor | None) -> None:
        raise UnsupportedError(
            "the gradient of fused attention has no gradient of its own, and one was asked for (by "
            "create_graph=True, a gradient penalty, or a Hessian); call flex_attention with "
            "backend='eager', whose operations are torch's and differentiate to any order"
        )


@final
@dataclass(frozen=True)
class DifferentiableKernel:
    """A kernel whose results carry gradients, made of one whose results do not, and what differentiates it.

    Attributes:
        kernel: What attends; it returns lse.
        backward: What differentiates its calls.
        outputs: What is wanted beside the output.
    """

    kernel: Kernel
    backward: BackwardKernel
    outputs: Outputs

    def __call__(self, operands: Operands) -> Results:
        """Compute attention; see `Backend` for the equations."""
        score, mask = _Apart.of(operands.score), _Apart.of(operands.mask)
        results = recorded(
            _Call(self, score, mask, operands.block_mask),
            (
                *(operands.query, operands.key, operands.value, operands.sinks, operands.dropout_seed),
                *_tensors_of(operands.score),
                *_tensors_of(operands.mask),
            ),
        )
        return results if self.outputs.lse else Results(results.out, None, results.max_scores)


@final
@dataclass(frozen=True)
class _Apart:
    """A program without its tensors.

    Attributes:
        program: The program, without captures.
        others: Captures that are no tensors, by slot; None where a tensor stood.
    """

    program: Program | None
    others: tuple[Array | None, ...] = ()

    @classmethod
    def of(cls, program: Program | None) -> _Apart:
        """Take a program apart."""
        if program is None:
            return _NONE
        others = tuple([None if isinstance(one, Tensor) else one for one in program.captures])
        return cls(Program(program.structure, (), program.numbers, program.names), others)

    def put_together(self, tensors: Iterator[Tensor | None]) -> Program | None:
        """Return the program with the next tensors."""
        if self.program is None:
            return None
        captures = [next(tensors) if other is None else other for other in self.others]
        return replace(self.program, captures=tuple([each for each in captures if each is not None]))

    def by_slot(self, flags: Iterator[bool]) -> tuple[bool, ...]:
        """Return what the next flags say of each capture; False of one that is no tensor."""
        return tuple([next(flags) if other is None else False for other in self.others])


_NONE = _Apart(None)


def _tensors_of(program: Program | None) -> list[Tensor]:
    """A program's tensors, in the order of their slots."""
    return [] if program is None else [one for one in program.captures if isinstance(one, Tensor)]


@final
@dataclass(eq=False, slots=True)
class _Call:
    """A call of a `DifferentiableKernel`."""

    of: DifferentiableKernel
    score: _Apart
    mask: _Apart
    block_mask: BlockMask | None

    def attend(self, tensors: Tensors) -> Results:
        """Compute the call; see `Differentiable`."""
        return self.of.kernel(self._operands(tensors))

    def differentiate(
        self,
        tensors: Tensors,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needed: tuple[bool, ...],
    ) -> list[Tensor]:
        """Compute gradients; see `Differentiable`."""
        if self.block_mask is not None:
            self.block_mask.check_fresh()
        query, key, value, sinks, _ = needed[:5]
        wanted = Wanted(query, key, value, sinks, self.score.by_slot(iter(needed[5:])))
        found = self.of.backward(self._operands(tensors), results, grad_out, grad_lse, wanted)
        every = (found.query, found.key, found.value, found.sinks, *found.captures)
        return [gradient for gradient in every if gradient is not None]

    def _operands(self, tensors: Tensors) -> Operands:
        query, key, value, sinks, seed, *captures = tensors
        assert query is not None
        assert key is not None
        assert value is not None
        rest = iter(captures)
        score = self.score.put_together(rest)
        mask = self.mask.put_together(rest)
        return Operands(
            query,
            key,
            value,
            score=score,
            block_mask=self.block_mask,
            mask=mask,
            sinks=sinks,
            dropout_seed=seed,
        )
