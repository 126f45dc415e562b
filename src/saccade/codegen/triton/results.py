"""What a tile's sums become: the output, lse and the largest scores, or a split's partial results.

A row that sees nothing gives 0 and lse -inf; with a sink, lse is the sink. Partial results are the output and
the logarithm to base 2 of the sum of weights, for the keys of one split; -inf where it shows a row nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from saccade.codegen.triton.module import padded
from saccade.codegen.triton.parameters import Parameter, row_parameters, tensor_parameters
from saccade.codegen.triton.query_tile import FLAT_ROWS, query_rows, row_mask
from saccade.codegen.triton.spec import KernelKind, TritonSpec
from saccade.codegen.triton.template import Lines, fill

__all__ = ["PARTIAL_PARAMETERS", "partial_results", "result_parameters", "results"]

_RESULTS = """\
<<base>>
divisor = tl.where(row_sum == 0.0, 1.0, row_sum)
acc = acc * (@KEPT / divisor)[:, None]
log_sum = tl.where(row_sum == 0.0, float("-inf"), base + tl.log2(row_sum))
<<stores>>
"""

_SINKS = (
    "sink = tl.load(sinks + heads) * LOG2E",
    "base = tl.maximum(row_max, sink)",
    'base = tl.where(base == float("-inf"), 0.0, base)',
    "shrink = tl.exp2(row_max - base)",
    "row_sum = row_sum * shrink + tl.exp2(sink - base)",
    "acc = acc * shrink[:, None]",
)

_BASE = ('base = tl.where(row_max == float("-inf"), 0.0, row_max)',)

_LARGEST = (
    "# Maxima pass over NaN, and sums do not.",
    'is_nan = (row_sum != row_sum) & (row_max < float("inf"))',
    'largest = tl.where(is_nan, float("nan"), row_max)',
)

PARTIAL_PARAMETERS = row_parameters("partial_out", "partial_lse", "partial_max")


def result_parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    """Return what `results` writes, and the sinks."""
    return (
        *tensor_parameters(spec, "out", "q"),
        *row_parameters("lse", "max_scores"),
        Parameter("sinks", "*fp32"),
    )


def results(spec: TritonSpec) -> Lines:
    """Return lines that make and write the results of the rows of a tile.

    In COMBINE the lines before name the `largest` scores, in base 2.
    """
    out = "out + out_rows + value_dims[None, :]"
    stores = [
        *(() if spec.kind is KernelKind.COMBINE else (FLAT_ROWS,)),
        f"out_rows = {query_rows('out')}",
        f"tl.store({out}, acc.to(out.dtype.element_ty), mask={_stored(spec)})",
        "tl.store(lse + row, log_sum * LN2, mask=live)",
    ]
    if spec.key.outputs.max_scores:
        stores += _LARGEST if spec.kind is KernelKind.FORWARD else ()
        stores.append("tl.store(max_scores + row, largest * LN2, mask=live)")
    return _filled(_SINKS if spec.key.sinks else _BASE, stores, _kept(spec))


def partial_results(spec: TritonSpec) -> Lines:
    """Return lines that make and write the partial results of a tile of SPLIT."""
    out = "partial_out + (part * VALUE_DIM)[:, None] + value_dims[None, :]"
    stores = [
        FLAT_ROWS,
        "part = split.to(tl.int64) * batch * q_heads * q_len + row  # in [splits, B, Hq, Q]",
        f"tl.store({out}, acc, mask={_stored(spec)})",
        "tl.store(partial_lse + part, log_sum, mask=live)",
    ]
    if spec.key.outputs.max_scores:
        stores += _LARGEST
        stores.append("tl.store(partial_max + part, largest, mask=live)")
    return _filled(_BASE, stores, _kept(spec))


def _filled(base: Lines, stores: Sequence[str], kept: str) -> Lines:
    return fill(_RESULTS.replace("@KEPT", kept), base=base, stores=stores)


def _kept(spec: TritonSpec) -> str:
    """What dropout multiplies the weighted values by; partial results have it in them."""
    return "keep_factor" if spec.key.dropout and spec.kind is not KernelKind.COMBINE else "1.0"


def _stored(spec: TritonSpec) -> str:
    return row_mask(spec.key.value_dim, padded(spec.key.value_dim), "value_dims", "VALUE_DIM")
