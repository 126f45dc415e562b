"""A mod as torch itself computes it: called with tensors without axes, pair by pair.

That is what a mod's arguments are by definition (torch's own flex_attention maps it over them), so types are
promoted as the mod's author may expect. A fault of the tracer shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from saccade.ir.program import Program
from saccade.ir.structure import ModKind
from saccade.ir.verify import verify
from saccade.tracing import trace

Sizes = tuple[int, int, int, int]
SIZES = (2, 2, 4, 5)  # batch, heads, q_len, kv_len


def all_pairs(sizes: Sizes = SIZES) -> np.ndarray:
    """Every (b, h, q_idx, kv_idx), as rows."""
    return np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1).reshape(-1, 4)


def scores(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Scores between -2 and 2, none of them 0."""
    return torch.linspace(-2, 2.1, count, dtype=dtype)


def by_torch(mod: Callable[..., Any], kind: ModKind, pairs: np.ndarray) -> torch.Tensor:
    """The mod's result for each pair, in the type it returns."""
    results = []
    for pair, score in zip(pairs.tolist(), scores(len(pairs)), strict=True):
        indices = [torch.tensor(index) for index in pair]
        args = indices if kind is ModKind.MASK else [score, *indices]
        results.append(torch.as_tensor(mod(*args)))
    return torch.stack(results).detach()


def by_program(program: Program, pairs: np.ndarray) -> np.ndarray:
    """The program's result for each pair."""
    args = tuple(pairs.T)
    return program(*args) if program.kind is ModKind.MASK else program(scores(len(pairs)).numpy(), *args)


def check(
    mod: Callable[..., Any], kind: ModKind, pairs: np.ndarray | None = None, *, tolerance: float = 2e-6
) -> Program:
    """Trace a mod, compare with torch, and return the program."""
    pairs = all_pairs() if pairs is None else pairs
    program = trace(mod, kind)
    verify(program.structure)
    expected = by_torch(mod, kind, pairs)
    if kind is ModKind.MASK:
        assert expected.dtype is torch.bool
        np.testing.assert_array_equal(by_program(program, pairs), expected.numpy())
    else:
        np.testing.assert_allclose(
            by_program(program, pairs), expected.float().numpy(), rtol=tolerance, atol=tolerance
        )
    return program
