"""Which rows a program of the grid works on, and where they stand in tensors of queries.

A tile is consecutive queries of one head, or, packed, of all the heads of a group: row r is then query
`first + r // group` of the group's head `r % group`. Rows that are no query of the tile repeat its last one,
so that what they read is there; they are never written.
"""

from __future__ import annotations

from saccade.codegen.triton.spec import KernelKind, TritonSpec, Walk
from saccade.codegen.triton.template import Lines, fill
from saccade.problem import HeadGroups

__all__ = ["FLAT_ROWS", "query_rows", "row_mask", "tile_place"]

_PLACE = """\
program = tl.program_id(0)
<<split>>
<<tile>>
<<head>>
kv_b = b % kv_batch
rows = tl.arange(0, BLOCK_M)
<<rows>>
live = queries < last
queries = tl.minimum(queries, last - 1)
q_idx = queries[:, None]
<<flat>>
"""

FLAT_ROWS = "row = (b.to(tl.int64) * q_heads + heads) * q_len + queries  # in [B, Hq, Q]"
"""Where the rows of a tile stand in dense tensors of one number a row: names `row` [BLOCK_M], int64."""


def tile_place(spec: TritonSpec) -> Lines:
    """Return lines that find the place of a tile of queries.

    They name `b`, `kv_b`, `kv_head`, `h` (packed: [BLOCK_M, 1]), `tile`, `first`, `last`, and of its rows
    `queries`, `heads`, `live` ([BLOCK_M]; heads only packed) and `q_idx` [BLOCK_M, 1]. What needs dense rows
    first thing has them here too; where results alone do, registers stay free for the walk.
    """
    return fill(
        _PLACE,
        split=_SPLIT if spec.kind is KernelKind.SPLIT else (),
        tile=_TILE_OF_TABLE if spec.walk is Walk.TABLE else _tile_of_all(spec),
        head=_PACKED_HEAD if spec.packed else _head(spec),
        flat=() if spec.kind in (KernelKind.FORWARD, KernelKind.SPLIT) else (FLAT_ROWS,),
        rows=_PACKED_ROWS if spec.packed else ("heads = h", "queries = first + rows"),
    )


_SPLIT = ("split = program % splits", "program = program // splits")

_TILE_OF_TABLE = (
    "tile = tl.load(order + program % tiles)",
    "first = tl.load(tile_first + tile)",
    "last = tl.load(tile_last + tile)",
)


def _tile_of_all(spec: TritonSpec) -> Lines:
    queries = "BLOCK_M // group" if spec.packed else "BLOCK_M"
    return (
        "tile = program % tiles",
        f"first = tile * ({queries})" if spec.packed else f"first = tile * {queries}",
        f"last = tl.minimum(first + {queries}, q_len)",
    )


_PACKED_HEAD = ("b = program // tiles // kv_heads", "kv_head = program // tiles % kv_heads")

_PACKED_ROWS = (
    "heads = kv_head * group + rows % group",
    "h = heads[:, None]",
    "queries = first + rows // group",
)


def _head(spec: TritonSpec) -> Lines:
    grouped = spec.key.head_groups is HeadGroups.GROUPED
    return (
        "b = program // tiles // q_heads",
        "h = program // tiles % q_heads",
        "kv_head = h // group" if grouped else "kv_head = h",
    )


def query_rows(name: str) -> str:
    """Return where the rows of a tile [BLOCK_M, 1] begin in a tensor of queries, in elements of 64 bits."""
    return f"(b * {name}_b + heads * {name}_h + queries * {name}_q)[:, None]"


def row_mask(size: int, block: int, axis: str, limit: str) -> str:
    """Return which places of a tile are written: those of live rows, in the columns that are there.

    Args:
        size: How many columns there are.
        block: How many a tile has.
        axis: The lines' name for the columns.
        limit: The constant that is `size`.
    """
    return "live[:, None]" if size == block else f"live[:, None] & ({axis} < {limit})[None, :]"
