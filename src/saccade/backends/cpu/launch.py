"""Running a kernel's entries: memory lent, threads and slices, the error record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt

from saccade.backends.cpu.arguments import Block
from saccade.backends.cpu.pace import slices
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.runtime.team import run_sliced, thread_count
from saccade.runtime.workspace import ALIGNMENT, WORKSPACE

__all__ = ["Costs", "Launch", "Step"]

Costs: TypeAlias = npt.NDArray[np.float64]
"""What the items up to each cost together."""

_ALONE = 1e6  # multiply-adds that one thread finishes before another has woken up
_STATE_BYTES = 64
_SCRATCH, _STATE = ArgumentLayout.slot("scratch"), ArgumentLayout.slot("state")


class Step(NamedTuple):
    """A call of an entry, over all its items.

    Attributes:
        address: Of the entry.
        items: How many items it takes.
        multiply_adds: Their work, roughly.
        cost: Of its items; None where all are alike.
    """

    address: int
    items: int
    multiply_adds: float
    cost: Costs | None = None


@final
class Launch:
    """Entries of a kernel that run one after the other, each on all threads.

    Args:
        steps: The entries. The caller holds their kernel.
        scratch_bytes: Memory of a thread.
        buffers: Memory that threads share: its argument's slot to its bytes.
    """

    def __init__(self, steps: Sequence[Step], scratch_bytes: int, buffers: Mapping[int, int]) -> None:
        self._steps = tuple(steps)
        self._scratch_bytes = scratch_bytes
        self._is_small = all(step.multiply_adds <= _ALONE for step in steps)
        places, shared = [], _STATE_BYTES
        for slot, size in buffers.items():
            places.append((slot, shared))
            shared += -(-size // ALIGNMENT) * ALIGNMENT
        self._places = tuple(places)  # slot and offset of what threads share
        self._shared = shared

    def __call__(self, block: Block) -> list[int]:
        """Run the entries.

        Args:
            block: The arguments but for the memory that is lent here.

        Returns:
            The state block as the kernel left it; see `codegen.cpu.arguments.State`.
        """
        threads = 1 if self._is_small else thread_count()
        with WORKSPACE.borrow(self._shared + threads * self._scratch_bytes) as loan:
            start = loan.address
            block[_STATE] = start
            block[_SCRATCH] = start + self._shared
            for slot, offset in self._places:
                block[slot] = start + offset
            state = loan.memory[:_STATE_BYTES].view(np.int64)
            state.fill(0)
            arguments, _ = block.buffer_info()
            for entry, items, multiply_adds, cost in self._steps:
                run_sliced(entry, arguments, threads, state, slices(items, multiply_adds, cost))
            record: list[int] = state.tolist()
            return record
