"""The tables of a kernel in device memory; kept on the mask, so that they are made and copied once.

Invariant: a kernel that reads tables was launched while its caller held the mask, and their memory is lent
out again only after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from saccade.backends.triton.arguments import Values
from saccade.backends.triton.graph_capture import require_no_capture
from saccade.backends.triton.ranges import Ranges, ranges_of
from saccade.block_mask import BlockMask
from saccade.block_mask.tiles import key_tile_runs, tile_runs

__all__ = ["Cut", "Tables", "longest_walk", "tables_of", "without_tables"]

_ALIGNMENT = 4  # int32s of 16 bytes


class Cut(NamedTuple):
    """How a kernel cuts a mask.

    Attributes:
        tile: Queries of a tile; by key, keys.
        step: Keys that are walked at a time; by key, queries.
        group: Query heads that share a tile; 1 by key.
        splits: Among how many programs the walk of a tile is shared.
        by_key: Whether tiles are of keys, and queries are walked.
    """

    tile: int
    step: int
    group: int = 1
    splits: int = 1
    by_key: bool = False


@final
@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of one kernel, mask and device.

    Attributes:
        tiles: Tiles of a head.
        values: They and their steps, by the names of parameters.
    """

    tiles: int
    values: Values
    _memory: Tensor  # int32, of all tables
    _streams: set[int] = field(default_factory=set)

    def lend(self) -> Values:
        """Return them, for a kernel on the present stream."""
        device = self._memory.device
        if device.type != "cpu":
            stream = torch.accelerator.current_stream(device)
            if stream.stream_id not in self._streams:
                self._streams.add(stream.stream_id)
                self._memory.record_stream(stream)
        return self.values


def tables_of(mask: BlockMask, cut: Cut, device: torch.device) -> Tables:
    """Return the tables of a mask; memoised on it.

    Args:
        mask: The mask.
        cut: How it is cut.
        device: Where the kernel runs.

    Raises:
        UnsupportedError: They are not there yet, and a graph is captured.
    """
    return mask.once(("device_tables", cut, device), lambda: _on_device(mask, cut, device))


def without_tables(mask: BlockMask | None) -> BlockMask | None:
    """Return the same mask as one on which nothing is kept yet: for trials, whose tables go with it."""
    return None if mask is None else replace(mask)


def longest_walk(mask: BlockMask, tile: int, group: int) -> int:
    """Return how many keys a tile visits at most, and 1 at least; memoised on the mask.

    Args:
        mask: The mask.
        tile: Queries of a tile.
        group: Query heads that share it.
    """
    return mask.once(
        ("longest_walk", tile, group), lambda: max(int(tile_runs(mask, tile, group).lengths().max()), 1)
    )


def _on_device(mask: BlockMask, cut: Cut, device: torch.device) -> Tables:
    require_no_capture(device, "tables of the block_mask for this kernel are not on the device")
    ranges = _ranges(mask, cut)
    sizes = [-(-len(array) // _ALIGNMENT) * _ALIGNMENT for array in ranges.arrays.values()]
    # An empty table has an address too.
    host = np.zeros(sum(sizes) + _ALIGNMENT, np.int32)
    places = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    for place, array in zip(places, ranges.arrays.values(), strict=False):
        host[place : place + len(array)] = array
    memory = torch.from_numpy(host).to(device)
    tensors = {name: memory[place:] for name, place in zip(ranges.arrays, places, strict=False)}
    steps = {"runs_b": ranges.runs_b, "runs_h": ranges.runs_h}
    return Tables(ranges.tiles, {**tensors, **steps, "tiles": ranges.tiles}, memory)


def _ranges(mask: BlockMask, cut: Cut) -> Ranges:
    if cut.by_key:
        return ranges_of(key_tile_runs(mask, cut.tile), cut.step)
    return ranges_of(tile_runs(mask, cut.tile, cut.group), cut.step, cut.splits)
