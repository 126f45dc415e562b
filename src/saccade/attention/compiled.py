"""A call inside a function that `torch.compile` compiles.

Dynamo, its first half, follows Python line by line and holds tensors, numbers and text. It is spared the way
from mods to a plan: under it the arguments are taken to such pieces, and one function of them, which Dynamo
enters into its graph as it is, puts them together and makes the ordinary call. When that graph is compiled
further, the tensors there have no data, and the call becomes the operator.

So a captured tensor is an input of the graph, whatever it belongs to, and a changed one is seen; so is a
number, or the graph is made anew for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention.aux import AuxRequest, wanted_outputs
from saccade.attention.compute import compute, planned
from saccade.attention.request import Arguments, no_mask, read_request
from saccade.backends.base import Results
from saccade.block_mask import BlockMask
from saccade.block_mask.packed import PackedMask
from saccade.errors import UnsupportedError
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.torch_ops.routing import has_data
from saccade.torch_ops.unpacking import unpacked
from saccade.tracing import trace
from saccade.tracing.recording import Record, Replayed, recorded

__all__ = ["compute_compiled"]

_INDICES = (torch.int64,) * 4


def compute_compiled(given: Arguments) -> Results:
    """Compute a call under Dynamo, which follows this function.

    Args:
        given: The arguments, as they were given.
    """
    wanted = wanted_outputs(given.return_lse, given.return_aux)
    query = given.query
    score = None
    if given.score_mod is not None:
        score_dtype = torch.float64 if query.dtype is torch.float64 else torch.float32
        score = recorded(given.score_mod, (score_dtype, *_INDICES), query.device)
    mask = None
    if given.mask_mod is not None:
        mask = recorded(given.mask_mod, _INDICES, query.device)
    _admit()
    results = list(
        _call(
            (query, given.key, given.value, given.sinks),
            score,
            mask,
            _pieces(given.block_mask),
            (wanted.lse, wanted.max_scores, wanted.weights),
            (given.scale, given.enable_gqa, given.kernel_options, given.dropout_p, given.backend),
        )
    )
    return Results(
        results.pop(0),
        results.pop(0) if wanted.lse else None,
        results.pop(0) if wanted.max_scores else None,
        results.pop(0) if wanted.weights else None,
    )


def _pieces(mask: object) -> tuple[Any, ...] | None:
    """A block mask as the arguments of `PackedMask`."""
    if mask is None:
        return None
    if isinstance(mask, TorchBlockMask):
        raise UnsupportedError(
            "under torch.compile, block_mask must be one of Saccade's, got torch's own; convert it before, "
            "outside the compiled part, with saccade.BlockMask.from_torch(block_mask)"
        )
    if not isinstance(mask, BlockMask):
        raise no_mask(mask)
    return tuple(mask.packed)


def _call(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor | None],
    score: Record | None,
    mask: Record | None,
    block_mask: tuple[Any, ...] | None,
    wanted: tuple[bool, bool, bool],
    options: tuple[float | None, bool, object, float, str],
) -> tuple[Tensor, ...]:
    """Make the call: what Dynamo's graph holds in place of all that follows."""
    query, key, value, sinks = tensors
    scale, enable_gqa, kernel_options, dropout_p, backend = options
    pieces = None if block_mask is None else PackedMask(*block_mask)
    score_dtype = DType.FLOAT64 if query.dtype is torch.float64 else DType.FLOAT32
    request = read_request(
        Arguments(
            query,
            key,
            value,
            score_mod=_program(score, ModKind.SCORE, score_dtype, query),
            block_mask=unpacked(pieces) if pieces is not None and has_data(pieces.runs[0]) else pieces,
            # Symbols for what is no length are settled here: the graph is made anew where they change.
            scale=None if scale is None else float(scale),
            enable_gqa=enable_gqa,
            kernel_options=kernel_options,
            return_aux=AuxRequest(*wanted),
            mask_mod=_program(mask, ModKind.MASK, score_dtype, query),
            sinks=sinks,
            dropout_p=float(dropout_p),
            backend=backend,
        )
    )
    results = compute(request, planned(request))
    found = (results.out, results.lse, results.max_scores, results.weights)
    return tuple([result for result in found if result is not None])


def _program(record: Record | None, kind: ModKind, score_dtype: DType, query: Tensor) -> Program | None:
    """What a record says."""
    if record is None:
        return None
    program = trace(Replayed(record), kind, score_dtype=score_dtype, device=query.device)
    # All that a record names is an input of the graph, without data like the query.
    if not has_data(query) and any(has_data(capture) for capture in program.captures):  # type: ignore[arg-type]
        raise UnsupportedError(
            "under torch.compile, a custom autograd Function in a mod reads a tensor that it was not given; "
            "index the tensor in the mod and pass the element to apply(), or trace the mod before, outside "
            f"the compiled part: {kind.value}_mod=saccade.trace(mod)"
        )
    return program


def _admit() -> None:
    """Let Dynamo enter `_call` into its graphs."""
    torch.compiler.allow_in_graph(_call)  # type: ignore[no-untyped-call]


# Dynamo calls it, instead of following it, and only then: by now it is loaded. The mark is what
# `torch.compiler.assume_constant_result` sets, which would load it.
_admit._dynamo_marked_constant = True  # type: ignore[attr-defined]
