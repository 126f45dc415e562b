"""The sizes of an attention call, and how far a machine must lower them.

Owns the estimate of what a comparison needs at its peak. Invariant: sizes are lowered by halves, the batch
first, then the heads, then the lengths, so that a mask keeps its shape as long as possible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from saccade.bench.memory import available_bytes
from saccade.errors import ArgumentError

__all__ = ["AttentionSize", "fit_size", "free_bytes"]

# Measured on the eager backend, with a score_mod and float32 scores: 24 bytes a score forward, 20 more in the
# backward pass; the dense mask of the peer takes the rest.
_BYTES_A_SCORE = 52
_SHARE = 0.8  # of the free memory
_SHORTEST = 128


@final
@dataclass(frozen=True)
class AttentionSize:
    """How large a call is.

    Attributes:
        batch: B.
        heads: Hq, and Hkv alike.
        q_len: Q.
        kv_len: K.
        head_dim: D, and Dv alike.

    Example:
        >>> str(AttentionSize(2, 4, 1024, 1024, 64))
        'B=2 H=4 S=1024 D=64'
    """

    batch: int = 16
    heads: int = 16
    q_len: int = 8192
    kv_len: int = 8192
    head_dim: int = 64

    def __post_init__(self) -> None:
        for name, number in self.as_dict().items():
            if number < 1:
                raise ArgumentError(f"the sizes of a comparison must be at least 1, got {name}={number}")

    def __str__(self) -> str:
        square = self.q_len == self.kv_len
        lengths = f"S={self.q_len}" if square else f"Q={self.q_len} K={self.kv_len}"
        return f"B={self.batch} H={self.heads} {lengths} D={self.head_dim}"

    @property
    def scores(self) -> int:
        """Pairs of a query and a key, over all batches and heads."""
        return self.batch * self.heads * self.q_len * self.kv_len

    @property
    def peak_bytes(self) -> int:
        """Memory that a comparison takes at its peak, as estimated."""
        tensors = 16 * 4 * self.batch * self.heads * max(self.q_len, self.kv_len) * self.head_dim
        return self.scores * _BYTES_A_SCORE + tensors

    def as_dict(self) -> dict[str, int]:
        """The sizes by name, as a report holds them."""
        return dict(vars(self))


def fit_size(size: AttentionSize, device: torch.device) -> tuple[AttentionSize, str]:
    """Lower a size until a comparison of it fits the free memory.

    Args:
        size: What is wanted.
        device: Where it is to run.

    Returns:
        The size to use, and a sentence that says what was lowered; empty where nothing was.

    Example:
        >>> fit_size(AttentionSize(1, 1, 64, 64, 16), torch.device("cpu"))[1]
        ''
    """
    free = free_bytes(device)
    fitted = size
    while free is not None and fitted.peak_bytes > _SHARE * free:
        lower = _halved(fitted)
        if lower is None:
            break
        fitted = lower
    if fitted == size:
        return size, ""
    return fitted, (
        f"Scaled down from {size} to {fitted}: it would take about {_gigabytes(size.peak_bytes)}, and "
        f"{_gigabytes(free or 0)} are free."
    )


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device, in bytes; None where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def _halved(size: AttentionSize) -> AttentionSize | None:
    """The size with its first divisible axis halved; None where nothing is left to halve."""
    if size.batch > 1:
        return replace(size, batch=size.batch // 2)
    if size.heads > 1:
        return replace(size, heads=size.heads // 2)
    if max(size.q_len, size.kv_len) > _SHORTEST:
        return replace(size, q_len=-(-size.q_len // 2), kv_len=-(-size.kv_len // 2))
    return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
