"""The operator `saccade::attention`: attention as one node that torch's compilers see and never enter.

Owns its registration: schema, kernel, shapes without data, and the refusal of derivatives, which it does
not have yet. What its arguments mean is in `encoding`; who computes is said by the last of them. Outputs have
strides that follow from the query's alone, and one that is not wanted is an empty tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake

from saccade.backends.base import Operands, Results
from saccade.backends.layout import like_query
from saccade.backends.surroundings import carries_tangent
from saccade.block_mask.packed import PackedMask
from saccade.errors import UnsupportedError
from saccade.planner import plan
from saccade.problem import AttentionProblem
from saccade.torch_ops.encoding import LSE, MAX_SCORES, FlatCall, decode, encode

__all__ = ["SCHEMA", "attention"]

SCHEMA = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] captures, Tensor[] runs, SymInt[] ints, "
    "float[] floats, str score_program, str mask_program, Tensor? sinks, Tensor? dropout_seed, "
    "Tensor? page_table, float dropout_p, float scale, int outputs, str backend) "
    "-> (Tensor out, Tensor lse, Tensor max)"
)

_Outputs = tuple[Tensor, Tensor, Tensor]

_library = Library("saccade", "DEF")  # type: ignore[no-untyped-call]
_library.define(SCHEMA)  # type: ignore[no-untyped-call]


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
        UnsupportedError: A derivative is needed, or the weights are wanted.
    """
    if problem.needs_tangent:
        raise UnsupportedError(_NO_TANGENT)
    if problem.needs_grad:
        raise UnsupportedError(_NO_GRADIENT)
    flat = encode(problem, operands, block_mask, backend)
    out, lse, max_scores = torch.ops.saccade.attention.default(*flat)
    wanted = problem.outputs
    return Results(out, lse if wanted.lse else None, max_scores if wanted.max_scores else None)


_NO_GRADIENT = (
    "the operator saccade::attention has no gradient yet, and an input of it requires one; compute under "
    "torch.no_grad(), or call flex_attention outside torch.compile with backend='eager'"
)
_NO_TANGENT = (
    "the operator saccade::attention has no forward-mode derivative, and a tangent travels with an input of "
    "it; call flex_attention outside torch.compile with backend='eager', which has"
)


def _kernel(*arguments: Any) -> _Outputs:
    call = FlatCall(*arguments)
    problem, operands = decode(call)
    results = plan(problem, call.backend).compile()(operands)
    return results.out, _or_empty(results.lse, operands), _or_empty(results.max_scores, operands)


def _or_empty(rows: Tensor | None, operands: Operands) -> Tensor:
    query = operands.query
    return query.new_empty(0, dtype=_row_dtype(query)) if rows is None else rows.contiguous()


def _row_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype is torch.float64 else torch.float32


def _shapes(*arguments: Any) -> _Outputs:
    """Outputs of the right shapes, strides and dtypes, for tensors without data."""
    call = FlatCall(*arguments)
    query, rows = call.query, call.query.shape[:3]
    out = like_query(query.new_empty((*rows, call.value.shape[3])), query)
    lse, max_scores = (
        query.new_empty(rows if call.outputs & bit else (0,), dtype=_row_dtype(query))
        for bit in (LSE, MAX_SCORES)
    )
    return out, lse, max_scores


def _refuse_derivative(*arguments: Any) -> _Outputs:
    """Stand where the derivative will be: nothing is detached in silence."""
    tensors = FlatCall(*arguments).differentiable
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise UnsupportedError(_NO_GRADIENT)
    if carries_tangent(tensors):
        raise UnsupportedError(_NO_TANGENT)
    with torch._C._AutoDispatchBelowAutograd():
        outputs: _Outputs = torch.ops.saccade.attention.default(*arguments)
    return outputs


_library.impl("attention", _kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attention", _refuse_derivative, "Autograd")  # type: ignore[no-untyped-call]
register_fake("saccade::attention", _shapes, lib=_library)
