"""Masks as problems, and patterns written out: what recognition is given and what it must mean."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.backends.patterns import Aligned, Pattern, contents_of, exact_pattern
from saccade.backends.patterns.exact import Documents
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem, ModFacts
from saccade.signatures import MaskMod
from saccade.tracing import trace


def problem(
    mask_mod: MaskMod | None, q_len: int, kv_len: int, *, batch: int = 2, heads: int = 2
) -> AttentionProblem:
    """A call under a mask_mod, its captured tensors looked at."""
    facts = None
    if mask_mod is not None:
        program = trace(mask_mod)
        facts = ModFacts(
            program.structure,
            program.numbers,
            tuple(tuple(capture.shape) for capture in program.captures),
            (False,) * len(program.captures),
            contents=contents_of(program),
        )
    return AttentionProblem(
        "cuda", DType.BFLOAT16, batch, batch, heads, heads, q_len, kv_len, 16, 16, 0.25, mask_mod=facts
    )


def pattern_of(mask_mod: MaskMod, q_len: int, kv_len: int) -> Pattern | None:
    """What is recognised of a mask."""
    return exact_pattern(problem(mask_mod, q_len, kv_len))


def in_documents(slot: int = 0) -> tuple[Documents, ...]:
    """Documents told apart by one tensor of a mask_mod."""
    return (Documents(Which.MASK, slot),)


def written_out(pattern: Pattern, mask_mod: MaskMod, batch: int, q_len: int, kv_len: int) -> Tensor:
    """[B, Q, K] bool: the pairs a pattern shows, by its definition."""
    apart = torch.arange(kv_len) - torch.arange(q_len)[:, None]
    shown = torch.ones(batch, q_len, kv_len, dtype=torch.bool)
    if pattern.left is not None:
        shown &= apart >= -pattern.left
    if pattern.right is not None:
        shown &= apart <= pattern.right
    for one in pattern.documents:
        ids = torch.as_tensor(trace(mask_mod).captures[one.slot])
        ids = ids.expand(batch, -1) if ids.dim() == 1 else ids[:batch]
        shown &= ids[:, :q_len, None] == ids[:, None, :kv_len]
    return shown


def band_written_out(band: Aligned, q_len: int, kv_len: int) -> Tensor:
    """[Q, K] bool: the pairs of an aligned band."""
    taken = band.stop - band.start
    apart = torch.arange(taken) - (torch.arange(q_len)[:, None] + taken - q_len)
    shown = torch.ones(q_len, taken, dtype=torch.bool)
    if band.left is not None:
        shown &= apart >= -band.left
    if band.right is not None:
        shown &= apart <= band.right
    whole = torch.zeros(q_len, kv_len, dtype=torch.bool)
    whole[:, band.start : band.stop] = shown
    return whole
