"""The kernel of delta: what every gradient of a row's scores has in common.

With P the weights of a row before dropout and dP their gradients, the gradients of its scores are

    dS = P·(dP - delta),    delta = sum(P·dP) - grad_lse = sum(out·grad_out) - grad_lse

(FlashAttention, arXiv 2205.14135, its D; lse takes part where it has a gradient). A sink is a score whose
value vector is 0, so that its gradient is the sum over rows of -exp(sink - lse)·delta: the host adds that up.
Rows that see nothing have delta 0, whatever the gradients of their outputs are.
"""

from __future__ import annotations

from saccade.codegen.triton.backward_tile import column_limit
from saccade.codegen.triton.module import write_module
from saccade.codegen.triton.parameters import numbers, row_parameters, tensor_parameters
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import Lines, fill

__all__ = ["write_delta"]

_BODY = """\
program = tl.program_id(0)
tile = program % tiles
b = (program // tiles // q_heads).to(tl.int64)
h = (program // tiles % q_heads).to(tl.int64)
queries = tile * BLOCK_M + tl.arange(0, BLOCK_M)
live = queries < q_len
queries = tl.minimum(queries, q_len - 1).to(tl.int64)
value_dims = tl.arange(0, BLOCK_V)
<<tiles>>
row = (b * q_heads + h) * q_len + queries
mean = tl.sum(out_tile.to(tl.float32) * grad_out_tile.to(tl.float32), 1)
<<grad_lse>>
mean = tl.where(tl.load(lse + row) == float("-inf"), 0.0, mean)
tl.store(delta + row, mean, mask=live)
"""


def write_delta(spec: TritonSpec) -> TritonSource:
    """Return the kernel that writes delta `[B, Hq, Q]`, float32, from out, grad_out, lse and grad_lse.

    A program takes `tile.rows` queries of a head; grad_lse is a parameter where `outputs.lse` has a gradient.
    """
    parameters = (
        *tensor_parameters(spec, "out", "q"),
        *tensor_parameters(spec, "grad_out", "q"),
        *row_parameters("lse", "grad_lse", "delta"),
        *numbers("q_heads", "q_len", "tiles"),
    )
    body = fill(
        _BODY,
        tiles=(*_rows(spec, "out"), *_rows(spec, "grad_out")),
        grad_lse=("mean = mean - tl.load(grad_lse + row)",) if spec.key.outputs.lse else (),
    )
    return write_module(spec, "The mean gradient of each row's scores.", "delta_rows", parameters, body)


def _rows(spec: TritonSpec, name: str) -> Lines:
    guard = "".join(f", mask={limit}, other=0.0" for limit in column_limit(spec, "value_dims"))
    return (
        f"{name}_rows = {name} + b * {name}_b + h * {name}_h + queries * {name}_q",
        f"{name}_tile = tl.load({name}_rows[:, None] + value_dims[None, :]{guard})",
    )
