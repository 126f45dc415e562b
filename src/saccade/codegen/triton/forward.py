"""The kernels that attend: FORWARD, and SPLIT, whose partial results COMBINE merges.

A program of the grid holds a tile of queries and walks its keys once. FORWARD writes what a caller sees;
SPLIT, for few queries and many keys, walks a share of each tile's ranges and writes what its keys say alone.
"""

from __future__ import annotations

from saccade.codegen.program.which import Which
from saccade.codegen.triton.dropout import dropout_functions
from saccade.codegen.triton.key_tiles import KEYS, VALUES
from saccade.codegen.triton.module import padded, write_module
from saccade.codegen.triton.parameters import (
    Parameter,
    dropout_parameters,
    numbers,
    poison_parameters,
    range_parameters,
    tensor_parameters,
)
from saccade.codegen.triton.poison import NOTE_POISON
from saccade.codegen.triton.query_tile import query_rows, tile_place
from saccade.codegen.triton.results import PARTIAL_PARAMETERS, partial_results, result_parameters, results
from saccade.codegen.triton.softmax import OnlineSoftmax
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import KernelKind, TritonSpec
from saccade.codegen.triton.template import fill
from saccade.codegen.triton.tile_programs import TilePrograms
from saccade.codegen.triton.walk import keys_axis, walk

__all__ = ["write_forward"]

_ATTEND = """\
<<place>>

dims = tl.arange(0, BLOCK_D)
value_dims = tl.arange(0, BLOCK_V)
<<query>>
<<before>>

<<walk>>

<<results>>
"""


def write_forward(spec: TritonSpec) -> TritonSource:
    """Write a FORWARD or SPLIT kernel."""
    programs = TilePrograms(spec, (Which.MASK, Which.MASK_MOD, Which.SCORE))
    softmax = OnlineSoftmax(spec, programs)
    is_split = spec.kind is KernelKind.SPLIT
    body = fill(
        _ATTEND,
        place=tile_place(spec),
        query=(f"query_rows = {query_rows('query')}", f"q = {_query(spec)}"),
        before=softmax.before,
        walk=walk(spec, keys_axis(spec), softmax.turn),
        results=partial_results(spec) if is_split else results(spec),
    )
    title = "A share of each tile's keys: partial results." if is_split else "Attention, one tile of queries."
    functions = (*programs.functions, *dropout_functions(spec), *((NOTE_POISON,) if spec.checks else ()))
    parameters = (*_parameters(spec), *programs.parameters)
    return write_module(spec, title, "attend_split" if is_split else "attend", parameters, body, functions)


def _query(spec: TritonSpec) -> str:
    guard = (
        ", mask=dims[None, :] < HEAD_DIM, other=0.0" if spec.key.head_dim != padded(spec.key.head_dim) else ""
    )
    return f"tl.load(query + query_rows + dims[None, :]{guard})"


def _parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    return (
        *tensor_parameters(spec, "query", "q"),
        *KEYS.parameters(spec),
        *VALUES.parameters(spec),
        *(PARTIAL_PARAMETERS if spec.kind is KernelKind.SPLIT else result_parameters(spec)),
        *numbers("batch", "kv_batch", "q_heads", "kv_heads", "group", "q_len", "kv_len", "tiles", "splits"),
        Parameter("scale", "fp32"),
        *range_parameters(spec),
        *dropout_parameters(spec),
        *poison_parameters(spec),
    )
