"""`saccade doctor --selftest`: a small catalogue of mods, each through tracing, blocks and attention here.

It answers whether this installation computes what it should, in seconds: small shapes, backends that need no
compiler. Owns the catalogue and what counts as a fault; the checks are `verify`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.bench.verify import Shape, verify_mod
from saccade.ir.parse import parse_structure
from saccade.ir.text import format_structure
from saccade.masks import (
    block_diffusion,
    causal,
    chunked,
    create_padding_mask,
    dense,
    dilated_window,
    document,
    global_tokens,
    image_cross_attention,
    jagged,
    local,
    local_2d,
    natten,
    noop_mask,
    padding,
    prefix_lm,
    random_blocks,
    shared_prefix,
    shift,
    sliding_window,
    streaming,
    strided,
    tree,
)
from saccade.scores import (
    alibi,
    bias,
    checkerboard,
    distance_decay,
    head_scale,
    relative_bias,
    softcap,
    t5_bias,
)
from saccade.signatures import MaskMod, Mod
from saccade.tracing import trace

__all__ = ["SelftestCase", "SelftestResult", "run_selftest", "selftest_cases"]

_LENGTH = 12  # the longest that the catalogue is built for
_SHAPES = (Shape(1, 1, 1, _LENGTH, _LENGTH), Shape(2, 2, 1, 5, 9))
_BACKENDS = ("sdpa", "eager")


@dataclass(frozen=True, eq=False)
class SelftestCase:
    """One mod of the selftest.

    Attributes:
        name: What it is called in the report.
        mod: A mask_mod or a score_mod.
        mask: The mask beside a score_mod, or None.
    """

    name: str
    mod: Mod
    mask: MaskMod | None = None


@dataclass(frozen=True)
class SelftestResult:
    """What one case gave.

    Attributes:
        name: The case.
        checks: How many results were compared.
        faults: What is wrong, one line each; empty if nothing is.
        seconds: What it took.
    """

    name: str
    checks: int
    faults: tuple[str, ...]
    seconds: float


def selftest_cases() -> tuple[SelftestCase, ...]:
    """Return the catalogue, from the simplest on.

    Example:
        >>> [case.name for case in selftest_cases()][:3]
        ['noop_mask', 'causal', 'local(left=1, right=2)']
    """
    masks = (*_library_masks(), *_table_masks())
    return (*(SelftestCase(str(mask), mask) for mask in masks), *_user_functions(), *_scores())


def run_selftest(
    cases: Sequence[SelftestCase], *, progress: Callable[[str], None] = lambda name: None
) -> tuple[SelftestResult, ...]:
    """Run cases one by one.

    Args:
        cases: Of `selftest_cases`, or others that admit up to 12 queries and keys, 2 batch entries and heads.
        progress: Is told the name of each case before it begins.

    Returns:
        A result a case. Whatever is raised becomes a fault.
    """
    results = []
    for case in cases:
        progress(case.name)
        results.append(_run(case))
    return tuple(results)


def _run(case: SelftestCase) -> SelftestResult:
    start = time.perf_counter()
    faults: list[str] = []
    checks = 0
    try:
        structure = trace(case.mod).structure
        if parse_structure(format_structure(structure)) != structure:
            faults.append("its program does not survive printing and parsing")
        found = verify_mod(case.mod, mask_mod=case.mask, shapes=_SHAPES, backends=_BACKENDS)
    except Exception as fault:
        # A selftest reports what breaks, whatever it is.
        faults.append(f"{type(fault).__name__}: {' '.join(str(fault).split())}")
    else:
        checks = sum(check.was_run for check in found.checks)
        faults += found.remarks
        faults += [
            f"{check.backend} at {check.shape}: {check.told()}"
            for check in found.checks
            if not check.is_right
        ]
    return SelftestResult(case.name, checks, tuple(faults), time.perf_counter() - start)


def _library_masks() -> tuple[MaskMod, ...]:
    """Masks that are rules."""
    return (
        noop_mask,
        causal,
        local(left=1, right=2),
        sliding_window(3),
        prefix_lm(4),
        causal & ~sliding_window(2) | local(left=0, right=1),
        shift(causal, q=3),
        streaming(window=3, first=2),
        dilated_window(left=2, right=1, dilation=2),
        chunked(4),
        strided(3),
        global_tokens(2) | sliding_window(2),
        random_blocks(_LENGTH, block=3, number=1),
        block_diffusion(length=_LENGTH // 2, block=2),
        local_2d((3, 4), 1),
        natten((3, 4), 3),
    )


def _table_masks() -> tuple[MaskMod, ...]:
    """Masks that read tensors."""
    positions = torch.arange(_LENGTH)
    return (
        causal & document(lengths=[5, 4, 3]),
        jagged(causal, offsets=[0, 5, 5, _LENGTH]),
        shared_prefix(4, lengths=[3, 5]),
        tree(parents=[-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]),
        image_cross_attention(intervals=[[0, 7], [1, 7], [7, 12]], image_lengths=[3, 5, 4]),
        padding(lengths=[7, _LENGTH]),
        causal & create_padding_mask((positions >= 8).expand(2, -1)),
        dense((3 * positions[:, None] + 2 * positions) % 5 < 2),
    )


def _user_functions() -> tuple[SelftestCase, ...]:
    """Functions as a user writes them."""
    learned = torch.tensor([0.5, -0.25], requires_grad=True)

    def by_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx + h) % 2 == kv_idx % 2

    def gated(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where(q_idx >= kv_idx, score * torch.sigmoid(learned[h]), -float("inf"))

    return SelftestCase("a function that reads h", by_head), SelftestCase("a learned score_mod", gated)


def _scores() -> tuple[SelftestCase, ...]:
    """The library's scores, with gradients of their tables."""
    generator = torch.Generator().manual_seed(_LENGTH)

    def table(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    scores: tuple[Mod, ...] = (
        alibi(n_heads=2),
        softcap(2.0),
        softcap(2.0, approximate=True),
        checkerboard,
        bias(table(2, _LENGTH, _LENGTH)),
        relative_bias(table(2, 2 * _LENGTH - 1)),
        t5_bias(table(8, 2), buckets=8, max_distance=10),
        head_scale(table(2)),
        distance_decay(0.9),
    )
    return tuple(SelftestCase(f"causal + {score}", score, causal) for score in scores)
