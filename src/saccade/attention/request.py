"""From the arguments of a call to what is asked: a problem, and the operands it is about.

Mods are traced here, at every call, so that a changed closure value is always seen. A mod that changes
nothing is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar, final

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
    require_scale,
    require_shapes,
    require_sinks,
    require_types,
)
from saccade.backends.base import Operands
from saccade.block_mask import BlockMask
from saccade.errors import ArgumentError, ArgumentTypeError
from saccade.ir.dtype import DType
from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.planner import AUTO, backend_names
from saccade.problem import AttentionProblem, BlockFacts, ModFacts, Outputs
from saccade.schedule import Schedule
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace
from saccade.tracing.dtypes import STORED

__all__ = ["Arguments", "Request", "read_request"]

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of `flex_attention`, as they were given."""

    query: Tensor
    key: Tensor
    value: Tensor
    score_mod: ScoreMod | None = None
    block_mask: BlockMask | TorchBlockMask | None = None
    scale: float | None = None
    enable_gqa: bool = False
    return_lse: bool = False
    kernel_options: object = None
    return_aux: object = None
    mask_mod: MaskMod | None = None
    sinks: Tensor | None = None
    dropout_p: float = 0.0
    backend: str = AUTO


@final
@dataclass(frozen=True, eq=False)
class Request:
    """A call, checked and read. The seed of dropout is not drawn yet."""

    problem: AttentionProblem
    operands: Operands
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
    query, key, value = _autocast(given.query, given.key, given.value)
    require_types(query, key, value)
    require_shapes(query, key, value, given.enable_gqa)
    require_sinks(given.sinks, query)
    block_mask = _block_mask(given.block_mask, query, key)
    score = _score(given.score_mod, query)
    mask = _mask(given.mask_mod, query)
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
    problem = _problem(operands, scale, float(given.dropout_p), outputs)
    return Request(problem, operands, options.backend, options.schedule)


def _check(given: Arguments) -> Outputs:
    """Check what needs no other argument, and return what is wanted."""
    require_choice("backend", given.backend, (AUTO, *backend_names()))
    require_dense(query=given.query, key=given.key, value=given.value)
    require_scale(given.scale)
    require_dropout(given.dropout_p)
    return wanted_outputs(given.return_lse, given.return_aux)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype that autocast asks for on their device; unchanged where it is off."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [
        tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype is not torch.float64 else tensor
        for tensor in tensors
    ]


def _block_mask(given: object, query: Tensor, key: Tensor) -> BlockMask | None:
    """The block mask, checked against the call; None where it hides nothing."""
    if given is None:
        return None
    if isinstance(given, TorchBlockMask):
        given = BlockMask.from_torch(given)
    if not isinstance(given, BlockMask):
        raise ArgumentTypeError(
            f"block_mask must be a BlockMask or None, got {type(given).__name__}; {_remedy(given)}"
        )
    batch, heads, q_len, _ = query.shape
    given.check_usable(batch, heads, q_len, key.shape[2])
    if given.device.type != query.device.type:
        raise ArgumentError(
            f"block_mask must be on the query's device, got block_mask.device={given.device} and "
            f"query.device={query.device}; "
            "move it with .to(query.device)"
        )
    require_captures_on(query.device, given.program, "block_mask")
    hides_nothing = given.analysed and given.program.is_noop
    return None if hides_nothing else given


def _remedy(given: object) -> str:
    if isinstance(given, Tensor):
        return "pass a dense mask as mask_mod=dense(table), an additive one as score_mod=bias(table)"
    if callable(given):
        return "pass a function as mask_mod=, or make a mask of it with create_block_mask"
    return "make one with create_block_mask"


def _score(mod: ScoreMod | None, query: Tensor) -> Program | None:
    if mod is None:
        return None
    score_dtype = DType.FLOAT64 if query.dtype is torch.float64 else DType.FLOAT32
    program = trace(mod, ModKind.SCORE, score_dtype=score_dtype, device=query.device)
    require_captures_on(query.device, program, "score_mod")
    return None if program.is_noop else program


def _mask(mod: MaskMod | None, query: Tensor) -> Program | None:
    if mod is None:
        return None
    program = trace(mod, ModKind.MASK, device=query.device)
    require_captures_on(query.device, program, "mask_mod")
    return None if program.is_noop else program


def _function(mod: T | None) -> T | None:
    """The user's own function; None for a Program."""
    return None if isinstance(mod, Program) else mod


def _problem(operands: Operands, scale: float, dropout_p: float, outputs: Outputs) -> AttentionProblem:
    query, key, value, sinks = operands.query, operands.key, operands.value, operands.sinks
    batch, q_heads, q_len, head_dim = query.shape
    score = _facts(operands.score, operands.score_mod)
    tensors = (query, key, value) if sinks is None else (query, key, value, sinks)
    differentiable = any(tensor.requires_grad for tensor in tensors) or (
        score is not None and score.needs_grad
    )
    return AttentionProblem(
        device=query.device.type,
        dtype=STORED[query.dtype],
        batch=batch,
        kv_batch=key.shape[0],
        q_heads=q_heads,
        kv_heads=key.shape[1],
        q_len=q_len,
        kv_len=key.shape[2],
        head_dim=head_dim,
        value_dim=value.shape[3],
        scale=scale,
        score=score,
        block_mask=_block_facts(operands.block_mask),
        mask_mod=_facts(operands.mask, operands.mask_mod),
        sinks=None if sinks is None else STORED[sinks.dtype],
        dropout_p=dropout_p,
        outputs=outputs,
        needs_grad=differentiable and torch.is_grad_enabled(),
    )


def _facts(program: Program | None, function: object) -> ModFacts | None:
    if program is None:
        return None
    return ModFacts(
        structure=program.structure,
        numbers=program.numbers,
        capture_shapes=tuple(tuple(capture.shape) for capture in program.captures),
        capture_grads=tuple(getattr(capture, "requires_grad", False) for capture in program.captures),
        is_function=function is not None,
    )


def _block_facts(mask: BlockMask | None) -> BlockFacts | None:
    if mask is None:
        return None
    mod = _facts(mask.program, _function(mask.mask_mod))
    assert mod is not None, "a block mask has a program"
    stored_batch, stored_heads, _, _ = mask.runs.shape
    return BlockFacts(mod, stored_batch, stored_heads, mask.q_block, mask.kv_block, mask.analysed)
