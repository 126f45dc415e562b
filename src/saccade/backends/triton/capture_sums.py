"""The gradients of captured tensors: memory for what kernels give back, and what becomes of it.

Sums are float32. What kernels leave as values and places is added up here, by torch, in an order that is
always the same.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from saccade.backends.triton.arguments import Values
from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.codegen.triton.source import CapturedSum
from saccade.ir.program import Array
from saccade.problem import AttentionProblem

__all__ = ["CaptureSums"]


@final
class CaptureSums:
    """The gradients of one backward.

    Args:
        problem: The problem.
        captures: The captured tensors of the score program, by slot.
        wanted: For each of them, whether its gradient is wanted; () for none.
        device: Where kernels run.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        captures: tuple[Array, ...],
        wanted: tuple[bool, ...],
        device: torch.device,
    ) -> None:
        self._captures, self._device = captures, device
        self._rows = problem.batch * problem.q_heads
        self._lengths = {CaptureWay.PER_QUERY: problem.q_len, CaptureWay.PER_KEY: problem.kv_len}
        self._sums = {
            slot: torch.zeros(tuple(captures[slot].shape), dtype=torch.float32, device=device)
            for slot, is_wanted in enumerate(wanted)
            if is_wanted
        }

    def lend(self, values: Values, sums: tuple[CapturedSum, ...], tiles: int) -> None:
        """Put memory for what a kernel gives back among its arguments.

        Args:
            values: The arguments.
            sums: What it gives back.
            tiles: How many tiles of a head it has.
        """
        for each in sums:
            if not each.way.is_kept:
                total = self._sums[each.slot]
                values[each.value] = total if total.numel() else total.new_zeros(1)
                continue
            size = self._rows * self._lengths.get(each.way, tiles)
            values[each.value] = torch.empty(size, dtype=torch.float32, device=self._device)
            values[each.index] = torch.empty(size, dtype=torch.int64, device=self._device)

    def add(self, values: Values, sums: tuple[CapturedSum, ...]) -> None:
        """Add up what a kernel left in the memory that was lent.

        Args:
            values: Its arguments.
            sums: What it gave back.
        """
        for each in sums:
            total = self._sums[each.slot]
            if each.way.is_kept and total.numel():
                value, index = values[each.value], values[each.index]
                assert isinstance(value, Tensor), "it was lent"
                assert isinstance(index, Tensor), "it was lent"
                total.view(-1).index_put_((index,), value, accumulate=True)

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Return the gradients by slot, of their tensors' dtypes and devices; () where none is wanted."""
        if not self._sums:
            return ()
        found: list[Tensor | None] = [None] * len(self._captures)
        for slot, total in self._sums.items():
            capture = self._captures[slot]
            assert isinstance(capture, Tensor), "numpy arrays want no gradient"
            found[slot] = total.to(device=capture.device, dtype=capture.dtype)
        return tuple(found)
