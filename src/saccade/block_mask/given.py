"""Given blocks: torch's block lists, read and checked.

The way back from `convert`: what someone else sorted into blocks is taken as the truth, and so it must be
well formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.analysis.runs import BlockKind, Runs
from saccade.block_mask.arguments import block_size, checked_lengths
from saccade.block_mask.snapshot import host_array
from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError

Int64s = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class GivenBlocks:
    """Blocks read from torch's lists, with their sizes."""

    runs: Runs
    lengths: tuple[int, int]  # queries, keys
    block_size: tuple[int, int]


def require_torch(block_mask: object) -> None:
    """Check that something is a BlockMask of torch.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not isinstance(block_mask, TorchBlockMask):
        kind = type(block_mask)
        raise ArgumentTypeError(
            "from_torch() expects a torch.nn.attention.flex_attention.BlockMask, "
            f"got a {kind.__module__}.{kind.__qualname__}"
        )


def read_blocks(
    partial: tuple[Tensor, Tensor],
    full: tuple[Tensor | None, Tensor | None],
    size: int | tuple[int, int],
    seq_lengths: tuple[int, int] | None,
) -> GivenBlocks:
    """Read torch's block lists; see `BlockMask.from_kv_blocks`.

    Args:
        partial: `kv_num_blocks` and `kv_indices`.
        full: `full_kv_num_blocks` and `full_kv_indices`, or None twice.
        size: Tokens a block.
        seq_lengths: Queries and keys, or None for whole blocks.
    """
    if (full[0] is None) != (full[1] is None):
        missing = "full_kv_num_blocks" if full[0] is None else "full_kv_indices"
        raise ArgumentError(
            f"full_kv_num_blocks and full_kv_indices belong together, but {missing} is None; "
            "pass both, or neither"
        )
    batch, heads, rows = _leading(partial[0])
    q_block, kv_block = block_size(size)
    if seq_lengths is None:
        seq_lengths = rows * q_block, partial[1].shape[-1] * kv_block
    _, _, q_len, kv_len = checked_lengths(None, None, *seq_lengths)
    shape = batch, heads, -(-q_len // q_block), -(-kv_len // kv_block)
    kinds = np.zeros(shape, dtype=np.uint8)
    flat = kinds.reshape(-1)
    for prefix, (counts, columns), kind in (
        ("", partial, BlockKind.PARTIAL),
        ("full_", full, BlockKind.FULL),
    ):
        if counts is None or columns is None:
            continue
        place = _listed(prefix, counts, columns, shape)
        if flat[place].any() or len(np.unique(place)) != len(place):
            raise ArgumentError(
                "a block may be listed once, as partial or as full, but "
                f"{prefix}kv_indices lists one again; remove the repetition"
            )
        flat[place] = kind
    return GivenBlocks(Runs.from_dense(kinds), (q_len, kv_len), (q_block, kv_block))


def _leading(num_blocks: Tensor) -> tuple[int, int, int]:
    """Batches, heads and rows of a list; a missing axis counts 1."""
    if not 1 <= num_blocks.dim() <= 3:
        raise ShapeError(
            "kv_num_blocks must have shape [B, H, rows] (or [H, rows], or [rows]), "
            f"got {list(num_blocks.shape)}"
        )
    batch, heads, rows = (1, 1, *num_blocks.shape)[-3:]
    return batch, heads, rows


def _listed(prefix: str, num_blocks: Tensor, indices: Tensor, shape: tuple[int, int, int, int]) -> Int64s:
    """Flat places, in a table of `shape`, of the blocks that a pair of tensors lists."""
    _, _, rows, cols = shape
    for name, tensor in (("kv_num_blocks", num_blocks), ("kv_indices", indices)):
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool:
            raise DTypeError(f"{prefix}{name} must hold integers, got {tensor.dtype}; convert it with .int()")
    if indices.shape[:-1] != num_blocks.shape:
        raise ShapeError(
            f"{prefix}kv_indices must have the shape of {prefix}kv_num_blocks and one more axis, "
            f"got {list(indices.shape)} for {list(num_blocks.shape)}"
        )
    if _leading(num_blocks) != shape[:3]:
        raise ShapeError(
            f"{prefix}kv_num_blocks must have shape {list(shape[:3])}, its last axis being the "
            f"{rows} blocks of queries that seq_lengths and BLOCK_SIZE make, got {list(num_blocks.shape)}"
        )
    counts = host_array(num_blocks).reshape(-1)
    columns = host_array(indices).reshape(counts.size, -1).astype(np.int64)
    if ((counts < 0) | (counts > columns.shape[1])).any():
        raise ArgumentError(
            f"{prefix}kv_num_blocks must lie between 0 and the {columns.shape[1]} entries of a row, "
            f"got values from {counts.min()} to {counts.max()}"
        )
    row, entry = np.nonzero(np.arange(columns.shape[1]) < counts[:, None])
    column = columns[row, entry]
    if ((column < 0) | (column >= cols)).any():
        raise ArgumentError(
            f"{prefix}kv_indices must lie between 0 and {cols - 1}, the last of the {cols} blocks of keys "
            f"that seq_lengths and BLOCK_SIZE make, got values from {column.min()} to {column.max()}"
        )
    return row * cols + column
