"""The kernel of the gradients of keys and values, and of what captured tensors receive by key.

A program of the grid holds a tile of keys and walks the queries that see it, head by head of the group and,
where all batches share their keys, batch by batch:

    dV = sum over queries of (P·f)ᵀ·dO,    dK = scale · sum over queries of dSᵀ·Q

Products are made with keys along rows, so that nothing is transposed in registers. What is summed needs no
other program, so that results are the same to the bit from run to run, but for atomic additions where the way
of a captured gradient says so.
"""

from __future__ import annotations

from saccade.codegen.triton.backward_captures import CaptureSums
from saccade.codegen.triton.backward_tile import BackwardTile, Form, column_limit
from saccade.codegen.triton.dropout import dropout_functions
from saccade.codegen.triton.module import write_module
from saccade.codegen.triton.parameters import (
    Parameter,
    dropout_parameters,
    numbers,
    poison_parameters,
    range_parameters,
    row_parameters,
    tensor_parameters,
)
from saccade.codegen.triton.softmax import precision
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import TritonSpec, Walk
from saccade.codegen.triton.template import Lines, fill
from saccade.codegen.triton.walk import Turn, queries_axis, walk

__all__ = ["write_key_gradient"]

_KERNEL = """\
program = tl.program_id(0)
<<tile>>
kv_b = program // tiles // kv_heads
kv_head = program // tiles % kv_heads
columns = tl.arange(0, BLOCK_N)
live = columns < last - first
keys = tl.minimum(first + columns, last - 1)  # rows of padding repeat the last key, and are never written
kv_idx = keys[:, None]

dims = tl.arange(0, BLOCK_D)
value_dims = tl.arange(0, BLOCK_V)
<<tiles>>
shares = batch // kv_batch
for turn in range(shares * group):
    b = kv_b * shares + turn // group
    h = kv_head * group + turn % group
    bh = b.to(tl.int64) * q_heads + h
    <<before>>
    <<walk>>
    <<end>>

<<results>>
"""

_TURN = """\
<<columns>>
<<query>>
<<weights>>
<<keep>>
<<value>>
<<grad>>
<<captures>>
<<key>>
"""


def write_key_gradient(spec: TritonSpec) -> TritonSource:
    """Write a KEY_GRADIENT kernel."""
    tile = BackwardTile(spec)
    sums = CaptureSums(spec, tile.gradient, of_keys=True)
    wanted = spec.key.wanted
    assert wanted is not None, "a kernel of gradients wants some"
    assert tile.has_grad or wanted.value, "nothing is wanted of this kernel"
    assert not spec.descriptors, "this kernel walks queries, and reads a tile of keys once"
    body = fill(
        _KERNEL,
        tile=_TILE_OF_TABLE if spec.walk is Walk.TABLE else _TILE_OF_ALL,
        tiles=_tiles(spec, tile),
        before=(
            *_queries_before("query", "dims"),
            *_queries_before("grad_out", "value_dims"),
            *tile.before,
            *sums.before,
        ),
        walk=walk(
            spec,
            queries_axis(),
            Turn(
                full=_turn(spec, tile, sums, Form(bounded=False, masked=False)),
                partial=_turn(spec, tile, sums, Form(bounded=True, masked=True)),
                rest=_turn(spec, tile, sums, Form(bounded=True, masked=False)),
            ),
        ),
        end=("row_number = bh * kv_len + keys", *sums.end) if sums.sums else (),
        results=(
            *(_stored(spec, "grad_key", "dims", "grad_key_tile * scale") if wanted.key else ()),
            *(_stored(spec, "grad_value", "value_dims", "grad_value_tile") if wanted.value else ()),
        ),
    )
    return write_module(
        spec,
        "The gradients of keys and values, one tile of keys.",
        "key_gradient",
        tuple(dict.fromkeys((*_parameters(spec, tile), *tile.parameters, *sums.parameters))),
        body,
        (*tile.functions, *dropout_functions(spec)),
        sums.sums,
    )


def _tiles(spec: TritonSpec, tile: BackwardTile) -> Lines:
    """The keys and values of the tile, and the sums of their gradients."""
    wanted = spec.key.wanted
    assert wanted is not None
    lines = _rows(spec, "key", "dims")
    if tile.has_grad:
        lines += _rows(spec, "value", "value_dims")
    if wanted.key:
        lines += ("grad_key_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)",)
    if wanted.value:
        lines += ("grad_value_tile = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)",)
    return lines


