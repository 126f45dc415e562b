"""A kernel over its work: what runs, in what order and memory, kept for the calls that repeat it.

It depends on the kernel, the sizes and the blocks alone: problems that differ in scale, program numbers or
captures share it. So it is kept on the BlockMask, and among the latest where every pair is visited.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.kernels import LoadedKernel
from saccade.backends.cpu.launch import Launch, Step
from saccade.backends.cpu.pace import is_long
from saccade.backends.cpu.work import (
    DecodeWork,
    Extent,
    ForwardWork,
    decode_work,
    forward_work,
    whole_decode,
    whole_forward,
)
from saccade.block_mask import BlockMask
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.spec import KernelKind

__all__ = ["Walk", "masked_walk", "whole_walk"]

_PACKED_KEYS, _PACKED_VALUES = ArgumentLayout.slot("packed_keys"), ArgumentLayout.slot("packed_values")
_PARTIALS = ArgumentLayout.slot("partials")

_COPY = 8  # multiply-adds that moving an element takes as long as


@final
@dataclass(frozen=True, eq=False)
class Walk:
    """A kernel's work, and how it is launched.

    Attributes:
        work: It; its slots are to be filled in before the launch.
        launch: The kernel's entries over it.
    """

    work: ForwardWork | DecodeWork
    launch: Launch


def masked_walk(kernel: LoadedKernel, mask: BlockMask, extent: Extent, threads: int) -> Walk:
    """Return a kernel's walk under a mask; memoised on the mask.

    Args:
        kernel: The kernel.
        mask: The mask; its lengths are those of `extent`.
        extent: The sizes of the call.
        threads: How many threads share the work.
    """
    return mask.once((kernel, extent, threads), lambda: _masked_walk(kernel, mask, extent, threads))


@lru_cache(maxsize=64)
def whole_walk(kernel: LoadedKernel, extent: Extent, kind: BlockKind, threads: int) -> Walk:
    """Return a kernel's walk where every pair is visited, in one range of a kind; the latest are kept.

    Args:
        kernel: The kernel.
        extent: The sizes of the call.
        kind: FULL, or PARTIAL where a mask is asked about every pair.
        threads: How many threads share the work.
    """
    if kernel.spec.kind is KernelKind.DECODE:
        return _decode(kernel, whole_decode(extent, threads, kind))
    work = whole_forward(extent, kernel.spec.rows, kernel.source.panel_keys, kind)
    return _forward(kernel, work, extent)


def _masked_walk(kernel: LoadedKernel, mask: BlockMask, extent: Extent, threads: int) -> Walk:
    if kernel.spec.kind is KernelKind.DECODE:
        return _decode(kernel, decode_work(mask, extent, threads))
    return _forward(kernel, forward_work(mask, extent, kernel.spec.rows, kernel.source.panel_keys), extent)


def _forward(kernel: LoadedKernel, work: ForwardWork, extent: Extent) -> Walk:
    source, (pack, attend) = kernel.source, kernel.addresses
    panels = extent.kv_batch * extent.kv_heads * work.panels
    count, width = len(work.pack_items), _width(kernel)
    packing = count * _COPY * source.panel_keys * width
    total = work.cost.item(-1) * kernel.spec.rows * width
    steps = (Step(pack, count, packing), Step(attend, len(work.items), total, work.cost))
    buffers = {
        _PACKED_KEYS: panels * source.key_panel_bytes,
        _PACKED_VALUES: panels * source.value_panel_bytes,
    }
    return Walk(work, Launch(steps, source.scratch_bytes, buffers))


def _decode(kernel: LoadedKernel, work: DecodeWork) -> Walk:
    source, (attend, merge) = kernel.source, kernel.addresses
    heads, rows, width = len(work.item_offsets) - 1, kernel.spec.rows, _width(kernel)
    count = work.item_offsets[heads]
    # Reading a key and value takes as long as some multiply-adds, however few the rows.
    total = work.keys * max(rows, _COPY) * width
    steps = (
        Step(attend, count, total, work.cost() if is_long(total) else None),
        Step(merge, heads, count * rows * width),
    )
    return Walk(work, Launch(steps, source.scratch_bytes, {_PARTIALS: count * source.partial_bytes}))


def _width(kernel: LoadedKernel) -> int:
    """Multiply-adds of a pair of a query and a key."""
    return kernel.spec.key.head_dim + kernel.spec.key.value_dim
