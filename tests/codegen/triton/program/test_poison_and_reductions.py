"""Kleene's rule at every pair, and reductions at every place: in order, with NaN, wrap-around and poison."""

from __future__ import annotations

import numpy as np
import pytest

from codegen.triton.program.grid_module import Grid, Way, compiled_grid, evaluate_grid, program_text
from codegen.triton.program.kernel_server import KernelServer
from codegen.triton.program.test_programs import assert_equal
from saccade.ir.text import parse_structure

TABLE = np.random.default_rng(5).normal(size=(7, 20)).astype(np.float32)

# Each of c0 and c1 is False, True or out of range, by q_idx and kv_idx.
SIDES = {
    "q, k": ("c0[q_idx]", "c1[kv_idx]"),
    "b, k": ("c0[b]", "c1[kv_idx]"),
    "pair, k": ("c0[minimum(q_idx, kv_idx)]", "c1[kv_idx]"),
}
FORMS = ["{} & {}", "{} | {}", "{} ^ {}", "~{} & ~{}", "{} == {}", "{} < {}"]
FORMS += ["where({}, {}, q_idx < kv_idx)", "where({}, q_idx < kv_idx, {})", "where(q_idx < kv_idx, {}, {})"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sides", SIDES)
def test_kleene(form: str, sides: str, interpreter: KernelServer):
    structure = parse_structure(f"mask(c0: bool[1], c1: bool[1]) -> bool\n{form.format(*SIDES[sides])}")
    truths = np.array([False, True])
    grid = Grid(structure, (truths, truths), q_len=3, kv_len=3, batch=3, heads=1)
    assert_equal(grid, interpreter)


def test_division_by_zero_is_poison(interpreter: KernelServer):
    for body in (
        "q_idx // kv_idx < 2",
        "b % (q_idx - 2) == 1",
        "(kv_idx == 0) | (q_idx % kv_idx == 1)",
        "where(kv_idx == 0, q_idx < 2, q_idx // kv_idx == 1)",
        "q_idx // 0 == 1",
        "(q_idx < 2) & (b // n0 == 1)",
    ):
        structure = parse_structure(f"mask(n0: i64) -> bool\n{body}")
        for number in (0, 1):
            assert_equal(Grid(structure, (), (number,), heads=1), interpreter)


def test_poison_is_written_only_where_it_may_be_and_is_asked_for():
    structure = parse_structure("mask(c0: bool[1]) -> bool\nc0[kv_idx]")
    assert program_text(Grid(structure, (np.ones(7, bool),))).poison is None
    short = Grid(structure, (np.ones(6, bool),))
    assert program_text(short).poison is not None
    unchecked = program_text(short, checks=False)
    assert unchecked.poison is None
    assert "poison" not in "\n".join((*unchecked.before, *unchecked.inside))


PLACES = {
    "steady": "sum(axis0 < 6, c0[b, axis0])",
    "row": "sum(axis0 < 6, c0[q_idx, axis0])",
    "column": "sum(axis0 < 6, c0[kv_idx, axis0])",
    "pair": "sum(axis0 < 20, c0[q_idx, axis0] * c0[kv_idx, axis0])",
    "nested": "max(axis0 < 3, sum(axis1 < 4, c0[q_idx, axis0] * c0[kv_idx, axis1]))",
    "nested, apart": "max(axis0 < 3, c0[q_idx, axis0] * sum(axis1 < 4, c0[kv_idx, axis1]))",
    "of what is steady": "sum(axis0 < 5, score * c0[q_idx, 2])",
    "two, apart": "sum(axis0 < 3, c0[kv_idx, axis0]) - sum(axis0 < 4, c0[axis0, q_idx])",
}


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("place", PLACES)
def test_every_place(place: str, way: Way, interpreter: KernelServer, compiler: KernelServer):
    structure = parse_structure(f"score(c0: f32[2]) -> f32\n{PLACES[place]} + score")
    grid = Grid(structure, (TABLE,), batch=1, way=way)
    assert_equal(grid, interpreter)
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("op", ["sum", "max", "min"])
@pytest.mark.parametrize(
    "values",
    [[-0.0, -0.0, -0.0], [np.nan, 1.0, 2.0], [1.0, 2.0, np.nan], [np.inf, -np.inf, 1.0], [1e30, -1e30, 1.0]],
    ids=str,
)
def test_floats_join_in_order(values: list[float], op: str, interpreter: KernelServer):
    structure = parse_structure(f"score(c0: f32[1]) -> f32\n{op}(axis0 < 3, c0[axis0]) + score * 0.0")
    assert_equal(Grid(structure, (np.array(values, np.float32),), batch=1), interpreter)


def test_a_sum_of_negative_zeros_is_one(interpreter: KernelServer):
    structure = parse_structure("score(c0: f32[1]) -> f32\nsum(axis0 < 3, c0[axis0])")
    values, _ = evaluate_grid(Grid(structure, (np.full(3, -0.0, np.float32),)), interpreter)
    assert np.signbit(values).all()


@pytest.mark.parametrize("stored", ["i64", "i32", "i8"])
@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_integers_wrap(op: str, stored: str, interpreter: KernelServer, compiler: KernelServer):
    structure = parse_structure(
        f"mask(c0: {stored}[1]) -> bool\n{op}(axis0 < 4, c0[axis0] * (kv_idx - 3) * 3) < q_idx * 100"
    )
    kind = {"i64": np.int64, "i32": np.int32, "i8": np.int8}[stored]
    info = np.iinfo(kind)
    grid = Grid(structure, (np.array([info.max, info.min, -1, info.max], kind),), batch=1)
    assert_equal(grid, interpreter)
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("level", ["b", "q_idx", "kv_idx", "q_idx + kv_idx"])
def test_poison_of_one_element_is_poison_of_all(
    level: str, interpreter: KernelServer, compiler: KernelServer
):
    guarded = f"sum(axis0 < 4, where(axis0 + {level} < 4, c0[axis0 + {level}], 0.0))"
    for body in (f"sum(axis0 < 4, c0[axis0 + {level}])", guarded):
        structure = parse_structure(f"score(c0: f32[1]) -> f32\n{body}")
        grid = Grid(structure, (np.arange(4, dtype=np.float32),), heads=1)
        assert_equal(grid, interpreter)
        assert compiled_grid(grid, compiler)


def test_what_does_not_read_the_axis_is_outside_the_loop():
    structure = parse_structure("score(c0: f32[2]) -> f32\nsum(axis0 < 6, c0[q_idx, axis0] * exp(score))")
    lines = program_text(Grid(structure, (TABLE,))).inside
    (exponential,) = [line for line in lines if "tl.exp" in line]
    assert not exponential.startswith(" ")


def test_short_loops_are_unrolled():
    for extent, loop in ((16, "in tl.static_range(16):"), (17, "in range(17):")):
        structure = parse_structure(f"score(c0: f32[2]) -> f32\nsum(axis0 < {extent}, c0[q_idx, axis0])")
        assert any(line.endswith(loop) for line in program_text(Grid(structure, (TABLE,))).before)
