"""What a tile's sums become: the output, lse and the largest scores, or a split's partial results.

A row that sees nothing gives 0 and lse -inf; with a sink, lse is the sink. Partial results are the output,
the largest score and the sum of weights relative to it, for the keys of one split; 0, -inf and 0 where it
shows a row nothing. Their lse would not do: of scores far from zero it does not tell how many are largest.
"""

from __future__ import annotations

from collections.abc import Sequence

from saccade.codegen.program.which import Which
from saccade.codegen.triton.module import padded
from saccade.codegen.triton.parameters import Parameter, row_parameters, tensor_parameters
from saccade.codegen.triton.query_tile import FLAT_ROWS, query_rows, row_mask
from saccade.codegen.triton.spec import KernelKind, TritonSpec
from saccade.codegen.triton.template import Lines, fill

__all__ = ["PARTIAL_PARAMETERS", "partial_results", "result_parameters", "results"]

_RESULTS = """\
share = @KEPT / tl.where(row_sum == 0.0, 1.0, row_sum)
<<natural>>
<<log_sum>>
acc = acc * share[:, None]
<<stores>>
"""

_SCALED = 'largest = tl.where(row_max == float("-inf"), float("-inf"), row_max * tl.abs(scale))'

# Relative to the largest score itself, where it was to its like in base 2, rounded.
_RELATIVE = (
    "rounding = tl.where(tl.abs(row_max) > limit, 0.0, row_base - largest * LOG2E)",
    "row_sum = row_sum * tl.exp2(rounding)",
)

_BASE = ('base = tl.where(largest == float("-inf"), 0.0, largest)', "total = row_sum")

_SINKS = (
    "sink = tl.load(sinks + heads)",
    "base = tl.maximum(largest, sink)",
    'base = tl.where(base == float("-inf"), 0.0, base)',
    "of_keys = row_sum * tl.exp2((largest - base) * LOG2E)",
    "total = of_keys + tl.exp2((sink - base) * LOG2E)",
    "share = share * (of_keys / tl.where(total == 0.0, 1.0, total))",
)

_LOG_SUM = 'log_sum = tl.where(total == 0.0, float("-inf"), base + LN2 * tl.log2(total))'

_LARGEST = (
    "# Maxima pass over NaN, and sums do not.",
    'is_nan = (row_sum != row_sum) & (largest < float("inf"))',
    'largest = tl.where(is_nan, float("nan"), largest)',
)

PARTIAL_PARAMETERS = row_parameters("partial_out", "partial_max", "partial_sum")


def result_parameters(spec: TritonSpec) -> tuple[Parameter, ...]:
    """Return what `results` writes, and the sinks."""
    return (
        *tensor_parameters(spec, "out", "q"),
        *row_parameters("lse", "max_scores"),
        Parameter("sinks", "*fp32"),
    )


def results(spec: TritonSpec) -> Lines:
    """Return lines that make and write the results of the rows of a tile."""
    out = "out + out_rows + value_dims[None, :]"
    stores = [
        *(() if spec.kind is KernelKind.COMBINE else (FLAT_ROWS,)),
        f"out_rows = {query_rows('out')}",
        f"tl.store({out}, acc.to(out.dtype.element_ty), mask={_stored(spec)})",
        "tl.store(lse + row, log_sum, mask=live)",
    ]
    if spec.key.outputs.max_scores:
        stores += [*_LARGEST, "tl.store(max_scores + row, largest, mask=live)"]
    return _filled(spec, (*(_SINKS if spec.key.sinks else _BASE), _LOG_SUM), stores)


def partial_results(spec: TritonSpec) -> Lines:
    """Return lines that make and write the partial results of a tile of SPLIT."""
    out = "partial_out + (part * VALUE_DIM)[:, None] + value_dims[None, :]"
    stores = [
        FLAT_ROWS,
        "part = split.to(tl.int64) * batch * q_heads * q_len + row  # in [splits, B, Hq, Q]",
        f"tl.store({out}, acc, mask={_stored(spec)})",
        "tl.store(partial_max + part, largest, mask=live)",
        "tl.store(partial_sum + part, row_sum, mask=live)",
    ]
    return _filled(spec, (), stores)


def _filled(spec: TritonSpec, log_sum: Lines, stores: Sequence[str]) -> Lines:
    return fill(
        _RESULTS.replace("@KEPT", _kept(spec)), natural=_natural(spec), log_sum=log_sum, stores=stores
    )


def _natural(spec: TritonSpec) -> Lines:
    """Lines that name the `largest` scores, and make sums of weights relative to them."""
    if spec.kind is KernelKind.COMBINE:
        return ("largest = row_max",)
    return (_SCALED if spec.program(Which.SCORE) is None else "largest = row_max", *_RELATIVE)


def _kept(spec: TritonSpec) -> str:
    """What dropout multiplies the weighted values by; partial results have it in them."""
    return "keep_factor" if spec.key.dropout and spec.kind is not KernelKind.COMBINE else "1.0"


def _stored(spec: TritonSpec) -> str:
    return row_mask(spec.key.value_dim, padded(spec.key.value_dim), "value_dims", "VALUE_DIM")