def _turn(spec: TritonSpec, tile: BackwardTile, sums: CaptureSums, form: Form) -> Lines:
    """The lines of a turn."""
    wanted, dot = spec.key.wanted, precision(spec)
    assert wanted is not None
    # What is read late is in registers for a shorter time.
    mean = (f"mean = {_row_numbers('delta', '0.0', form)}",)
    weighted = "tl.dot(used.to(grad_out_tile.dtype), grad_out_tile, grad_value_tile"
    value = (*tile.used_weights(form), f"grad_value_tile = {weighted}{dot})") if wanted.value else ()
    of_weights = (f"grad_weights = tl.dot(value_tile, tl.trans(grad_out_tile){dot})", *mean, *tile.grad(form))
    key = f"grad_key_tile = tl.dot(grad_score.to(query_tile.dtype), query_tile, grad_key_tile{dot})"
    return fill(
        _TURN,
        columns=_BOUNDED_COLUMNS if form.bounded else _COLUMNS,
        query=(
            f"query_tile = {_walked(spec, 'query', 'dims', form)}",
            f"grad_out_tile = {_walked(spec, 'grad_out', 'value_dims', form)}",
            *tile.lse(_row_numbers("lse", _NO_KEY, form)),
            f"product = tl.dot(key_tile, tl.trans(query_tile){dot})",
        ),
        weights=tile.weights(form),
        keep=tile.keep(),
        value=value,
        grad=of_weights if tile.has_grad else (),
        captures=sums.turn("visible" if tile.visible(form) else None),
        key=(key,) if wanted.key else (),
    )


_TILE_OF_TABLE = (
    "tile = tl.load(order + program % tiles)",
    "first = tl.load(tile_first + tile)",
    "last = tl.load(tile_last + tile)",
)

_TILE_OF_ALL = (
    "tile = program % tiles",
    "first = tile * BLOCK_N",
    "last = tl.minimum(first + BLOCK_N, kv_len)",
)

_COLUMNS = ("queries = start_m + tl.arange(0, BLOCK_M)", "q_idx = queries[None, :]")
_BOUNDED_COLUMNS = (
    "queries = start_m + tl.arange(0, BLOCK_M)",
    "inside = (queries < stop)[None, :]",
    "queries = tl.minimum(queries, stop - 1)",
    "q_idx = queries[None, :]",
)

_NO_KEY = 'float("-inf")'


def _rows(spec: TritonSpec, name: str, axis: str) -> Lines:
    """The rows of the tile of keys."""
    guard = "".join(f", mask={limit}, other=0.0" for limit in column_limit(spec, axis))
    return (
        f"{name}_head = {_head_of(name)}",
        f"{name}_rows = (keys - first)[:, None] * {name}_k.to(tl.int32)",
        f"{name}_tile = tl.load({name}_head + ({name}_rows + {axis}[None, :]){guard})",
    )


def _head_of(name: str) -> str:
    """Where the tile begins in a tensor of keys: a scalar of 64 bits."""
    in_heads = f"kv_b.to(tl.int64) * {name}_b + kv_head.to(tl.int64) * {name}_h"
    return f"{name} + {in_heads} + first * {name}_k"


def _stored(spec: TritonSpec, name: str, axis: str, value: str) -> Lines:
    """Write a gradient's rows."""
    mask = " & ".join(("live[:, None]", *column_limit(spec, axis)))
    # Counted anew from the tile's first row: addresses of rows, kept over all walks, would take registers.
    rows = f"columns[:, None] * {name}_k.to(tl.int32) + {axis}[None, :]"
    return (
        f"{name}_head = {_head_of(name)}",
        f"tl.store({name}_head + ({rows}), ({value}).to({name}.dtype.element_ty), mask={mask})",
    )


def _queries_before(name: str, axis: str) -> Lines:
    """What stands before a walk over the queries of a tensor: 32 bits hold an offset inside a tile."""
    return (
        f"{name}_head = {name} + b.to(tl.int64) * {name}_b + h.to(tl.int64) * {name}_h",
        f"{name}_offsets = tl.arange(0, BLOCK_M)[:, None] * {name}_q.to(tl.int32) + {axis}[None, :]",
    )


def _walked(spec: TritonSpec, name: str, axis: str, form: Form) -> str:
    """The tile of the queries from `start_m` on; rows that are not there are 0."""
    limits = [*(["tl.trans(inside)"] if form.bounded else []), *column_limit(spec, axis)]
    guard = f", mask={' & '.join(limits)}, other=0.0" if limits else ""
    return f"tl.load({name}_head + start_m * {name}_q + {name}_offsets{guard})"


def _row_numbers(name: str, absent: str, form: Form) -> str:
    """A number of each query, [1, BLOCK_M]."""
    guard = f", mask=inside, other={absent}" if form.bounded else ""
    place = f"{name} + (bh * q_len + start_m) + tl.arange(0, BLOCK_M)[None, :]"
    return f"tl.load({place}{guard})"


def _parameters(spec: TritonSpec, tile: BackwardTile) -> tuple[Parameter, ...]:
    wanted = spec.key.wanted
    assert wanted is not None
    return (
        *tensor_parameters(spec, "query", "q"),
        *tensor_parameters(spec, "key", "k"),
        *(tensor_parameters(spec, "value", "k") if tile.has_grad else ()),
        *tensor_parameters(spec, "grad_out", "q"),
        *(tensor_parameters(spec, "grad_key", "k") if wanted.key else ()),
        *(tensor_parameters(spec, "grad_value", "k") if wanted.value else ()),
        *row_parameters("lse", *(("delta",) if tile.has_grad else ())),
        *numbers("batch", "kv_batch", "q_heads", "kv_heads", "group", "q_len", "kv_len", "tiles"),
        Parameter("scale", "fp32"),
        *range_parameters(spec),
        *dropout_parameters(spec),
        *poison_parameters(spec),
    )
