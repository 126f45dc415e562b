"""Contributions to the gradients of captured tensors: values, indices and where they hold, at every pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codegen.triton.program.grid_module import (
    COLUMNS,
    ROWS,
    Grid,
    Way,
    arguments_of,
    module_text,
    program_text,
    reference,
    signature_of,
)
from codegen.triton.program.kernel_server import Job, KernelServer
from codegen.triton.program.test_programs import drawn
from ir.strategies import Case, score_structures
from saccade.codegen.program.contributions import Contribution, contributions, summed_derivative
from saccade.codegen.program.derivative import derivative
from saccade.codegen.triton.program.text import ContributionText, ProgramText
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.interpret import evaluate
from saccade.ir.structure import Structure
from saccade.ir.text import parse_structure

TABLE = np.random.default_rng(5).normal(size=(7, 6)).astype(np.float32)

# The element that a load names, and the variables that its index reads.
LOADS = {
    "c0[h, 2]": {"h"},
    "c0[q_idx, 1]": {"q_idx"},
    "c0[kv_idx, -1]": {"kv_idx"},
    "c0[q_idx, kv_idx - 7]": {"q_idx", "kv_idx"},
    "c0[1, 2]": set(),
    "c0[b * 2 + q_idx // 2, kv_idx % 6]": {"b", "q_idx", "kv_idx"},
    "where(kv_idx < 5, c0[q_idx, kv_idx], 1.0)": {"q_idx", "kv_idx"},
}


def gradient_grid(structure: Structure, captures: tuple[np.ndarray, ...], way: Way) -> Grid:
    return Grid(derivative(structure), captures, batch=1, way=way)


def additions(number: int, each: ContributionText, shape: tuple[int, ...]) -> list[str]:
    """Lines that add a contribution to a dense gradient of a shape."""
    strides = [int(np.prod(shape[dim + 1 :])) for dim in range(len(shape))]
    place = " + ".join(f"{index} * {stride}" for index, stride in zip(each.indices, strides, strict=True))
    tile = f"[{ROWS}, {COLUMNS}]"
    kept = "inside" if each.valid is None else f"inside & {each.valid}"
    add = (
        f"tl.atomic_add(sum{number} + tl.zeros({tile}, tl.int32) + ({place or 0}), "
        f"tl.broadcast_to({each.value}, {tile}).to(tl.float64), mask={kept})"
    )
    lines = ["    " * depth + head for depth, head in enumerate(each.loops)]
    return lines + ["    " * len(each.loops) + line for line in (*each.lines, add)]


def module(grid: Grid, text: ProgramText) -> tuple[str, list[str]]:
    names = [f"sum{number}" for number in range(len(text.contributions))]
    stores = [
        line
        for number, each in enumerate(text.contributions)
        for line in additions(number, each, grid.captures[each.slot].shape)
    ]
    return module_text(grid, text, names, stores), names


def given_sums(grid: Grid, beside: tuple[Contribution, ...], server: KernelServer) -> list[np.ndarray]:
    text = program_text(grid, checks=False, beside=beside)
    source, names = module(grid, text)
    sums = {name: np.zeros(grid.captures[each.slot].shape) for name, each in zip(names, beside, strict=True)}
    job = Job(source, grid.programs, {**arguments_of(grid, text), **sums}, tuple(names))
    results = server(job)
    return [results[name] for name in names]


def wanted_sums(grid: Grid, beside: tuple[Contribution, ...]) -> list[np.ndarray]:
    """The same by the interpreter: each value to its element, nothing out of range."""
    b, h, q, k = np.ogrid[: grid.batch, : grid.heads, : grid.q_len, : grid.kv_len]
    score = grid.scores
    names = {"b": b, "h": h, "q_idx": q, "kv_idx": k, "score": score}
    names["grad"] = score * score.dtype.type(3)
    sums = []
    for each in beside:
        total = np.zeros(grid.captures[each.slot].shape)
        steps = np.ndindex(*(extent for _, extent in each.axes))
        for step in steps:
            axes = {axis: np.asarray(value) for (axis, _), value in zip(each.axes, step, strict=True)}

            def at_pairs(expression: object, axes: dict[int, np.ndarray] = axes) -> np.ndarray:
                value = evaluate(expression, names, grid.captures, grid.numbers, axes=axes).value  # type: ignore[arg-type]
                return np.broadcast_to(value, score.shape)

            indices = [at_pairs(index) for index in each.element.args]
            value = at_pairs(each.value)
            kept = np.ones(score.shape, bool)
            for index, size in zip(indices, total.shape, strict=True):
                kept &= (index >= -size) & (index < size)
            if indices:
                np.add.at(total, tuple(index[kept] for index in indices), value[kept].astype(np.float64))
            else:
                total += value.sum(dtype=np.float64)
        sums.append(total)
    return sums


def assert_sums(grid: Grid, beside: tuple[Contribution, ...], server: KernelServer) -> None:
    for found, wanted in zip(given_sums(grid, beside, server), wanted_sums(grid, beside), strict=True):
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("body", LOADS)
def test_one_load(body: str, way: Way, interpreter: KernelServer):
    structure = parse_structure(f"score(c0: f32[2]) -> f32\nscore * {body}")
    grid = gradient_grid(structure, (TABLE,), way)
    beside = contributions(structure, (True,))
    (text,) = program_text(grid, beside=beside).contributions
    assert text.reads == LOADS[body]
    assert text.slot == 0
    assert text.type == "tl.float32"
    assert not text.loops
    assert text.index_shape == grid.place.shape_of(beside[0].element)
    assert_sums(grid, beside, interpreter)


@pytest.mark.parametrize("way", Way)
def test_indices_in_range_need_no_test(way: Way):
    for body, may_fail in (("c0[q_idx, -1]", False), ("c0[q_idx, kv_idx]", True)):
        structure = parse_structure(f"score(c0: f32[2]) -> f32\nscore * {body}")
        grid = gradient_grid(structure, (TABLE,), way)
        (text,) = program_text(grid, beside=contributions(structure, (True,))).contributions
        assert (text.valid is not None) == may_fail


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(
    "body",
    [
        "sum(axis0 < 6, c0[q_idx, axis0] * c0[kv_idx, axis0])",
        "sum(axis0 < 2, sum(axis1 < 3, c0[axis0 + b, axis1 + q_idx // 2] * score))",
        "sum(axis0 < 20, c0[q_idx, axis0 % 6])",
        "max(axis0 < 3, c0[kv_idx, axis0])",
    ],
)
def test_reductions_give_loops(body: str, way: Way, interpreter: KernelServer, compiler: KernelServer):
    structure = parse_structure(f"score(c0: f32[2]) -> f32\nscore * {body}")
    beside = contributions(structure, (True,))
    grid = gradient_grid(structure, (TABLE,), way)
    assert any(each.loops for each in program_text(grid, beside=beside).contributions)
    assert_sums(grid, beside, interpreter)
    assert compiled(grid, beside, compiler)


def compiled(grid: Grid, beside: tuple[Contribution, ...], server: KernelServer) -> str:
    text = program_text(grid, checks=False, beside=beside)
    source, names = module(grid, text)
    return str(server(Job(source, signature={**signature_of(grid, text), **dict.fromkeys(names, "*fp64")})))


@drawn
@given(score_structures(smooth=True), st.sampled_from(Way))
def test_drawn_programs(interpreter: KernelServer, case: Case, way: Way):
    wanted = tuple(capture.dtype.is_float for capture in case.structure.captures)
    beside = contributions(case.structure, wanted)
    grid = replace(gradient_grid(case.structure, case.captures, way), numbers=case.numbers)
    # Where the program is poison, so may its contributions be: they are anything.
    for structure in (case.structure, summed_derivative(case.structure, wanted)):
        assume(not reference(replace(grid, structure=structure)).is_poisoned)
    assert_sums(grid, beside, interpreter)


@drawn
@given(score_structures(smooth=True, dtype=DType.FLOAT64), st.sampled_from(Way))
def test_drawn_programs_compile(compiler: KernelServer, case: Case, way: Way):
    wanted = tuple(capture.dtype.is_float for capture in case.structure.captures)
    grid = replace(gradient_grid(case.structure, case.captures, way), numbers=case.numbers)
    assert NUMPY_TYPE[grid.precise] is np.float64
    assert compiled(grid, contributions(case.structure, wanted), compiler)
