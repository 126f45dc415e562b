"""The card's two ceilings, measured in the run that is held against them: matrix products and copied bytes.

Owns what is measured and the floor that follows: no call is faster than its operations at the one rate, nor
than its bytes at the other. The product is of random numbers: on zeros a card runs faster than it can in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import final

import torch

from saccade.bench.gpu.clock import Clock, time_by_turns
from saccade.bench.sizes import free_bytes

__all__ = ["Bound", "Ceilings", "Cost", "Floor", "measure_ceilings"]

_SIDE = 8192  # rows and columns of the matrices
_COPIED = 2**32  # bytes
_SHARE = 0.2  # of the free memory, that the copy may take
_ROUNDS = 10


class Bound(str, Enum):
    """What a call has too little of, at the least."""

    MATRIX = "matrix"  # operations a second
    BANDWIDTH = "bandwidth"  # bytes a second


@final
@dataclass(frozen=True)
class Cost:
    """What a call must do.

    Attributes:
        flops: Operations of its matrix products.
        bytes: Each input read once and each output written once.
    """

    flops: float
    bytes: float


@final
@dataclass(frozen=True)
class Floor:
    """The shortest time by arithmetic.

    Attributes:
        seconds: The larger of two times: operations at the matrix rate, bytes at the bandwidth.
        bound: Which of the two it is.
    """

    seconds: float
    bound: Bound


@final
@dataclass(frozen=True)
class Ceilings:
    """The rates of a card.

    Attributes:
        matrix_flops: Operations a second of a large product of bfloat16 matrices.
        copy_bytes: Bytes a second of a large copy on the device, read and written.
    """

    matrix_flops: float
    copy_bytes: float

    def floor(self, cost: Cost) -> Floor:
        """Return how long a call takes at the least.

        Example:
            >>> Ceilings(8e14, 4e12).floor(Cost(flops=8e11, bytes=4e8))
            Floor(seconds=0.001, bound=<Bound.MATRIX: 'matrix'>)
        """
        by_matrix, by_bytes = cost.flops / self.matrix_flops, cost.bytes / self.copy_bytes
        return Floor(by_matrix, Bound.MATRIX) if by_matrix >= by_bytes else Floor(by_bytes, Bound.BANDWIDTH)

    def larger(self, other: Ceilings) -> Ceilings:
        """The larger of two measurements of each."""
        return Ceilings(max(self.matrix_flops, other.matrix_flops), max(self.copy_bytes, other.copy_bytes))

    def as_json(self) -> dict[str, float | int | None]:
        """The rates by name with unit, as a report holds them."""
        return {"bfloat16_matrix_flop_s": self.matrix_flops, "copy_bytes_s": self.copy_bytes}


def measure_ceilings(
    clock: Clock, device: torch.device, *, side: int = _SIDE, copied: int = _COPIED, rounds: int = _ROUNDS
) -> Ceilings:
    """Measure both rates; medians of some runs.

    Args:
        clock: Who times.
        device: What is measured.
        side: Rows and columns of the matrices.
        copied: Bytes to copy, fewer where they would not fit.
        rounds: Runs of each.

    Example:
        >>> from saccade.bench.gpu.clock import HostClock
        >>> found = measure_ceilings(HostClock(), torch.device("cpu"), side=64, copied=2**16, rounds=1)
        >>> found.matrix_flops > 0 and found.copy_bytes > 0
        True
    """
    generator = torch.Generator(device).manual_seed(0)
    left, right = torch.randn(
        2, side, side, generator=generator, device=device, dtype=torch.float32
    ).bfloat16()
    product = torch.empty_like(left)
    free = free_bytes(device)
    size = copied if free is None else min(copied, int(_SHARE * free))
    source = torch.randint(256, (size,), generator=generator, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    turns = time_by_turns(
        {
            "matrix": lambda: partial(torch.mm, left, right, out=product),
            "copy": lambda: partial(target.copy_, source),
        },
        clock,
        rounds=rounds,
    )
    times = {name: timing.median_s for name, timing in turns.timings.items()}
    return Ceilings(2 * side**3 / times["matrix"], 2 * size / times["copy"])
