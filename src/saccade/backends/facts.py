"""The facts of a call, read off its operands: from tensors and programs to an `AttentionProblem`."""

from __future__ import annotations

from functools import lru_cache

import torch

from saccade.backends.base import Operands
from saccade.backends.flash.library import any_is_installed
from saccade.backends.patterns.contents import can_look, contents_of
from saccade.backends.surroundings import carries_tangent, follower
from saccade.block_mask import BlockMask
from saccade.block_mask.packed import PackedMask
from saccade.ir.program import Program
from saccade.problem import AttentionProblem, BlockFacts, ModFacts, Outputs
from saccade.tracing.dtypes import STORED

__all__ = ["problem_of"]


def problem_of(
    operands: Operands,
    *,
    scale: float,
    dropout_p: float = 0.0,
    outputs: Outputs,
    packed: PackedMask | None = None,
) -> AttentionProblem:
    """Gather the facts about operands.

    Args:
        operands: The tensors, programs and masks.
        scale: What q·k is multiplied by.
        dropout_p: The probability of dropping a weight.
        outputs: What is wanted beside the output.
        packed: The block mask in pieces, where the operands cannot hold it.

    Example:
        >>> query = torch.empty(1, 4, 16, 8)
        >>> problem_of(Operands(query, query, query), scale=0.5, outputs=Outputs()).scores
        1024
    """
    query, key, value, sinks = operands.query, operands.key, operands.value, operands.sinks
    batch, q_heads, q_len, head_dim = query.shape
    kv_batch, kv_heads, kv_len, _ = key.shape
    score = _mod_facts(operands.score, operands.score_mod)
    read = () if operands.score is None else operands.score.captures
    needs_tangent = carries_tangent((query, key, value, sinks, *read))
    needs_grad = torch.is_grad_enabled() and (
        query.requires_grad
        or key.requires_grad
        or value.requires_grad
        or (sinks is not None and sinks.requires_grad)
        or (score is not None and score.needs_grad)
    )
    mask = operands.block_mask
    device = _device_type(query.device)
    # Only these libraries depend on what masks read, and a look may mean to wait for the device.
    look = device == "cuda" and any_is_installed() and can_look()
    return AttentionProblem(
        device=device,
        dtype=STORED[query.dtype],
        batch=batch,
        kv_batch=kv_batch,
        q_heads=q_heads,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        head_dim=head_dim,
        value_dim=value.shape[3],
        scale=scale,
        score=score,
        block_mask=_block_facts(packed if mask is None else mask, look=look),
        mask_mod=_mod_facts(operands.mask, operands.mask_mod, look=look),
        sinks=None if sinks is None else STORED[sinks.dtype],
        dropout_p=dropout_p,
        outputs=outputs,
        needs_grad=needs_grad or needs_tangent,
        needs_tangent=needs_tangent,
        follower=follower(),
    )


@lru_cache
def _device_type(device: torch.device) -> str:
    return device.type


def _mod_facts(program: Program | None, function: object, *, look: bool = False) -> ModFacts | None:
    if program is None:
        return None
    return ModFacts(
        structure=program.structure,
        numbers=program.numbers,
        capture_shapes=tuple([tuple(capture.shape) for capture in program.captures]),
        capture_grads=tuple([getattr(capture, "requires_grad", False) for capture in program.captures]),
        is_function=function is not None,
        contents=contents_of(program) if look else (),
    )


def _block_facts(mask: BlockMask | PackedMask | None, *, look: bool) -> BlockFacts | None:
    if isinstance(mask, BlockMask):
        packed, function = mask.packed, mask.mask_mod
        return mask.once(
            "facts and contents" if look else "facts", lambda: _packed_facts(packed, function, look=look)
        )
    return None if mask is None else _packed_facts(mask, None, look=look)


def _packed_facts(packed: PackedMask, function: object, *, look: bool) -> BlockFacts:
    mod = _mod_facts(packed.program, None if isinstance(function, Program) else function, look=look)
    assert mod is not None, "a block mask has a program"
    return BlockFacts(
        mod, packed.stored_batch, packed.stored_heads, packed.q_block, packed.kv_block, packed.analysed
    )
