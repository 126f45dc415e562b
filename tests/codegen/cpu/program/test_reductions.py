"""Reductions as loops: every level, in the order of the axis, with NaN, wrap-around and poison."""

from __future__ import annotations

import numpy as np
import pytest

from codegen.cpu.program.grid_kernel import Grid, evaluate_grid, host_isas, kernel_text
from codegen.cpu.program.test_code import assert_equal
from saccade.ir.text import parse_structure

ISAS = host_isas()
TABLE = np.random.default_rng(5).normal(size=(7, 6)).astype(np.float32)

LEVELS = {
    "item": "sum(axis0 < 6, c0[b, axis0])",
    "row": "sum(axis0 < 6, c0[q_idx, axis0])",
    "column": "sum(axis0 < 6, c0[kv_idx, axis0])",
    "pair": "sum(axis0 < 6, c0[q_idx, axis0] * c0[kv_idx, axis0])",
    "nested": "max(axis0 < 3, sum(axis1 < 4, c0[q_idx, axis0] * c0[kv_idx, axis1]))",
    "of what is steady": "sum(axis0 < 5, score * c0[q_idx, 2])",
    "two, apart": "sum(axis0 < 3, c0[kv_idx, axis0]) - sum(axis0 < 4, c0[axis0, q_idx])",
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head_rows", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_every_level(level: str, head_rows: bool, isa: str):
    structure = parse_structure(f"score(c0: f32[2]) -> f32\n{LEVELS[level]} + score")
    assert_equal(Grid(structure, (TABLE,), head_rows=head_rows), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["sum", "max", "min"])
@pytest.mark.parametrize(
    "values",
    [[-0.0, -0.0, -0.0], [np.nan, 1.0, 2.0], [1.0, 2.0, np.nan], [np.inf, -np.inf, 1.0], [1e30, -1e30, 1.0]],
    ids=str,
)
def test_floats_join_in_order(values: list[float], op: str, isa: str):
    for body in ("c0[axis0]", "c0[axis0] + f32(q_idx * kv_idx) * 0.0"):
        structure = parse_structure(f"score(c0: f32[1]) -> f32\n{op}(axis0 < 3, {body})")
        assert_equal(Grid(structure, (np.array(values, np.float32),)), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_a_sum_of_negative_zeros_is_one(isa: str):
    structure = parse_structure("score(c0: f32[1]) -> f32\nsum(axis0 < 3, c0[axis0])")
    values, _ = evaluate_grid(Grid(structure, (np.full(3, -0.0, np.float32),)), isa)
    assert np.signbit(values).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", ["i64", "i32", "i8"])
@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_integers_wrap(op: str, stored: str, isa: str):
    structure = parse_structure(
        f"mask(c0: {stored}[1]) -> bool\n{op}(axis0 < 4, c0[axis0] * (kv_idx - 3) * 3) < q_idx * 100"
    )
    kind = {"i64": np.int64, "i32": np.int32, "i8": np.int8}[stored]
    info = np.iinfo(kind)
    assert_equal(Grid(structure, (np.array([info.max, info.min, -1, info.max], kind),)), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("level", ["b", "q_idx", "kv_idx", "q_idx + kv_idx"])
def test_poison_of_one_element_is_poison_of_all(level: str, isa: str):
    structure = parse_structure(f"score(c0: f32[1]) -> f32\nsum(axis0 < 4, c0[axis0 + {level}])")
    assert_equal(Grid(structure, (np.arange(4, dtype=np.float32),)), isa)
    guarded = f"sum(axis0 < 4, where(axis0 + {level} < 4, c0[axis0 + {level}], 0.0))"
    structure = parse_structure(f"score(c0: f32[1]) -> f32\n{guarded}")
    assert_equal(Grid(structure, (np.arange(4, dtype=np.float32),)), isa)


def test_what_does_not_read_the_axis_is_outside_the_loop():
    structure = parse_structure("score(c0: f32[2]) -> f32\nsum(axis0 < 6, c0[q_idx, axis0] * exp(score))")
    text = kernel_text(Grid(structure, (TABLE,)), "avx2")
    alone = parse_structure("score() -> f32\nexp(score)")
    assert text.count("fdiv") == kernel_text(Grid(alone), "avx2").count("fdiv")
