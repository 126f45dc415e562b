"""Nested tensors: sequences of unequal lengths, as one call over their packed values.

Owns which nested tensors are taken, the call of dense tensors that says the same, and the way back. A jagged
tensor `[B, H, j, D]` holds its values as `[H, total, D]`: a dense call of batch 1, in which a mask keeps
sequences apart and mods are asked about places within one. Nothing is copied. Where the masks come from is
`sequences`' business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention.aux import wanted_outputs
from saccade.attention.compute import compute, planned
from saccade.attention.request import Arguments, no_mask, read_mask, read_request, read_score
from saccade.attention.sequences import Ragged, Sequences, sequences_of
from saccade.backends.base import Results
from saccade.block_mask import BlockMask
from saccade.block_mask.uncompiled import uncompiled
from saccade.errors import ArgumentTypeError, ShapeError, UnsupportedError
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.masks import jagged, noop_mask
from saccade.scores import Score
from saccade.signatures import ScoreMod
from saccade.tracing import trace

__all__ = [
    "NestedCall",
    "NestedForm",
    "PerSequence",
    "compute_nested",
    "is_nested",
    "outside_graphs",
    "packed_call",
    "ragged_of",
    "require_jagged",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_DIMS, _RAGGED = 4, 2  # [B, H, j, D], and its ragged dimension

_SHOWN = 8  # offsets that a message shows


def is_nested(*tensors: object) -> bool:
    """Whether one of the arguments is a nested tensor, of any layout."""
    return any(getattr(tensor, "is_nested", False) for tensor in tensors)


def outside_graphs(function: _Function) -> _Function:
    """Mark a function of nested tensors so that `torch.compile` leaves it to Python, and says why."""
    marked: Any = uncompiled(function)
    marked._torchdynamo_disable_msg = (
        "attention over nested tensors is planned from the numbers in their offsets, which a graph does not "
        "know; compile without fullgraph=True, or pass packed values with a mask of "
        "saccade.jagged.block_mask_of"
    )
    return function


@final
@dataclass(frozen=True, eq=False, repr=False)
class PerSequence(Score):
    """A score_mod of one sequence, as one of packed positions.

    Attributes:
        score_mod: A function of `(score, b, h, q_idx, kv_idx)`, b the number of a sequence and positions
            within it.
        within: A mask of the sequences.
    """

    score_mod: ScoreMod
    within: jagged

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        """Return the score that takes the place of `score`; positions are packed."""
        at = self.within.places(q_idx, kv_idx)
        return self.score_mod(score, at.sequence, h, at.q_idx, at.kv_idx)


@final
@dataclass(frozen=True, eq=False)
class NestedForm:
    """The query's cut, which the results take."""

    offsets: Tensor
    lengths: Tensor | None
    min_seqlen: int | None
    max_seqlen: int | None

    def nested(self, packed: Tensor) -> Tensor:
        """Results `[1, Hq, total, ...]` as nested `[B, Hq, j, ...]`."""
        return torch.nested.nested_tensor_from_jagged(
            packed.squeeze(0),
            self.offsets,
            self.lengths,
            jagged_dim=_RAGGED,
            min_seqlen=self.min_seqlen,
            max_seqlen=self.max_seqlen,
        )


class NestedCall(NamedTuple):
    """A call of nested tensors, as one of packed values.

    Attributes:
        packed: The arguments of the dense call.
        form: What makes its results nested again.
    """

    packed: Arguments
    form: NestedForm


def packed_call(given: Arguments) -> NestedCall:
    """Tell a call of nested tensors as one of their packed values.

    Raises:
        ArgumentTypeError: Some of query, key and value are nested, and some are not.
        UnsupportedError: They are nested with another layout than jagged; attention weights are asked for.
        ShapeError: They are not `[B, H, j, D]`, or do not hold the same sequences.
        ArgumentError: A block mask lets two sequences see each other.
    """
    query, key, value = given.query, given.key, given.value
    distinct = {
        id(tensor): (name, tensor) for name, tensor in (("value", value), ("key", key), ("query", query))
    }
    for name, tensor in reversed(distinct.values()):
        if not isinstance(tensor, Tensor):
            raise ArgumentTypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
        require_jagged(name, tensor)
        _require_form(name, tensor)
    if wanted_outputs(given.return_lse, given.return_aux).weights:
        raise UnsupportedError(
            "attention weights of nested tensors differ in two lengths from sequence to sequence, which the "
            "jagged layout cannot hold; call flex_attention for each sequence of query.unbind() instead"
        )
    queries, keys = ragged_of(query), ragged_of(key)
    _require_same_sequences(queries, keys, ragged_of(value))
    sequences = sequences_of(queries, keys)
    # Torch takes long to hand out values: those of one tensor are asked for once.
    values = {place: _values(tensor) for place, (_, tensor) in distinct.items()}
    packed = given._replace(
        query=values[id(query)],
        key=values[id(key)],
        value=values[id(value)],
        score_mod=_score_mod(given.score_mod, sequences, values[id(query)]),
        **_masks(given, sequences, values[id(query)]),
    )
    of: Any = query
    form = NestedForm(queries.offsets, queries.lengths, of._maybe_min_seqlen, of._maybe_max_seqlen)
    return NestedCall(packed, form)


