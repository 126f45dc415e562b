"""A kernel over its work: what runs, in what order and memory, kept for the calls that repeat it.

It depends on the kernel, the sizes and the blocks alone: problems that differ in scale, program numbers or
captures share it. So it is kept on the BlockMask, and among the latest where every pair is visited.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

from saccade.analysis.runs import BlockKind
from saccade.backends.cpu.backward_work import BackwardWork, backward_work, whole_backward
from saccade.backends.cpu.capture_gradients import CapturePlan
from saccade.backends.cpu.kernels import LoadedKernel
from saccade.backends.cpu.launch import Costs, Launch, Step
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
from saccade.codegen.cpu.backward_captures import SLICE_BYTES
from saccade.codegen.cpu.spec import KernelKind
from saccade.problem import KernelKey
from saccade.runtime.team import thread_count

__all__ = ["Walk", "walk_of"]

_PACKED_KEYS, _PACKED_VALUES = ArgumentLayout.slot("packed_keys"), ArgumentLayout.slot("packed_values")
_PARTIALS, _Q_TILES = ArgumentLayout.slot("partials"), ArgumentLayout.slot("q_tiles")

_NO_CAPTURES = CapturePlan()
_COPY = 8  # multiply-adds that moving an element takes as long as


@final
@dataclass(frozen=True, eq=False)
class Walk:
    """A kernel's work, and how it is launched.

    Attributes:
        work: It; its slots are to be filled in before the launch.
        launch: The kernel's entries over it.
    """

    work: ForwardWork | DecodeWork | BackwardWork
    launch: Launch


def walk_of(
    kernel: LoadedKernel,
    mask: BlockMask | None,
    extent: Extent,
    everything: BlockKind,
    captures: CapturePlan = _NO_CAPTURES,
) -> Walk:
    """Return a kernel's walk; memoised on the mask, and the latest kept where there is none.

    Args:
        kernel: The kernel.
        mask: The mask, its lengths those of `extent`; None where every pair is visited.
        extent: The sizes of the call.
        everything: The kind of all pairs without a mask: FULL, or PARTIAL where a mask_mod is asked about
            each.
        captures: BACKWARD: how gradients of captured tensors are summed.
    """
    threads = thread_count()
    if mask is None:
        return _whole_walk(kernel, extent, everything, threads, captures)
    key = (kernel, extent, threads, captures)
    return mask.once(key, lambda: _masked_walk(kernel, mask, extent, threads, captures))


@lru_cache(maxsize=64)
def _whole_walk(
    kernel: LoadedKernel, extent: Extent, kind: BlockKind, threads: int, captures: CapturePlan
) -> Walk:
    if kernel.spec.kind is KernelKind.DECODE:
        return _decode(kernel, whole_decode(extent, threads, kind))
    if kernel.spec.kind is KernelKind.BACKWARD:
        gradients = whole_backward(extent, kernel.spec.keys, kernel.source.padding_rows, kind, captures.apart)
        return _backward(kernel, gradients, extent, captures)
    work = whole_forward(extent, kernel.spec.rows, kernel.source.panel_keys, kind)
    return _forward(kernel, work, extent)


def _masked_walk(
    kernel: LoadedKernel, mask: BlockMask, extent: Extent, threads: int, captures: CapturePlan
) -> Walk:
    if kernel.spec.kind is KernelKind.DECODE:
        return _decode(kernel, decode_work(mask, extent, threads))
    if kernel.spec.kind is KernelKind.BACKWARD:
        gradients = backward_work(mask, extent, kernel.spec.keys, kernel.source.padding_rows, captures.apart)
        return _backward(kernel, gradients, extent, captures)
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


def _backward(kernel: LoadedKernel, work: BackwardWork, extent: Extent, captures: CapturePlan) -> Walk:
    spec, source, width = kernel.spec, kernel.source, _width(kernel)
    heads, q_tiles = extent.batch * extent.q_heads, -(-extent.q_len // spec.rows)
    items = len(work.group_offsets) - 1
    copied = {each.slot: each.bytes for each in captures.sums if not each.is_shared}
    summed = items * sum(copied.values()) / spec.precise.itemsize
    moved = float(_COPY * heads * extent.q_len * width)
    products = work.cost.item(-1) * spec.keys * _gradient_width(spec.key)
    planned: dict[str, tuple[int, float, Costs | None]] = {
        "pack": (heads * q_tiles, moved, None),
        "sinks": (extent.q_heads, float(_COPY * heads * extent.q_len), None),
        "attend": (items, products, work.cost),
        "merge": (heads * q_tiles, moved, None),
        "captures": (-(-max(copied.values(), default=0) // SLICE_BYTES), _COPY * summed, None),
    }
    entries = zip(source.entries, kernel.addresses, strict=True)
    steps = [Step(address, *planned[entry]) for entry, address in entries]
    rows = heads * (extent.q_len + extent.q_len % 2 + source.padding_rows)
    buffers = {name: rows * size for name, size in source.row_bytes.items()}
    buffers["partials"] = work.partial_rows * source.partial_bytes
    launch = Launch(
        steps,
        source.scratch_bytes,
        {
            **{ArgumentLayout.slot(name): size for name, size in buffers.items()},
            **{source.layout.sums[slot].sums: items * size for slot, size in copied.items()},
        },
    )
    return Walk(replace(work, slots=(*work.slots, (_Q_TILES, q_tiles))), launch)


def _width(kernel: LoadedKernel) -> int:
    """Multiply-adds of a pair of a query and a key."""
    return kernel.spec.key.head_dim + kernel.spec.key.value_dim


def _gradient_width(key: KernelKey) -> int:
    """Multiply-adds of a pair in a backward pass: of the scores, and of the gradients that are wanted."""
    wanted = key.wanted
    assert wanted is not None, "a backward kernel is asked for gradients"
    return key.head_dim * (1 + wanted.query + wanted.key) + key.value_dim * (wanted.of_scores + wanted.value)
