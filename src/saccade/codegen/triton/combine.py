"""COMBINE: the partial results of SPLIT, merged.

Rows are those of `[B, Hq, Q]` in order, BLOCK_M a program. Outputs of splits are weighed by their sums of
weights, each relative to its own largest score as in any softmax; the sink joins here.
"""

from __future__ import annotations

from saccade.codegen.triton.module import padded, write_module
from saccade.codegen.triton.parameters import numbers
from saccade.codegen.triton.results import PARTIAL_PARAMETERS, result_parameters, results
from saccade.codegen.triton.source import TritonSource
from saccade.codegen.triton.spec import TritonSpec
from saccade.codegen.triton.template import fill

__all__ = ["write_combine"]

_COMBINE = """\
total = batch.to(tl.int64) * q_heads * q_len
row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
live = row < total
row = tl.minimum(row, total - 1)
queries = row % q_len
heads = row // q_len % q_heads
b = row // q_len // q_heads
value_dims = tl.arange(0, BLOCK_V)
row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
row_sum = tl.zeros([BLOCK_M], tl.float32)
acc = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
for split in tl.range(0, splits):
    part = split * total + row  # in [splits, B, Hq, Q]
    part_max = tl.load(partial_max + part)
    new_max = tl.maximum(row_max, part_max)
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    shrink = tl.exp2((row_max - base) * LOG2E)
    weight = tl.load(partial_sum + part) * tl.exp2((part_max - base) * LOG2E)
    row_sum = row_sum * shrink + weight
    row_max = new_max
    <<out>>
    acc = acc * shrink[:, None] + weight[:, None] * part_out

<<results>>
"""


def write_combine(spec: TritonSpec) -> TritonSource:
    """Write a COMBINE kernel."""
    dim = spec.key.value_dim
    guard = "" if dim == padded(dim) else ", mask=(value_dims < VALUE_DIM)[None, :], other=0.0"
    load = f"tl.load(partial_out + (part * VALUE_DIM)[:, None] + value_dims[None, :]{guard})"
    body = fill(
        _COMBINE,
        out=(f"part_out = {load}",),
        results=results(spec),
    )
    parameters = (
        *PARTIAL_PARAMETERS,
        *result_parameters(spec),
        *numbers("batch", "q_heads", "q_len", "splits"),
    )
    return write_module(spec, "The partial results of a split walk, merged.", "combine", parameters, body)
