"""Programs over every pair of a problem: which pairs are visible, what their scores become.

Owns the reach of poison: it raises where it decides a pair that counts, and vanishes elsewhere. The error is
the reference interpreter's, made by running it on the first such pair, so that every engine words it alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saccade.analysis.runs import BlockKind
from saccade.backends.base import Operands
from saccade.backends.evaluation import Evaluated, evaluate
from saccade.block_mask import BlockMask
from saccade.ir.program import Array, Program
from saccade.problem import AttentionProblem

__all__ = ["modified_scores", "visible_pairs"]


def visible_pairs(problem: AttentionProblem, operands: Operands) -> Tensor | None:
    """Return which pairs are visible.

    Returns:
        bool, broadcasts to `[B, Hq, Q, K]`; None where no mask hides a pair.

    Raises:
        IndexOutOfRangeError: A mask indexes a tensor out of range, and the outcome depends on it.
        DivisionByZeroError: It divides by integer zero likewise.
    """
    visible = None
    if operands.block_mask is not None:
        visible = _by_blocks(problem, operands.block_mask, operands.query.device)
    if operands.mask is not None:
        pairs = _evaluated(operands.mask, problem, operands.query.device)
        _raise_where(pairs, visible, operands.mask, problem)
        visible = pairs.value if visible is None else visible & pairs.value
    return visible


def modified_scores(
    problem: AttentionProblem, program: Program, scores: Tensor, visible: Tensor | None
) -> Tensor:
    """Return what the score_mod makes of the scores; arbitrary at hidden pairs, from where no gradient comes.

    Args:
        problem: The problem.
        program: The traced score_mod.
        scores: `[B, Hq, Q, K]` float32 or float64, q·k times the scale.
        visible: bool, broadcasts to `[B, Hq, Q, K]`, or None.

    Returns:
        `[B, Hq, Q, K]` of the type of `scores`.

    Raises:
        IndexOutOfRangeError: The score of a visible pair reads a tensor out of range.
        DivisionByZeroError: It divides by integer zero.
    """
    # A score of 0 keeps what a mod computes at hidden pairs from sending NaN back to q and k.
    given = scores if visible is None else torch.where(visible, scores, 0.0)
    pairs = _evaluated(program, problem, scores.device, score=given, visible=visible)
    _raise_where(pairs, visible, program, problem, scores)
    modified = pairs.value.to(scores.dtype)
    if not program.reads("score"):
        # Scores that no longer count still have a gradient, which is zero.
        modified = torch.where(torch.ones_like(scores, dtype=torch.bool), modified, scores)
    return modified.expand(scores.shape)


def _by_blocks(problem: AttentionProblem, mask: BlockMask, device: torch.device) -> Tensor:
    """Which pairs a block mask shows: those of FULL blocks, and of PARTIAL ones where its program is True."""
    q_block, kv_block = mask.BLOCK_SIZE
    rows = torch.arange(problem.q_len, device=device).div(q_block, rounding_mode="floor")
    columns = torch.arange(problem.kv_len, device=device).div(kv_block, rounding_mode="floor")
    kinds = torch.from_numpy(mask.runs.to_dense()).to(device)  # [B or 1, Hq or 1, rows, columns] of blocks
    kind = kinds[:, :, rows[:, None], columns]
    full, partial = kind == BlockKind.FULL, kind == BlockKind.PARTIAL
    if not bool((kinds == BlockKind.PARTIAL).any()):
        return full
    pairs = _evaluated(mask.program, problem, device)
    _raise_where(pairs, partial, mask.program, problem)
    return full | (partial & pairs.value)


def _evaluated(
    program: Program,
    problem: AttentionProblem,
    device: torch.device,
    score: Tensor | None = None,
    visible: Tensor | None = None,
) -> Evaluated:
    extents = {"b": problem.batch, "h": problem.q_heads, "q_idx": problem.q_len, "kv_idx": problem.kv_len}
    variables = {}
    for axis, (name, extent) in enumerate(extents.items()):
        shape = [1, 1, 1, 1]
        shape[axis] = extent
        variables[name] = torch.arange(extent, dtype=torch.int64, device=device).view(shape)
    if score is not None:
        variables["score"] = score
    captures = [_on_device(capture, device) for capture in program.captures]
    return evaluate(program.root, variables, captures, program.numbers, device=device, visible=visible)


def _on_device(capture: Array, device: torch.device) -> Tensor:
    if not isinstance(capture, Tensor):
        return torch.from_numpy(np.asarray(capture)).to(device)
    # A 0-d tensor may live on the host beside tensors of any device, as in torch's own arithmetic.
    return capture if capture.dim() else capture.to(device)


def _raise_where(
    pairs: Evaluated,
    counts: Tensor | None,
    program: Program,
    problem: AttentionProblem,
    scores: Tensor | None = None,
) -> None:
    """Raise for the first poisoned pair that counts, if there is one."""
    if pairs.poison is None:
        return
    guilty = pairs.poison if counts is None else pairs.poison & counts
    # Only now: poison that is everywhere is nowhere where there are no pairs.
    guilty = guilty.expand(problem.batch, problem.q_heads, problem.q_len, problem.kv_len)
    if not bool(guilty.any()):
        return
    spot = [int(index) for index in guilty.nonzero()[0]]
    score = [] if scores is None else [scores.detach()[tuple(spot)].cpu().numpy()]
    program(*score, *spot)
    raise AssertionError(f"expected the interpreter to find the poison at pair {spot}")
