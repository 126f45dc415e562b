"""The whole catalogue as code: masks to the bit, scores as near to float64 as numpy's float32 is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue import CATALOGUE, Case, Sizes
from codegen.cpu.program.grid_kernel import Grid, evaluate_grid, host_isas, reference
from codegen.cpu.program.test_code import assert_equal
from saccade.ir.dtype import DType
from saccade.ir.interpret import host_array
from saccade.ir.program import Program
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

ISAS = host_isas()
WIDE = Sizes(q_len=9, kv_len=39, heads=4, dtype=torch.float32)
TALL = Sizes(q_len=21, kv_len=11, heads=4, dtype=torch.float32)
PLACES = [
    *(pytest.param(isa, WIDE, id=f"{isa}-wide") for isa in ISAS),
    pytest.param(ISAS[0], TALL, id=f"{ISAS[0]}-tall"),
]


def grid_of(mod: MaskMod | ScoreMod, sizes: Sizes, dtype: DType, *, head_rows: bool = False) -> Grid:
    program: Program = trace(mod, score_dtype=dtype)
    captures = tuple(host_array(capture) for capture in program.captures)
    return Grid(
        program.structure,
        captures,
        program.numbers,
        sizes.batch,
        sizes.heads,
        sizes.q_len,
        sizes.kv_len,
        head_rows=head_rows,
    )


@pytest.mark.parametrize(("isa", "sizes"), PLACES)
@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.build(WIDE).mask is not None], ids=str)
def test_masks(case: Case, isa: str, sizes: Sizes):
    mask = case.build(sizes).mask
    assert mask is not None
    for head_rows in (False, True):
        assert_equal(grid_of(mask, sizes, DType.FLOAT32, head_rows=head_rows), isa)


@pytest.mark.parametrize(("isa", "sizes"), PLACES)
@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.build(WIDE).score is not None], ids=str)
def test_scores(case: Case, isa: str, sizes: Sizes):
    score = case.build(sizes).score
    assert score is not None
    exact = reference(grid_of(score, sizes, DType.FLOAT64))
    by_numpy = reference(grid_of(score, sizes, DType.FLOAT32))
    values, poisoned = evaluate_grid(grid_of(score, sizes, DType.FLOAT32), isa)
    poison = np.broadcast_to(0 if exact.poison is None else exact.poison, values.shape) != 0
    np.testing.assert_array_equal(poisoned, poison)
    wanted, near = (np.broadcast_to(result.value, values.shape)[~poison] for result in (exact, by_numpy))
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~poison][~finite], wanted[~finite])
    wanted, near, given = wanted[finite], near[finite], values[~poison][finite]
    ulp = np.finfo(np.float32).eps * np.abs(wanted).max(initial=0)
    allowed = 2 * np.abs(near - wanted).max(initial=0) + 4 * ulp
    assert np.abs(given - wanted).max(initial=0) <= allowed
