"""What `saccade demo` does with one pattern: build its mask, check it three ways, time it beside torch's.

The checks: every pair against the mod evaluated by torch on index tensors; every block against torch's
`create_block_mask`; attention against dense float64 attention. Owns the checks and their verdicts; what is
checked is in `patterns`, and printing belongs to the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saccade.analysis.runs import BlockKind
from saccade.attention import flex_attention
from saccade.bench.memory import peak_memory
from saccade.bench.oracle import dense_attention, kinds_of_rows, mask_rows, row_chunks
from saccade.bench.patterns import Pattern
from saccade.bench.timing import Timing, time_in_turns, timed
from saccade.bench.torch_masks import fits_in_memory, same_blocks, torch_block_mask
from saccade.block_mask import BlockMask, create_block_mask

__all__ = ["AttentionCheck", "PatternResult", "TorchResult", "run_pattern"]

_ROUNDS = 7  # of ours
# Scores on which attention is checked, over batch and heads: few enough that `backend="auto"` never needs a
# C++ compiler.
_ATTENTION_SCORES = 2**23
_ROUNDING = 4  # times the error of plain float32 attention that ours may have


@dataclass(frozen=True)
class TorchResult:
    """What torch's `create_block_mask` took for the same mask.

    Attributes:
        seconds: One call, after a small one that warmed it up.
        peak_bytes: Memory at its peak beyond what the process held; None where the system does not tell.
    """

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class AttentionCheck:
    """How far attention is from float64.

    Attributes:
        rows: The query rows that were checked, of every batch entry and head, against all keys.
        is_whole: Whether these are all query rows.
        error: The largest difference of an output from dense float64 attention.
        bound: The largest difference allowed: a few times that of dense float32 attention.
    """

    rows: range
    is_whole: bool
    error: float
    bound: float


@dataclass(frozen=True)
class PatternResult:
    """The row of the table that one pattern gives.

    Attributes:
        pattern: What was run.
        density: Share of visible pairs, in [0, 1].
        blocks: Number of blocks of each kind, batch entries and heads that are stored once counted once.
        build: Times of our `create_block_mask`.
        torch: Torch's time and memory; None where its evaluation of all pairs does not fit the memory.
        attention: The check of `flex_attention`.
        faults: What went wrong, in words; empty when everything agrees.
    """

    pattern: Pattern
    density: float
    blocks: dict[BlockKind, int]
    build: Timing
    torch: TorchResult | None
    attention: AttentionCheck
    faults: tuple[str, ...]


def run_pattern(pattern: Pattern) -> PatternResult:
    """Build, check and time the mask of a pattern, then check attention with it.

    Args:
        pattern: One of `demo_patterns`.

    Returns:
        The measurements and the faults found. Nothing is raised for a wrong result.
    """
    mask = _create(pattern)
    faults = _mask_faults(pattern, mask)
    theirs = None
    if fits_in_memory(pattern.batch * pattern.q_len * pattern.kv_len):
        theirs, agree = _ask_torch(pattern, mask)
        if not agree:
            faults.append("its blocks differ from those of torch's create_block_mask")
    attention = _check_attention(pattern, mask)
    if not attention.error <= attention.bound:
        faults.append(f"attention is off by {attention.error:.2g}, more than {attention.bound:.2g}")
    return PatternResult(
        pattern=pattern,
        density=mask.density(),
        blocks=mask.runs.counts(),
        build=time_in_turns({"saccade": lambda: _create(pattern)}, rounds=_ROUNDS)["saccade"],
        torch=theirs,
        attention=attention,
        faults=tuple(faults),
    )


def _create(pattern: Pattern) -> BlockMask:
    batch = None if pattern.batch == 1 else pattern.batch
    return create_block_mask(pattern.mask, batch, None, pattern.q_len, pattern.kv_len, device="cpu")


def _mask_faults(pattern: Pattern, mask: BlockMask) -> list[str]:
    """Compare every pair and every block with the mod on index tensors, a chunk of rows at a time."""
    wrong_pairs = wrong_blocks = 0
    kinds = torch.from_numpy(mask.runs.to_dense())  # uint8 [B or 1, 1, rows, columns]
    for b in range(pattern.batch):
        for rows in row_chunks(pattern.q_len, pattern.kv_len, mask.q_block):
            true = mask_rows(pattern.mask, b, 0, rows, pattern.kv_len)
            ours = mask.crop(q=(rows.start, rows.stop)).to_bool()[b, 0]
            wrong_pairs += int(np.count_nonzero(ours.numpy() != true.numpy()))
            first = rows.start // mask.q_block
            expected = kinds_of_rows(true, mask.q_block)
            found = kinds[min(b, kinds.shape[0] - 1), 0, first : first + len(expected)]
            wrong_blocks += int((found != expected).sum())
    faults = []
    if wrong_pairs:
        faults.append(f"{wrong_pairs:,} pairs differ from the mask evaluated pair by pair")
    if wrong_blocks:
        faults.append(f"{wrong_blocks:,} blocks are of another kind than their pairs say")
    return faults


def _ask_torch(pattern: Pattern, mask: BlockMask) -> tuple[TorchResult, bool]:
    """Torch's time and memory for the same mask, and whether it finds the same blocks."""
    batch = None if pattern.batch == 1 else pattern.batch
    (theirs, seconds), peak = peak_memory(
        lambda: timed(lambda: torch_block_mask(pattern.mask, batch, pattern.q_len, pattern.kv_len))
    )
    return TorchResult(seconds, peak), same_blocks(mask, theirs)


def _check_attention(pattern: Pattern, mask: BlockMask) -> AttentionCheck:
    """Compare `flex_attention` with dense float64 attention on as many middle rows as fit the bound."""
    query, key, value = pattern.make_inputs()
    count = min(pattern.q_len, max(1, _ATTENTION_SCORES // (pattern.batch * pattern.heads * pattern.kv_len)))
    # A score_mod reads positions, which a crop counts from 0 again.
    assert pattern.score is None or count == pattern.q_len, f"{pattern.name}: too long to check its scores"
    start = (pattern.q_len - count) // 2
    rows = range(start, start + count)
    part = mask.crop(q=(rows.start, rows.stop))
    out = flex_attention(
        query[:, :, rows.start : rows.stop], key, value, score_mod=pattern.score, block_mask=part
    )
    truth, plain = (
        dense_attention(
            query, key, value, mask_mod=pattern.mask, score_mod=pattern.score, rows=rows, dtype=dtype
        )
        for dtype in (torch.float64, torch.float32)
    )
    unavoidable = float((plain - truth).abs().max())
    return AttentionCheck(
        rows, count == pattern.q_len, float((out - truth).abs().max()), _ROUNDING * unavoidable + 1e-7
    )