@outside_graphs
def compute_nested(given: Arguments) -> Results:
    """Compute a call of nested tensors; its results are nested too.

    Raises:
        SaccadeError: Something given cannot be used; see `packed_call` and `flex_attention`.
    """
    call = packed_call(given)
    request = read_request(call.packed)
    found = compute(request, planned(request))
    lse, max_scores = found.lse, found.max_scores
    return Results(
        call.form.nested(found.out),
        None if lse is None else call.form.nested(lse),
        None if max_scores is None else call.form.nested(max_scores),
    )


def ragged_of(nested: Tensor) -> Ragged:
    """How a tensor of layout jagged cuts its values."""
    of: Any = nested
    return Ragged(of.offsets(), of.lengths(), of._values.shape[of._ragged_idx - 1])


def require_jagged(name: str, tensor: Tensor) -> None:
    """Check that a tensor is nested, of layout jagged.

    Raises:
        ArgumentTypeError: It is not nested.
        UnsupportedError: It is of another layout.
    """
    if hasattr(tensor, "_ragged_idx"):
        return  # to ask a nested tensor for its layout takes torch longer
    if not tensor.is_nested:
        raise ArgumentTypeError(
            f"{name} must be a nested tensor as the others are, got a dense one of shape "
            f"{list(tensor.shape)}; make it one with saccade.jagged.to_nested, or take all of them dense"
        )
    if tensor.layout is not torch.jagged:
        raise UnsupportedError(
            f"a nested tensor must have the layout torch.jagged, got {name}.layout={tensor.layout}; make it "
            "with torch.nested.nested_tensor(..., layout=torch.jagged)"
        )


def _require_form(name: str, tensor: Tensor) -> None:
    """Check that a jagged tensor is `[B, H, j, D]`."""
    ragged = tensor._ragged_idx  # type: ignore[attr-defined]
    if tensor.dim() == _DIMS and ragged == _RAGGED:
        return
    shape = tensor.shape
    remedy = "give it the missing dimensions before it is made nested"
    if tensor.dim() == _DIMS:
        remedy = f"for [batch, length, heads, head_dim] pass {name}.transpose(1, 2)"
    raise ShapeError(
        f"{name} must be nested as [batch, heads, length, head_dim], ragged in dimension 2, got "
        f"shape=[{', '.join(map(str, shape))}], ragged in dimension {ragged}; {remedy}"
    )


def _require_same_sequences(queries: Ragged, keys: Ragged, values: Ragged) -> None:
    if queries.offsets.shape != keys.offsets.shape:
        raise ShapeError(
            "query and key must hold the same number of sequences, got "
            f"{queries.offsets.numel() - 1} and {keys.offsets.numel() - 1}; "
            "a sequence without tokens counts too"
        )
    same = keys.total == values.total and all(
        one is other or (one is not None and other is not None and one.equal(other))
        for one, other in ((keys.offsets, values.offsets), (keys.lengths, values.lengths))
    )
    if not same:
        raise ShapeError(
            "key and value must hold sequences of the same lengths at the same places, got "
            f"key.offsets()={_shown(keys.offsets)} and value.offsets()={_shown(values.offsets)}; make both "
            "nested with the same offsets"
        )


def _shown(offsets: Tensor) -> str:
    numbers = offsets[:_SHOWN].tolist()
    return f"[{', '.join(map(str, numbers))}{', ...' if offsets.numel() > _SHOWN else ''}]"


def _values(nested: Tensor) -> Tensor:
    """The packed values `[1, H, total, D]`."""
    return nested.values().unsqueeze(0)


def _score_mod(given: ScoreMod | None, sequences: Sequences, packed: Tensor) -> ScoreMod | Program | None:
    """A score_mod of one sequence as one of packed positions."""
    program = read_score(given, packed)
    if given is None or program is None:
        return None
    if not any(map(program.reads, ("b", "q_idx", "kv_idx"))):
        return given
    mod = PerSequence(given, sequences.within)
    return (
        trace(mod, ModKind.SCORE, score_dtype=program.structure.root.dtype)
        if isinstance(given, Program)
        else mod
    )


def _masks(given: Arguments, sequences: Sequences, packed: Tensor) -> dict[str, Any]:
    """The arguments `block_mask` and `mask_mod` of the packed call."""
    program = read_mask(given.mask_mod, packed)
    mod = noop_mask if given.mask_mod is None or program is None else given.mask_mod
    block_mask = given.block_mask
    if block_mask is None:
        program = trace(noop_mask) if program is None else program
        return {"block_mask": sequences.block_mask(mod, program, packed.shape[1]), "mask_mod": None}
    if isinstance(block_mask, TorchBlockMask):
        block_mask = BlockMask.from_torch(block_mask)
    if not isinstance(block_mask, BlockMask):
        raise no_mask(block_mask)
    if not block_mask.analysed:
        # Given blocks are the truth, and may say anything: what keeps sequences apart joins them.
        return {"block_mask": block_mask, "mask_mod": sequences.within.around(mod)}
    sequences.require_separate(block_mask)
    return {"block_mask": block_mask, "mask_mod": None if program is None else sequences.within.around(mod)}
