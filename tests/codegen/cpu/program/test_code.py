"""Programs as code equal the interpreter, pair by pair, on every instruction set of this host.

Drawn programs are compared to the last bit: what vector math only approximates is replaced in them by exact
operations (its own tests hold it to its bounds), because a discontinuity after it would turn an error of an
ulp into any error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.cpu.program.grid_kernel import Grid, evaluate_grid, host_isas, reference
from ir.strategies import Case, mask_structures, score_structures
from saccade.ir.dtype import DType
from saccade.ir.expr import Expr, make, rebuild, walk
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import Structure

ISAS = host_isas()
drawn = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

EXACT = {Op.SQRT, Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND}
INEXACT = {op for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1} - EXACT


def assert_equal(grid: Grid, isa: str) -> None:
    expected = reference(grid)
    shape = (grid.batch, grid.heads, grid.q_len, grid.kv_len)
    poison = np.broadcast_to(0 if expected.poison is None else expected.poison, shape) != 0
    values, poisoned = evaluate_grid(grid, isa)
    np.testing.assert_array_equal(poisoned, poison)
    wanted = np.broadcast_to(expected.value, shape)
    np.testing.assert_array_equal(np.where(poison, 0, values), np.where(poison, 0, wanted))
    if values.dtype.kind == "f":
        signs = [np.signbit(found) & ~poison & ~np.isnan(found) for found in (values, wanted)]
        np.testing.assert_array_equal(*signs)


def exact(structure: Structure) -> Structure:
    """The program with ABS for what is approximated, and products for powers."""
    done: dict[Expr, Expr] = {}
    for node in walk(structure.root):
        args = tuple(done[arg] for arg in node.args)
        if node.op in INEXACT:
            done[node] = make(Op.ABS, args)
        elif node.op is Op.POW:
            done[node] = make(Op.MUL, args)
        else:
            done[node] = rebuild(node, args)
    return replace(structure, root=done[structure.root])


def grid_of(case: Case, *, head_rows: bool, proven: bool, kv_len: int = 7) -> Grid:
    return Grid(
        exact(case.structure),
        case.captures,
        case.numbers,
        kv_len=kv_len,
        head_rows=head_rows,
        proven=proven,
    )


@pytest.mark.parametrize("isa", ISAS)
@drawn
@given(mask_structures(), st.booleans(), st.booleans(), st.sampled_from((1, 7, 37)))
def test_masks_equal_the_interpreter(isa: str, case: Case, head_rows: bool, proven: bool, kv_len: int):
    assert_equal(grid_of(case, head_rows=head_rows, proven=proven, kv_len=kv_len), isa)


@pytest.mark.parametrize("isa", ISAS)
@drawn
@given(score_structures(), st.booleans(), st.booleans())
def test_scores_equal_the_interpreter(isa: str, case: Case, head_rows: bool, proven: bool):
    assert_equal(grid_of(case, head_rows=head_rows, proven=proven), isa)


@pytest.mark.parametrize("isa", ISAS)
@drawn
@given(score_structures(dtype=DType.FLOAT64), st.booleans(), st.booleans())
def test_double_scores_equal_the_interpreter(isa: str, case: Case, head_rows: bool, proven: bool):
    assert_equal(grid_of(case, head_rows=head_rows, proven=proven), isa)
