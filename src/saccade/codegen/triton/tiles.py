"""Tiles by default, and the few that are worth trying.

They follow from what a tile needs and a card has, not from times. Shared memory holds what does not move and
`stages` tiles of what does; registers hold the sums in float32, the scores and their copy in the type of the
operands. In 16 bits, with keys through descriptors on Hopper, they compile with hardly a register spilled, or
none.
"""

from __future__ import annotations

from saccade.codegen.triton.backward_tiles import backward_tile
from saccade.codegen.triton.module import padded
from saccade.codegen.triton.spec import KernelKind, Tile
from saccade.ir.dtype import DType
from saccade.problem import KernelKey

__all__ = ["default_tile", "shared_bytes", "tile_choices"]

_HOPPER = 90
_SMALL_SHARED = (86, 89, 120, 121)  # compute capabilities with 99 KiB for a block
_DESCRIBED = 1024  # barriers and alignment

_ROWS_ALONE = {KernelKind.COMBINE: Tile(16, 16, 4, 1), KernelKind.DELTA: Tile(64, 16, 4, 1)}
_GRADIENTS = (KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT)

# By the larger of D and Dv, padded: up to 64, 128 and 256.
_HALVES = {
    "hopper": {
        KernelKind.FORWARD: (Tile(128, 64, 4, 3), Tile(128, 128, 8, 2), Tile(128, 64, 8, 2)),
        KernelKind.SPLIT: (Tile(16, 128, 4, 3), Tile(16, 128, 4, 2), Tile(16, 64, 4, 2)),
    },
    "ampere": {
        KernelKind.FORWARD: (Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 64, 8, 2)),
        KernelKind.SPLIT: (Tile(16, 64, 4, 3), Tile(16, 64, 4, 3), Tile(16, 64, 4, 2)),
    },
    "small": {
        KernelKind.FORWARD: (Tile(128, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 32, 8, 1)),
        KernelKind.SPLIT: (Tile(16, 64, 4, 3), Tile(16, 64, 4, 2), Tile(16, 32, 4, 2)),
    },
}

# float32 takes twice the room, and without tf32 no matrix unit: products go through registers.
_SINGLES = {
    KernelKind.FORWARD: (Tile(32, 32, 4, 2), Tile(16, 32, 4, 2), Tile(16, 32, 8, 1)),
    KernelKind.SPLIT: (Tile(16, 32, 4, 2), Tile(16, 32, 4, 2), Tile(16, 32, 8, 1)),
}

_TRIED = ((128, 64), (128, 128), (64, 128), (64, 64))


def default_tile(kind: KernelKind, key: KernelKey) -> Tile:
    """Return the tile of a kernel where nobody says otherwise.

    Args:
        kind: The kernel.
        key: Its part of the problem; its target tells the card, of which one that is no "cuda:..." counts as
            Ampere.

    Example:
        >>> from saccade.problem import HeadGroups, Outputs
        >>> key = KernelKey("cuda:90", DType.BFLOAT16, 128, 128, HeadGroups.SINGLE, None, None, None,
        ...                 Outputs(), sinks=False, dropout=False, small_indices=True)
        >>> default_tile(KernelKind.FORWARD, key)
        Tile(rows=128, keys=128, warps=8, stages=2)
    """
    if kind in _ROWS_ALONE:
        return _ROWS_ALONE[kind]
    if kind in _GRADIENTS:
        return backward_tile(kind, key)
    table = _SINGLES if key.dtype is DType.FLOAT32 else _HALVES[_card(key.target)]
    tile = table[kind][_width(key)]
    if key.dropout and kind is KernelKind.FORWARD and tile.rows * tile.keys > 64 * 64:
        # Random words take registers, and serve 128 keys at once.
        return Tile(tile.rows, tile.keys, 8, 2)
    return tile


def tile_choices(kind: KernelKind, key: KernelKey, limit: int) -> tuple[Tile, ...]:
    """Return the tiles worth trying, the default first.

    Args:
        kind: The kernel.
        key: Its part of the problem.
        limit: Bytes of shared memory that a block may use.
    """
    default = default_tile(kind, key)
    if kind in _ROWS_ALONE or kind is KernelKind.SPLIT or key.dtype is DType.FLOAT32:
        return (default,)
    others = [
        Tile(rows, keys, warps, stages)
        for rows, keys in _TRIED
        for warps in ((4, 8) if rows * keys < 128 * 128 else (8,))
        for stages in (2, 3)
    ]
    fitting = [tile for tile in others if tile != default and shared_bytes(kind, key, tile) <= limit]
    return (default, *fitting)


def shared_bytes(kind: KernelKind, key: KernelKey, tile: Tile) -> int:
    """Return about how much shared memory a tile takes: what stays, and `stages` times what moves.

    Args:
        kind: A kernel with keys.
        key: Its part of the problem.
        tile: The tile.
    """
    both = padded(key.head_dim) + padded(key.value_dim)
    if kind is KernelKind.KEY_GRADIENT:
        stays, moves = tile.keys * both, tile.rows * both
    elif kind is KernelKind.QUERY_GRADIENT:
        stays, moves = tile.rows * both, tile.keys * both
    else:
        stays, moves = tile.rows * padded(key.head_dim), tile.keys * both
    return (stays + tile.stages * moves) * key.dtype.itemsize + _DESCRIBED


def _card(target: str) -> str:
    backend, _, arch = target.partition(":")
    number = int(arch) if backend == "cuda" and arch.isdigit() else 80
    if number in _SMALL_SHARED:
        return "small"
    return "hopper" if number >= _HOPPER else "ampere"


def _width(key: KernelKey) -> int:
    widest = max(padded(key.head_dim), padded(key.value_dim))
    return 0 if widest <= 64 else 1 if widest <= 128 else 2
