"""Running a kernel's entries: memory lent, threads and slices, the error record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade.backends.cpu.arguments import Block
from saccade.backends.cpu.pace import slices
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.runtime.team import run_sliced, thread_count
from saccade.runtime.workspace import ALIGNMENT, WORKSPACE

__all__ = ["Step", "launch"]

_ALONE = 1e6  # multiply-adds that one thread finishes before another has woken up
_STATE_BYTES = 64
_SCRATCH, _STATE = ArgumentLayout.slot("scratch"), ArgumentLayout.slot("state")


class Step(NamedTuple):
    """A call of an entry, over all its items.

    Attributes:
        address: Of the entry.
        items: How many items it takes.
        multiply_adds: Their work, roughly.
        cost: float64[items], what the items up to each cost together; None where all are alike.
    """

    address: int
    items: int
    multiply_adds: float
    cost: npt.NDArray[np.float64] | None = None


def launch(steps: Sequence[Step], block: Block, scratch_bytes: int, buffers: Mapping[int, int]) -> list[int]:
    """Run the entries of a kernel, one after the other, each on all threads.

    Args:
        steps: The entries. The caller holds their kernel.
        block: The arguments but for the memory that is lent here.
        scratch_bytes: Memory of a thread.
        buffers: Memory that threads share: its argument's slot to its bytes.

    Returns:
        The state block as the kernel left it; see `codegen.cpu.arguments.State`.
    """
    threads = thread_count() if max([step.multiply_adds for step in steps]) > _ALONE else 1
    sizes = [-(-size // ALIGNMENT) * ALIGNMENT for size in buffers.values()]
    private = threads * scratch_bytes
    with WORKSPACE.borrow(_STATE_BYTES + private + sum(sizes)) as loan:
        block[_STATE] = loan.address
        block[_SCRATCH] = address = loan.address + _STATE_BYTES
        address += private
        for slot, size in zip(buffers, sizes, strict=True):
            block[slot] = address
            address += size
        state = loan.memory[:_STATE_BYTES].view(np.int64)
        state[:] = 0
        arguments, _ = block.buffer_info()
        for entry, items, multiply_adds, cost in steps:
            run_sliced(entry, arguments, threads, state, slices(items, multiply_adds, cost))
        record: list[int] = state.tolist()
        return record
