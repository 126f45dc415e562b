"""What a row of the catalogue is.

A case builds its mods afresh for given sizes, so that every test has tensors, and gradients, of its own. The
tensors are created with device and dtype named, so that torch's defaults may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saccade.signatures import MaskMod, ScoreMod

PICTURED = ((4, 4), (4, 6), (6, 4))
"""The (q_len, kv_len) of the exact arrays."""


@dataclass(frozen=True)
class Sizes:
    """The problem that a case is built for. Every case admits any sizes with max(q_len, kv_len) >= 4."""

    q_len: int = 4
    kv_len: int = 4
    batch: int = 2
    heads: int = 2  # query heads
    dtype: torch.dtype = torch.float64  # of every floating tensor

    @property
    def length(self) -> int:
        """Positions that tables over positions must have, whichever axis reads them."""
        return max(self.q_len, self.kv_len)

    @property
    def positions(self) -> Tensor:
        """[length] int64: 0, 1, 2, ..."""
        return torch.arange(self.length, device="cpu")

    def floats(self, *shape: int) -> Tensor:
        """Normal numbers, the same for the same shape."""
        generator = torch.Generator("cpu").manual_seed(sum((i + 1) * n for i, n in enumerate(shape)) + 7)
        return torch.randn(shape, generator=generator, dtype=self.dtype, device="cpu")

    def learned(self, *shape: int) -> Tensor:
        """The same as a leaf that wants a gradient."""
        return self.floats(*shape).requires_grad_()

    def integers(self, *values: int) -> Tensor:
        """[len(values)] int64."""
        return torch.tensor(values, dtype=torch.int64, device="cpu")


@dataclass(frozen=True)
class Mods:
    """What a case builds."""

    mask: MaskMod | None = None
    score: ScoreMod | None = None
    learned: dict[str, Tensor] = field(default_factory=dict)  # the leaves that want a gradient, by name
    # The same mask in a form that plain torch evaluates everywhere, where `mask` reads out of range at pairs
    # that it hides by itself; for the oracle.
    plain_mask: MaskMod | None = None


@dataclass(frozen=True)
class Case:
    """One row: how to build the mods, what they must give, and what they need."""

    name: str
    build: Callable[[Sizes], Mods]
    # Rows of x and . apart by spaces, one picture for each of PICTURED; of batch entry and head `at`.
    pictures: tuple[str, str, str] | None = None
    # The (4, 4) score of batch entry and head `at` where every score was 1.
    scores: list[list[float]] | None = None
    at: tuple[int, int] = (0, 0)
    causal: bool = False  # the mask never shows a key after the query
    reads_b: bool = False
    reads_h: bool = False
    # The functions must be asked pair by pair: they take 0-d indices alone, or fail where a pair is hidden.
    pairwise: bool = False
    # What torch's own flex_attention can do with it in eager mode, on CPU.
    torch_forward: bool = True
    torch_backward: bool = True  # its dense fallback has no gradient for parts of tensors, nor for 0-d ones

    def __str__(self) -> str:
        return self.name

    def visible(self, q_len: int, kv_len: int) -> Tensor:
        """[q_len, kv_len] bool: the exact mask of batch entry and head `at`, drawn by hand."""
        assert self.pictures is not None
        rows = self.pictures[PICTURED.index((q_len, kv_len))].split()
        assert len(rows) == q_len
        assert all(len(row) == kv_len and set(row) <= {"x", "."} for row in rows)
        return torch.tensor([[cell == "x" for cell in row] for row in rows], device="cpu")
