"""Quotients of scores by what the loop does not change: one reciprocal, how far off, and where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codegen.triton.program.grid_module import Grid, Way, evaluate_grid, program_text
from codegen.triton.program.kernel_server import KernelServer
from saccade.ir.text import parse_structure

CAPTURE = np.array([3.0, 0.7], np.float32)


def grid_of(body: str, way: Way = Way.ROWS_ARE_QUERIES) -> Grid:
    structure = parse_structure(f"score(c0: f32[1], n0: f64) -> f32\n{body} + score * c0[h] * f32(n0)")
    return Grid(structure, (CAPTURE,), (30.0,), q_len=20, kv_len=40, way=way)


def quotients(body: str, way: Way = Way.ROWS_ARE_QUERIES) -> tuple[int, int]:
    """How many reciprocals stand before the loop, and how many divisions inside it."""
    text = program_text(grid_of(body, way), checks=False)
    before, inside = "\n".join(text.before), "\n".join(text.inside)
    return before.count("_reciprocal = tl.div_rn("), inside.count(" / ") + inside.count("div_rn")


@pytest.mark.parametrize(
    "body", ["score / f32(n0)", "score / c0[h]", "(score * score + 1.0) / (c0[h] * 2.0)"]
)
def test_a_steady_divisor_of_scores_is_divided_by_once(body: str):
    assert quotients(body) == (1, 0)


def test_a_divisor_that_is_used_twice_has_one_reciprocal():
    assert quotients("score / f32(n0) + exp(score) / f32(n0)") == (1, 0)


def test_a_literal_divisor_of_scores_is_a_factor():
    text = program_text(grid_of("score / 30.0"), checks=False)
    assert "score * 0.03333333333333333" in "\n".join(text.inside)
    # Its reciprocal would be an infinity, or lose digits.
    assert quotients("score / 1e-39") == quotients("score / 1e30") == (0, 1)


def test_what_reads_no_score_is_divided_to_the_last_bit():
    assert quotients("f32(kv_idx) / f32(n0)") == (0, 1)
    assert quotients("f32(kv_idx) / 30.0") == (0, 1)


def test_a_divisor_of_the_loop_is_divided_by():
    assert quotients("score / f32(kv_idx + 1)") == (0, 1)
    assert quotients("score / f32(kv_idx + 1)", Way.ROWS_ARE_KEYS) == (1, 0)


@pytest.mark.parametrize("divisor", [30.0, 0.7, -1e-3, 1e20, 0.0, np.inf, np.nan])
def test_error_of_the_product_with_a_reciprocal(divisor: float, interpreter: KernelServer):
    """Two roundings: at most 1.5 units of the last place, and IEEE's answers at the ends."""
    structure = parse_structure("score(n0: f64) -> f32\nscore / f32(n0)")
    grid = replace(grid_of("score"), structure=structure, captures=(), numbers=(divisor,))
    given, _ = evaluate_grid(grid, interpreter)
    with np.errstate(all="ignore"):
        wanted = grid.scores.astype(np.float64) / np.float64(np.float32(divisor))
        rounded = wanted.astype(np.float32)
        units = np.abs(given - wanted) / np.spacing(np.abs(rounded)).astype(np.float64)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(given[~finite], rounded[~finite])
    assert units[finite].max(initial=0) <= 1.5


def test_softcap_keeps_the_relative_accuracy_of_small_scores(interpreter: KernelServer):
    """cap tanh(s / cap) against float64: within 5e-7 of the result, however large the cap."""
    structure = parse_structure("score(n0: f64) -> f32\ntanh(score / f32(n0)) * f32(n0)")
    for cap in (0.2, 2.0, 50.0, 1e4):
        grid = replace(grid_of("score"), structure=structure, captures=(), numbers=(cap,))
        given, _ = evaluate_grid(grid, interpreter)
        exact = np.float64(np.float32(cap))
        wanted = exact * np.tanh(grid.scores.astype(np.float64) / exact)
        np.testing.assert_allclose(given, wanted, rtol=5e-7, atol=0)
        assert (np.abs(given) <= np.float32(cap)).all()
