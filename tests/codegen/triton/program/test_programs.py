"""Programs as Triton text equal the interpreter, pair by pair, whatever a tile's rows and columns are.

Drawn programs are compared to the last bit: what is only approximated is replaced in them by exact operations
(its own tests hold it to its bounds), because a discontinuity after it would turn an error of an ulp into any
error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen.triton.program.grid_module import Grid, Way, compiled_grid, evaluate_grid, reference
from codegen.triton.program.kernel_server import KernelServer
from ir.strategies import Case, mask_structures, score_structures
from saccade.codegen.triton.program.operations import is_approximate
from saccade.ir.expr import Expr, make, rebuild, walk
from saccade.ir.ops import OPS, Op, TypeRule
from saccade.ir.structure import Structure

drawn = settings(
    deadline=None,
    max_examples=20,
    # The servers hold nothing from one example to the next.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

EXACT = {Op.SQRT, Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND}
INEXACT = {op for op in Op if OPS[op].rule is TypeRule.FLOAT and OPS[op].arity == 1} - EXACT


def assert_equal(grid: Grid, interpreter: KernelServer) -> None:
    expected = reference(grid)
    shape = (grid.batch, grid.heads, grid.q_len, grid.kv_len)
    poison = np.broadcast_to(0 if expected.poison is None else expected.poison, shape) != 0
    values, poisoned = evaluate_grid(grid, interpreter)
    np.testing.assert_array_equal(poisoned, poison)
    wanted = np.broadcast_to(expected.value, shape)
    np.testing.assert_array_equal(np.where(poison, 0, values), np.where(poison, 0, wanted))
    if values.dtype.kind == "f":
        signs = [np.signbit(found) & ~poison & ~np.isnan(found) for found in (values, wanted)]
        np.testing.assert_array_equal(*signs)


def exact(structure: Structure) -> Structure:
    """The program with ABS for what is approximated, and products for powers and quotients of scores."""
    done: dict[Expr, Expr] = {}
    for node in walk(structure.root):
        args = tuple(done[arg] for arg in node.args)
        if node.op in INEXACT:
            done[node] = make(Op.ABS, args)
        elif node.op is Op.POW or (node.op is Op.DIV and is_approximate(node)):
            done[node] = make(Op.MUL, args)
        else:
            done[node] = rebuild(node, args)
    return replace(structure, root=done[structure.root])


def grid_of(case: Case, way: Way, *, proven: bool, kv_len: int = 7) -> Grid:
    structure = exact(case.structure)
    return Grid(structure, case.captures, case.numbers, 1, kv_len=kv_len, way=way, proven=proven)


@drawn
@given(mask_structures(), st.sampled_from(Way), st.booleans(), st.sampled_from((1, 7, 37)))
def test_masks_equal_the_interpreter(
    interpreter: KernelServer, case: Case, way: Way, proven: bool, kv_len: int
):
    assert_equal(grid_of(case, way, proven=proven, kv_len=kv_len), interpreter)


@drawn
@given(score_structures(), st.sampled_from(Way), st.booleans())
def test_scores_equal_the_interpreter(interpreter: KernelServer, case: Case, way: Way, proven: bool):
    assert_equal(grid_of(case, way, proven=proven), interpreter)


@drawn
@given(st.one_of(mask_structures(), score_structures()), st.sampled_from(Way), st.booleans())
def test_types_hold_outside_the_interpreter(compiler: KernelServer, case: Case, way: Way, proven: bool):
    """The interpreter takes what the compiler refuses: mixed types, loops that change a type."""
    assert compiled_grid(Grid(case.structure, case.captures, case.numbers, way=way, proven=proven), compiler)
