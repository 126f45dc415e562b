"""The tiles of backward kernels that are chosen where nothing else is said.

They follow from what the compiler says, not from time: for each architecture the largest tile whose innermost
loops keep everything in registers, whatever is walked, as every version of Triton that is supported compiles
it; with the next tile of the walk in flight where shared memory holds it, and two of half the size. A score
program and dropout take registers beside. Float32 in full precision is multiplied without tensor cores, out
of registers, which leaves room for little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from saccade.codegen.triton.module import padded
from saccade.codegen.triton.spec import KernelKind, Tile
from saccade.ir.dtype import DType
from saccade.problem import KernelKey

__all__ = ["backward_tile"]

_Widths: TypeAlias = Mapping[int, Tile]
"""Tiles by the largest padded head dimension that they are for."""

_FLOAT32_WIDTHS = {64: Tile(32, 32, 8, 1), 128: Tile(16, 32, 8, 1), 256: Tile(16, 16, 8, 1)}
_FLOAT32: Mapping[KernelKind, _Widths] = {
    KernelKind.QUERY_GRADIENT: _FLOAT32_WIDTHS,
    KernelKind.KEY_GRADIENT: _FLOAT32_WIDTHS,
}

_AMPERE: Mapping[KernelKind, _Widths] = {
    KernelKind.QUERY_GRADIENT: {64: Tile(128, 64, 8, 2), 128: Tile(128, 32, 8, 2), 256: Tile(64, 32, 8, 1)},
    KernelKind.KEY_GRADIENT: {64: Tile(32, 64, 4, 2), 128: Tile(32, 128, 8, 2), 256: Tile(32, 32, 8, 1)},
}

_HOPPER: Mapping[KernelKind, _Widths] = {
    KernelKind.QUERY_GRADIENT: {128: Tile(128, 64, 8, 2), 256: Tile(128, 32, 8, 2)},
    KernelKind.KEY_GRADIENT: {
        64: Tile(64, 128, 8, 2),
        # 64 rows are free of spills with a table in Triton 3.8, and in 3.6 nowhere.
        128: Tile(32, 128, 8, 3),
        256: Tile(32, 64, 8, 2),
    },
}

_BLACKWELL: Mapping[KernelKind, _Widths] = {
    KernelKind.QUERY_GRADIENT: {64: Tile(128, 64, 8, 2), 128: Tile(64, 64, 8, 2), 256: Tile(64, 32, 8, 1)},
    KernelKind.KEY_GRADIENT: {64: Tile(64, 128, 8, 2), 128: Tile(64, 64, 8, 2), 256: Tile(32, 32, 8, 2)},
}

_OTHER: Mapping[KernelKind, _Widths] = {  # for 64 KiB of shared memory
    KernelKind.QUERY_GRADIENT: {128: Tile(64, 32, 4, 1), 256: Tile(32, 16, 4, 1)},
    KernelKind.KEY_GRADIENT: {128: Tile(32, 64, 4, 1), 256: Tile(16, 32, 4, 1)},
}

_HOPPER_DROPOUT = Tile(32, 128, 8, 2)  # of keys, up to 64 wide


def backward_tile(kind: KernelKind, key: KernelKey) -> Tile:
    """Return the tile of a QUERY_GRADIENT or KEY_GRADIENT kernel.

    Args:
        kind: The kernel.
        key: Its problem; `key.target` is an architecture, as in "cuda:90".

    Example:
        >>> from saccade.problem import HeadGroups, Outputs
        >>> key = KernelKey("cuda:90", DType.BFLOAT16, 64, 64, HeadGroups.SINGLE, None, None, None, Outputs(),
        ...                 sinks=False, dropout=False, small_indices=True)
        >>> backward_tile(KernelKind.KEY_GRADIENT, key)
        Tile(rows=64, keys=128, warps=8, stages=2)
    """
    width = max(padded(key.head_dim), padded(key.value_dim))
    table = _FLOAT32 if key.dtype is DType.FLOAT32 else _table(key.target)
    if table is _HOPPER and kind is KernelKind.KEY_GRADIENT and key.dropout and width <= 64:
        return _HOPPER_DROPOUT
    return next(tile for widest, tile in table[kind].items() if width <= widest)


def _table(target: str) -> Mapping[KernelKind, _Widths]:
    """The tiles of an architecture, for 16-bit operands."""
    backend, _, arch = target.partition(":")
    if backend != "cuda" or int(arch) < 80:
        return _OTHER
    if 90 <= int(arch) < 120:
        return _HOPPER if int(arch) < 100 else _BLACKWELL
    return _AMPERE  # and cards for desktops from 120 on, of the same instructions and less memory
