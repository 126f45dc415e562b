"""Where a mask matters: `BlockMask` and the ways to make, cut, convert, walk and draw one.

Owns the stored blocks together with the mod that decides inside a partial one. It asks `tracing` what a mod
means and `analysis` which blocks follow; it computes no attention and knows no engine.
"""

from saccade.block_mask.cached import create_block_mask_cached
from saccade.block_mask.create import create_block_mask, create_mask
from saccade.block_mask.mask import BlockMask
from saccade.block_mask.tiles import TileRuns, key_tile_runs, tile_runs

__all__ = [
    "BlockMask",
    "TileRuns",
    "create_block_mask",
    "create_block_mask_cached",
    "create_mask",
    "key_tile_runs",
    "tile_runs",
]
