"""From the arguments of a call to what is asked: a problem, and the operands it is about.

Mods are traced here, at every call, so that a changed closure value is always seen. A mod that changes
nothing is left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention.aux import wanted_outputs
from saccade.attention.options import read_options
from saccade.attention.validate import (
    require_captures_on,
    require_choice,
    require_dense,
    require_dropout,
    require_no_grad,
    require_scale,
    require_shapes,
    require_sinks,
    require_types,
)
from saccade.backends.base import Operands
from saccade.backends.facts import problem_of
from saccade.block_mask import BlockMask
from saccade.block_mask.fit import require_fit
from saccade.block_mask.packed import PackedMask
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.planner import AUTO, backend_names
from saccade.problem import AttentionProblem, Outputs
from saccade.schedule import Schedule
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

__all__ = ["Arguments", "Request", "autocasted", "no_mask", "read_mask", "read_request", "read_score"]

T = TypeVar("T")

_BACKENDS = (AUTO, *backend_names())


class Arguments(NamedTuple):
    """The arguments of `flex_attention`, as they were given."""

    query: Tensor
    key: Tensor
    value: Tensor
    score_mod: ScoreMod | None = None
    block_mask: BlockMask | TorchBlockMask | PackedMask | None = None
    scale: float | None = None
    enable_gqa: bool = False
    return_lse: bool = False
    kernel_options: object = None
    return_aux: object = None
    mask_mod: MaskMod | None = None
    sinks: Tensor | None = None
    dropout_p: float = 0.0
    backend: str = AUTO


class Request(NamedTuple):
    """A call, checked and read. The seed of dropout is not drawn yet.

    Attributes:
        problem: The facts.
        operands: What they are about; without a block mask where that was given in pieces.
        packed: The block mask in pieces, or None where it hides nothing.
        backend: Who is asked.
        schedule: Hints for it.
    """

    problem: AttentionProblem
    operands: Operands
    packed: PackedMask | None
    backend: str
    schedule: Schedule

    def drawn(self) -> Operands:
        """The operands, with a seed from torch's generator where there is dropout."""
        if self.problem.dropout_p == 0.0:
            return self.operands
        # On the host, from its generator: one seed serves every device alike.
        seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
        return replace(self.operands, dropout_seed=seed)


def read_request(given: Arguments) -> Request:
    """Check the arguments of a call, trace its mods and gather the facts.

    Raises:
        SaccadeError: Something given cannot be used; see `flex_attention`.
    """
    outputs = _check(given)
    options = read_options(given.kernel_options, given.backend)
    query, key, value = given.query, given.key, given.value
    if torch._C._is_any_autocast_enabled():  # of one device it takes longer to ask
        query, key, value = autocasted(query, key, value)
    require_types(query, key, value)
    require_shapes(query, key, value, given.enable_gqa)
    require_sinks(given.sinks, query)
    block_mask, packed = _both_forms(_block_mask(given.block_mask, query, key))
    score = read_score(given.score_mod, query)
    mask = read_mask(given.mask_mod, query)
    operands = Operands(
        query,
        key,
        value,
        score=score,
        score_mod=_function(given.score_mod) if score is not None else None,
        block_mask=block_mask,
        mask=mask,
        mask_mod=_function(given.mask_mod) if mask is not None else None,
        sinks=given.sinks,
    )
    scale = 1.0 / math.sqrt(query.shape[-1]) if given.scale is None else float(given.scale)
    problem = problem_of(
        operands, scale=scale, dropout_p=float(given.dropout_p), outputs=outputs, packed=packed
    )
    return Request(problem, operands, packed, options.backend, options.schedule)


def _check(given: Arguments) -> Outputs:
    """Check what needs no other argument, and return what is wanted."""
    require_choice("backend", given.backend, _BACKENDS)
    require_dense(query=given.query, key=given.key, value=given.value)
    require_scale(given.scale)
    require_dropout(given.dropout_p)
    return wanted_outputs(given.return_lse, given.return_aux)


def autocasted(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the dtype that autocast asks for on the first one's device, or unchanged."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [
        tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype is not torch.float64 else tensor
        for tensor in tensors
    ]


def _block_mask(given: object, query: Tensor, key: Tensor) -> BlockMask | PackedMask | None:
    """The block mask, checked against the call; None where it hides nothing."""
    if given is None:
        return None
    if isinstance(given, TorchBlockMask):
        given = BlockMask.from_torch(given)
    if not isinstance(given, (BlockMask, PackedMask)):
        raise no_mask(given)
    batch, heads, q_len, _ = query.shape
    require_fit(given, batch, heads, q_len, key.shape[2])
    if isinstance(given, BlockMask):
        given.check_fresh()
    if given.device != query.device and given.device.type != query.device.type:
        raise ArgumentError(
            f"block_mask must be on the query's device, got block_mask.device={given.device} and "
            f"query.device={query.device}; "
            "move it with .to(query.device)"
        )
    require_captures_on(query.device, given.program, "block_mask")
    require_no_grad(given.program, "block_mask")
    hides_nothing = given.analysed and given.program.is_noop
    return None if hides_nothing else given


def _both_forms(mask: BlockMask | PackedMask | None) -> tuple[BlockMask | None, PackedMask | None]:
    """A block mask as a mask, if it is one, and in pieces."""
    return (mask, mask.packed) if isinstance(mask, BlockMask) else (None, mask)


def no_mask(given: object) -> ArgumentTypeError:
    """The error for a `block_mask` that is none."""
    remedy = "make one with create_block_mask"
    if isinstance(given, Tensor):
        remedy = "pass a dense mask as mask_mod=dense(table), an additive one as score_mod=bias(table)"
    elif callable(given):
        remedy = "pass a function as mask_mod=, or make a mask of it with create_block_mask"
    return ArgumentTypeError(f"block_mask must be a BlockMask or None, got {type(given).__name__}; {remedy}")


def read_score(mod: ScoreMod | None, query: Tensor) -> Program | None:
    """Trace and check a score_mod; None where it changes nothing."""
    if mod is None:
        return None
    score_dtype = DType.FLOAT64 if query.dtype is torch.float64 else DType.FLOAT32
    program = trace(mod, ModKind.SCORE, score_dtype=score_dtype, device=query.device)
    require_captures_on(query.device, program, "score_mod")
    return None if program.is_noop else program


def read_mask(mod: MaskMod | None, query: Tensor) -> Program | None:
    """Trace and check a mask_mod; None where it hides nothing."""
    if mod is None:
        return None
    program = trace(mod, ModKind.MASK, device=query.device)
    require_captures_on(query.device, program, "mask_mod")
    require_no_grad(program, "mask_mod")
    return None if program.is_noop else program


def _function(mod: T | None) -> T | None:
    """The user's own function; None for a Program."""
    return None if isinstance(mod, Program) else mod
