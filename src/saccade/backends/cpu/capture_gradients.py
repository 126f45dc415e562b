"""Where the gradients of captured tensors are summed: in copies, or in one memory and by whom.

A copy for every item of work is summed without a thought of who else does; copies that would take much more
memory than the call itself are replaced by one memory. Then chunks of work that may touch the same element
belong to one item. Both follow from the problem alone, so sums are the same to the bit from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from saccade.backends.cpu.arguments import Block
from saccade.backends.cpu.backward_work import CHUNK_AXES, most_chunks
from saccade.backends.cpu.work import Extent
from saccade.codegen.cpu.arguments import SumSlots
from saccade.codegen.cpu.backward_captures import COPY_BYTES
from saccade.codegen.program.contributions import contributions
from saccade.codegen.program.injective import names_apart
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem, ModFacts, Wanted
from saccade.runtime.team import alone_in_child
from saccade.tracing.dtypes import TORCH

__all__ = ["CapturePlan", "CaptureSum", "capture_plan"]

_MOST_COPIES = 2**24  # bytes; more where queries, keys and values have more


@final
@dataclass(frozen=True)
class CaptureSum:
    """The sums of one captured tensor's gradient.

    Attributes:
        slot: The capture.
        shape: Its shape.
        dtype: What is summed in.
        is_shared: Whether all items have one memory; else each has a copy.
    """

    slot: int
    shape: tuple[int, ...]
    dtype: DType
    is_shared: bool

    @property
    def bytes(self) -> int:
        """Bytes of a copy."""
        return -(-prod(self.shape) * self.dtype.itemsize // COPY_BYTES) * COPY_BYTES

    def fill(self, block: Block, slots: SumSlots) -> Tensor:
        """Write where the sums are, but for copies, and return what holds them, of `bytes`."""
        length = self.bytes // self.dtype.itemsize
        with alone_in_child():
            held = (torch.zeros if self.is_shared else torch.empty)(
                length, dtype=TORCH[self.dtype], device="cpu"
            )
        block[slots.total] = held.data_ptr()
        block[slots.copy] = 0 if self.is_shared else self.bytes
        if self.is_shared:
            block[slots.sums] = held.data_ptr()
        return held

    def gradient(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the gradient, of a dtype, from what `fill` returned."""
        with alone_in_child():
            return held[: prod(self.shape)].view(self.shape).to(dtype)


@final
@dataclass(frozen=True)
class CapturePlan:
    """How all gradients of captured tensors are summed.

    Attributes:
        sums: Of each capture whose gradient is wanted, in the order of slots.
        apart: The axes of chunks, of `CHUNK_AXES`, along which no two touch one element of a shared memory;
            all of them where there is none.
    """

    sums: tuple[CaptureSum, ...] = ()
    apart: frozenset[str] = CHUNK_AXES


def capture_plan(problem: AttentionProblem, wanted: Wanted, types: Mapping[int, DType]) -> CapturePlan:
    """Return how gradients of captures are summed.

    Args:
        problem: The problem.
        wanted: Which gradients are.
        types: What the kernel sums each of them in, by slot.
    """
    if not types:
        return CapturePlan()
    score = problem.score
    assert score is not None, "only a score_mod's captures want gradients"
    chunks = most_chunks(Extent.of(problem))
    room = _room(problem)
    sums = []
    # The smallest first: as many as there is room for have copies.
    for slot in sorted(types, key=lambda slot: (prod(score.capture_shapes[slot]), slot)):
        own = CaptureSum(slot, score.capture_shapes[slot], types[slot], is_shared=False)
        room -= chunks * own.bytes
        if room < 0:
            own = CaptureSum(slot, own.shape, own.dtype, is_shared=True)
        sums.append(own)
    sums.sort(key=lambda each: each.slot)
    shared = [each.slot for each in sums if each.is_shared]
    return CapturePlan(tuple(sums), _apart(score, wanted.captures, shared))


def _room(problem: AttentionProblem) -> int:
    """Bytes that copies may take."""
    width, itemsize = problem.head_dim + problem.value_dim, problem.dtype.itemsize
    queries = problem.batch * problem.q_heads * problem.q_len * problem.head_dim
    keys = problem.kv_batch * problem.kv_heads * problem.kv_len * width
    return max(_MOST_COPIES, 2 * (queries + keys) * itemsize)


def _apart(score: ModFacts, wanted: tuple[bool, ...], shared: list[int]) -> frozenset[str]:
    """The axes along which all contributions to shared sums name different elements."""
    found = contributions(score.structure, wanted)
    of_slots = [[each for each in found if each.slot == slot] for slot in shared]
    return frozenset(
        name for name in CHUNK_AXES if all(names_apart(name, each, score.numbers) for each in of_slots)
    )
