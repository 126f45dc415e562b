"""The arrays of R3, written out: `M` is "−" of the requirements, `finfo(dtype).min`."""

from __future__ import annotations

import torch
from torch import Tensor

M = "−"

CAUSAL_4 = [[0, M, M, M], [0, 0, M, M], [0, 0, 0, M], [0, 0, 0, 0]]
CAUSAL_2_4 = [[0, 0, 0, M], [0, 0, 0, 0]]
CAUSAL_4_6 = [
    [0, 0, 0, M, M, M],
    [0, 0, 0, 0, M, M],
    [0, 0, 0, 0, 0, M],
    [0, 0, 0, 0, 0, 0],
]
WINDOW_1 = [
    [M, 0, 0, M, M, M],
    [M, M, 0, 0, M, M],
    [M, M, M, 0, 0, M],
    [M, M, M, M, 0, 0],
]
FIVE = [
    [M, M, M, M, M],
    [M, M, M, M, M],
    [M, M, M, M, M],
    [M, M, M, 0, M],
    [M, M, M, 0, 0],
]
PADDED = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
PREFIXED = torch.cat([torch.ones(2, 2, dtype=torch.int64), PADDED], dim=1)
PADDED_4 = [[M, M, M, M], [M, 0, M, M], [M, 0, 0, M], [M, 0, 0, 0]]
PADDED_PREFIXED = [
    [0, 0, M, M, M, M],
    [0, 0, M, 0, M, M],
    [0, 0, M, 0, 0, M],
    [0, 0, M, 0, 0, 0],
]


def written_out(*matrices: list[list[object]], dtype: torch.dtype = torch.float32) -> Tensor:
    """[B, 1, Q, K] of matrices of 0 and M."""
    lowest = torch.finfo(dtype).min
    rows = [[[lowest if cell == M else float(str(cell)) for cell in row] for row in one] for one in matrices]
    return torch.tensor(rows, dtype=torch.float64).to(dtype)[:, None]


def assert_is(
    found: Tensor | None, *matrices: list[list[object]], dtype: torch.dtype = torch.float32
) -> None:
    assert found is not None
    assert found.dtype is dtype
    expected = written_out(*matrices, dtype=dtype)
    assert found.shape == expected.shape
    assert torch.equal(found, expected), found
