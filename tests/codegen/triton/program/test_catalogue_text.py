"""The whole catalogue as Triton text: masks to the bit, scores as near to float64 as numpy's float32 is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue import CATALOGUE, Case, Sizes
from codegen.triton.program.grid_module import (
    Grid,
    Way,
    compiled_grid,
    evaluate_grid,
    program_text,
    reference,
)
from codegen.triton.program.kernel_server import KernelServer
from codegen.triton.program.test_programs import assert_equal
from saccade.ir.dtype import DType
from saccade.ir.interpret import host_array
from saccade.ir.program import Program
from saccade.signatures import MaskMod, ScoreMod
from saccade.tracing import trace

SIZES = Sizes(q_len=5, kv_len=9, batch=1, heads=2, dtype=torch.float32)
MASKS = [case for case in CATALOGUE if case.build(SIZES).mask is not None]
SCORES = [case for case in CATALOGUE if case.build(SIZES).score is not None]


def grid_of(mod: MaskMod | ScoreMod, dtype: DType = DType.FLOAT32, way: Way = Way.ROWS_ARE_QUERIES) -> Grid:
    program: Program = trace(mod, score_dtype=dtype)
    captures = tuple(host_array(capture) for capture in program.captures)
    return Grid(
        program.structure,
        captures,
        program.numbers,
        SIZES.batch,
        SIZES.heads,
        SIZES.q_len,
        SIZES.kv_len,
        way=way,
    )


def way_of(case: Case) -> Way:
    """Each case by one of the ways; all of them are met."""
    return list(Way)[CATALOGUE.index(case) % len(Way)]


@pytest.mark.parametrize("case", MASKS, ids=str)
def test_masks(case: Case, interpreter: KernelServer, compiler: KernelServer):
    mask = case.build(SIZES).mask
    assert mask is not None
    grid = grid_of(mask, way=way_of(case))
    assert_equal(grid, interpreter)
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("case", SCORES, ids=str)
def test_scores(case: Case, interpreter: KernelServer, compiler: KernelServer):
    score = case.build(SIZES).score
    assert score is not None
    grid = grid_of(score, way=way_of(case))
    exact, by_numpy = reference(grid_of(score, DType.FLOAT64)), reference(grid)
    values, poisoned = evaluate_grid(grid, interpreter)
    poison = np.broadcast_to(0 if exact.poison is None else exact.poison, values.shape) != 0
    np.testing.assert_array_equal(poisoned, poison)
    wanted, near = (np.broadcast_to(result.value, values.shape)[~poison] for result in (exact, by_numpy))
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(values[~poison][~finite], wanted[~finite])
    wanted, near, given = wanted[finite], near[finite], values[~poison][finite]
    ulp = np.finfo(np.float32).eps * np.abs(wanted).max(initial=0)
    allowed = 2 * np.abs(near - wanted).max(initial=0) + 4 * ulp
    assert np.abs(given - wanted).max(initial=0) <= allowed
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_lines_are_short_and_the_text_is_the_same_again(case: Case):
    mods = case.build(SIZES)
    for mod in (mods.mask, mods.score):
        if mod is not None:
            first, second = (program_text(grid_of(mod), checks=False) for _ in range(2))
            assert (first.before, first.inside, first.result) == (second.before, second.inside, second.result)
            assert max(map(len, (*first.before, *first.inside)), default=0) <= 110
