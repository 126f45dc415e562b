"""The kernel of the gradient of queries, and of what captured tensors receive by query, by tile and by pair.

A program of the grid holds a tile of queries and walks its keys, as the forward does:

    dQ = scale · sum over keys of dS·K

What is summed needs no other program, so that results are the same to the bit from run to run, but for atomic
additions where the way of a captured gradient says so.
"""

from __future__ import annotations

from saccade.codegen.triton.backward_captures import CaptureSums
from saccade.codegen.triton.backward_tile import BackwardTile, Form, column_limit
from saccade.codegen.triton.dropout import dropout_functions
from saccade.codegen.triton.key_tiles import KEYS, VALUES
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
from saccade.codegen.triton.query_tile import query_rows, tile_place
from saccade.codegen.triton.softmax import precision
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines, fill
from saccade.codegen.triton.walk import Turn, keys_axis, walk

__all__ = ["write_query_gradient"]

_KERNEL = """\
<<place>>

dims = tl.arange(0, BLOCK_D)
value_dims = tl.arange(0, BLOCK_V)
<<tiles>>
<<lse>>
mean = tl.load(delta + row)[:, None]
<<before>>

<<walk>>

<<end>>
"""

_TURN = """\
<<columns>>
<<key>>
<<weights>>
<<keep>>
<<values>>
<<grad>>
<<captures>>
<<query>>
"""


def write_query_gradient(spec: TritonSpec) -> TritonSource:
    """Write a QUERY_GRADIENT kernel."""
    tile = BackwardTile(spec)
    sums = CaptureSums(spec, tile.gradient, of_keys=False)
    wanted = spec.key.wanted
    assert wanted is not None, "a kernel of gradients wants some"
    assert tile.has_grad, "nothing is wanted of this kernel"
    accumulator = ("grad_query_tile = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)",) if wanted.query else ()
    body = fill(
        _KERNEL,
        place=tile_place(spec),
        lse=tile.lse("tl.load(lse + row)[:, None]"),
        tiles=(
            f"query_tile = {_rows(spec, 'query', 'dims')}",
            f"grad_out_tile = {_rows(spec, 'grad_out', 'value_dims')}",
        ),
        before=(
            *KEYS.before(spec, transposed=False),
            *VALUES.before(spec, transposed=False),
            *tile.before,
            *sums.before,
            *accumulator,
        ),
        walk=walk(
            spec,
            keys_axis(spec),
            Turn(
                full=_turn(spec, tile, sums, Form(bounded=False, masked=False)),
                partial=_turn(spec, tile, sums, Form(bounded=True, masked=True)),
                rest=_turn(spec, tile, sums, Form(bounded=True, masked=False)),
            ),
        ),
        end=(*(_stored(spec) if wanted.query else ()), *_NUMBERS, *sums.end),
    )
    return write_module(
        spec,
        "The gradient of queries, one tile of queries.",
        "query_gradient",
        tuple(dict.fromkeys((*_parameters(spec), *tile.parameters, *sums.parameters))),
        body,
        (*tile.functions, *dropout_functions(spec)),
        sums.sums,
    )


def _turn(spec: TritonSpec, tile: BackwardTile, sums: CaptureSums, form: Form) -> Lines:
    """The lines of a turn."""
    wanted = spec.key.wanted
    assert wanted is not None
    visible = "visible" if tile.visible(form) else None
    added = f"tl.dot(grad_score.to(key_tile.dtype), key_tile, grad_query_tile{precision(spec)})"
    return fill(
        _TURN,
        columns=_BOUNDED_COLUMNS if form.bounded else _COLUMNS,
        key=(
            f"key_tile = {KEYS.load(spec, transposed=False, bounded=form.bounded)}",
            f"product = tl.dot(query_tile, tl.trans(key_tile){precision(spec)})",
        ),
        weights=tile.weights(form),
        keep=tile.keep(),
        values=(
            f"value_tile = {VALUES.load(spec, transposed=False, bounded=form.bounded)}",
            f"grad_weights = tl.dot(grad_out_tile, tl.trans(value_tile){precision(spec)})",
        ),
        grad=tile.grad(form),
        captures=sums.turn(visible),
        query=(f"grad_query_tile = {added}",) if wanted.query else (),
    )


_COLUMNS = ("kv_idx = (start_n + tl.arange(0, BLOCK_N))[None, :]",)
_BOUNDED_COLUMNS = (
    "kv_idx = (start_n + tl.arange(0, BLOCK_N))[None, :]",
    "inside = kv_idx < stop",
    "kv_idx = tl.minimum(kv_idx, stop - 1)",
)

_NUMBERS = (
    "row_number = row",
    "tile_number = (b.to(tl.int64) * q_heads + h) * tiles + tile",
)


def _rows(spec: TritonSpec, name: str, axis: str) -> str:
    """The rows of the tile of queries."""
    guard = "".join(f", mask={limit}, other=0.0" for limit in column_limit(spec, axis))
    return f"tl.load({name} + {query_rows(name)} + {axis}[None, :]{guard})"


def _stored(spec: TritonSpec) -> Lines:
    mask = " & ".join(("live[:, None]", *column_limit(spec, "dims")))
    place = f"grad_query + {query_rows('grad_query')} + dims[None, :]"
    return (f"tl.store({place}, (grad_query_tile * scale).to(grad_query.dtype.element_ty), mask={mask})",)


def _parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    wanted = spec.key.wanted
    assert wanted is not None
    return (
        *tensor_parameters(spec, "query", "q"),
        *KEYS.parameters(spec),
        *VALUES.parameters(spec),
        *tensor_parameters(spec, "grad_out", "q"),
        *(tensor_parameters(spec, "grad_query", "q") if wanted.query else ()),
        *row_parameters("lse", "delta"),
        *numbers("batch", "kv_batch", "q_heads", "kv_heads", "group", "q_len", "kv_len", "tiles"),
        Parameter("scale", "fp32"),
        *range_parameters(spec),
        *dropout_parameters(spec),
        *poison_parameters(spec),
    )
