"""The operators `saccade::attention` and `saccade::attention_backward`.

They are nodes that torch's compilers see and never enter. Owns their registration: schemas, kernels, shapes
without data, and how the second differentiates the first. What their arguments mean is in `encoding`; who
computes is said by the last of them. Outputs have strides that follow from the query's alone, and one that is
not wanted is an empty tensor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.library import Library, register_fake

from saccade.backends.base import Operands, Results
from saccade.backends.differentiation import Tensors, recorded, recorded_gradients
from saccade.backends.layout import like_query
from saccade.backends.surroundings import carries_tangent
from saccade.block_mask.packed import PackedMask
from saccade.errors import UnsupportedError
from saccade.planner import plan
from saccade.problem import AttentionProblem, Wanted
from saccade.torch_ops.encoding import LSE, MAX_SCORES, FlatCall, decode, encode
from saccade.torch_ops.recomputing import Recomputing

__all__ = ["SCHEMAS", "attention"]

_CALL = (
    "Tensor q, Tensor k, Tensor v, Tensor[] captures, Tensor[] runs, SymInt[] ints, "
    "float[] floats, str score_program, str mask_program, Tensor? sinks, Tensor? dropout_seed, "
    "Tensor? page_table, float dropout_p, float scale, int outputs, str backend"
)
_BACKWARD = "Tensor out, Tensor lse, Tensor? grad_out, Tensor? grad_lse, bool[] needed"
SCHEMAS = (
    f"attention({_CALL}) -> (Tensor out, Tensor lse, Tensor max)",
    f"attention_backward({_CALL}, {_BACKWARD}) -> Tensor[]",
)
"""Flags say whose gradients are needed: of q, k, v, sinks, the seed (never) and of each capture; these are
returned, in this order."""

_OWN = 5  # arguments of the backward beside the call's
_Outputs = tuple[Tensor, Tensor, Tensor]

# Torch's compilers capture what is around a call in a graph, never the call: a replay would read nothing from
# the host again, neither the seed of dropout nor what a mod reads there, and tables of a block mask that is
# put together for each call would be freed by then. Other calls could be captured; but a tag is of all calls.
_UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)  # older torch has none

_library = Library("saccade", "DEF")  # type: ignore[no-untyped-call]
for _schema in SCHEMAS:
    _library.define(_schema, tags=() if _UNSAFE is None else (_UNSAFE,))  # type: ignore[no-untyped-call]

_NO_TANGENT = (
    "the operator saccade::attention has no forward-mode derivative, and a tangent travels with an input of "
    "it; call flex_attention outside torch.compile with backend='eager', which has"
)


def attention(
    problem: AttentionProblem, operands: Operands, block_mask: PackedMask | None, backend: str
) -> Results:
    """Call the operator.

    Args:
        problem: The facts.
        operands: The tensors and programs; its block mask is not looked at.
        block_mask: The block mask in pieces, or None.
        backend: The engine that shall compute it.

    Raises:
        UnsupportedError: A forward-mode derivative is needed, or the weights are wanted.
    """
    if problem.needs_tangent:
        raise UnsupportedError(_NO_TANGENT)
    flat = encode(problem, operands, block_mask, backend)
    wanted = problem.outputs
    if problem.needs_grad:
        # Not left to the dispatcher: what torch.func does to it must reach the function itself.
        results = recorded(_OperatorCall(flat), flat.tensors)
    else:
        results = Results(*torch.ops.saccade.attention.default(*flat))
    return Results(
        results.out,
        results.lse if wanted.lse else None,
        results.max_scores if wanted.max_scores else None,
    )


@final
class _OperatorCall:
    """A call of the operator that is differentiated by the other; see `Differentiable`.

    Args:
        flat: The call.
    """

    def __init__(self, flat: FlatCall) -> None:
        self._form = flat.with_tensors([None] * len(flat.tensors))._replace(outputs=flat.outputs | LSE)

    def attend(self, tensors: Tensors) -> Results:
        """Compute the call."""
        return Results(*torch.ops.saccade.attention.default(*self._form.with_tensors(tensors)))

    def differentiate(
        self,
        tensors: Tensors,
        results: Results,
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needed: tuple[bool, ...],
    ) -> list[Tensor]:
        """Compute gradients."""
        flat = self._form.with_tensors(tensors)
        gradients: list[Tensor] = torch.ops.saccade.attention_backward.default(
            *flat, results.out, results.lse, grad_out, grad_lse, list(needed)
        )
        return gradients


def _attend(*arguments: Any) -> _Outputs:
    call = FlatCall(*arguments)
    problem, operands = decode(call)
    results = plan(problem, call.backend).compile()(operands)
    return results.out, _or_empty(results.lse, operands), _or_empty(results.max_scores, operands)


def _or_empty(rows: Tensor | None, operands: Operands) -> Tensor:
    query = operands.query
    return query.new_empty(0, dtype=_row_dtype(query)) if rows is None else rows.contiguous()


def _row_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype is torch.float64 else torch.float32


def _attend_without_data(*arguments: Any) -> _Outputs:
    """Outputs of the right shapes, strides and dtypes."""
    call = FlatCall(*arguments)
    query, rows = call.query, call.query.shape[:3]
    out = like_query(query.new_empty((*rows, call.value.shape[3])), query)
    lse, max_scores = (
        query.new_empty(rows if call.outputs & bit else (0,), dtype=_row_dtype(query))
        for bit in (LSE, MAX_SCORES)
    )
    return out, lse, max_scores


def _attend_differentiably(*arguments: Any) -> _Outputs:
    """The call where autograd may record."""
    call = FlatCall(*arguments)
    tensors = call.tensors
    if carries_tangent(tensors):
        raise UnsupportedError(_NO_TANGENT)
    if _is_recorded(tensors):
        results = recorded(_OperatorCall(call), tensors)
        assert results.lse is not None, "the operator returns tensors"
        assert results.max_scores is not None, "the operator returns tensors"
        lse = results.lse if call.outputs & LSE else results.lse.new_empty(0)
        return results.out, lse, results.max_scores
    with torch._C._AutoDispatchBelowAutograd():
        outputs: _Outputs = torch.ops.saccade.attention.default(*arguments)
    return outputs


def _is_recorded(tensors: Tensors) -> bool:
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def _differentiate(*arguments: Any) -> list[Tensor]:
    call, (out, lse, grad_out, grad_lse, needed) = FlatCall(*arguments[:-_OWN]), arguments[-_OWN:]
    problem, operands = decode(call)
    wants_lse = replace(problem.outputs, lse=True)
    chosen = plan(replace(problem, needs_grad=True, outputs=wants_lse), call.backend)
    backward = chosen.compile_backward() or Recomputing(chosen.compile())
    query, key, value, sinks, _, *captures = needed
    read = call.score_captures
    wanted = Wanted(query, key, value, sinks, tuple(captures[:read]))
    found = backward(operands, Results(out, lse), grad_out, grad_lse, wanted)
    every = (found.query, found.key, found.value, found.sinks, *found.captures)
    gradients = [gradient for gradient in every if gradient is not None]
    # Through a bool flows no gradient.
    masks = zip(call.captures[read:], captures[read:], strict=True)
    return gradients + [torch.zeros_like(capture) for capture, asked in masks if asked]


def _differentiate_differentiably(*arguments: Any) -> list[Tensor]:
    """The gradients where autograd may record, and where none of their own can be had."""
    call, (out, lse, grad_out, grad_lse, needed) = FlatCall(*arguments[:-_OWN]), arguments[-_OWN:]
    tensors = (*call.tensors, out, lse, grad_out, grad_lse)
    if carries_tangent(tensors):
        raise UnsupportedError(_NO_TANGENT)
    if _is_recorded(tensors):
        return recorded_gradients(
            _OperatorCall(call), call.tensors, Results(out, lse), grad_out, grad_lse, tuple(needed)
        )
    with torch._C._AutoDispatchBelowAutograd():
        gradients: list[Tensor] = torch.ops.saccade.attention_backward.default(*arguments)
    return gradients


def _differentiate_without_data(*arguments: Any) -> list[Tensor]:
    """Gradients of the right shapes, strides and dtypes."""
    call, needed = FlatCall(*arguments[:-_OWN]), arguments[-1]
    gradients = []
    for place, (tensor, asked) in enumerate(zip(call.tensors, needed, strict=True)):
        if asked:
            assert tensor is not None, "only what is there is needed"
            made = tensor.new_empty(tensor.shape)
            gradients.append(like_query(made, tensor) if place == 0 else made)
    return gradients


_library.impl("attention", _attend, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attention", _attend_differentiably, "Autograd")  # type: ignore[no-untyped-call]
register_fake("saccade::attention", _attend_without_data, lib=_library)
_library.impl("attention_backward", _differentiate, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attention_backward", _differentiate_differentiably, "Autograd")  # type: ignore[no-untyped-call]
register_fake("saccade::attention_backward", _differentiate_without_data, lib=_library)
