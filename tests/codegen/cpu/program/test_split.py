"""Programs split by dependence: what each level keeps for the next."""

from __future__ import annotations

import pytest

from codegen.cpu.program.grid_kernel import Grid, evaluate_grid, host_isas
from codegen.cpu.program.test_code import assert_equal
from saccade.codegen.cpu.program.ramps import ramp
from saccade.codegen.cpu.program.split import Level, Split
from saccade.ir.dtype import DType
from saccade.ir.expr import const, make, var
from saccade.ir.ops import Op
from saccade.ir.rewrite import lower
from saccade.ir.structure import ModKind, Structure
from saccade.ir.text import format_expression, parse_structure


def split_of(text: str, *, row_variables: tuple[str, ...] = ("q_idx",), dense: bool = True) -> Split:
    structure = parse_structure(text)
    return Split(lower(structure.root), row_variables, (dense,) * len(structure.captures))


def shown(nodes: object) -> set[str]:
    return {format_expression(node) for node in nodes}  # type: ignore[attr-defined]


def test_each_level_keeps_its_frontier():
    split = split_of(
        "mask(c0: i64[1], n0: i64) -> bool\n"
        "(c0[q_idx] == c0[kv_idx]) & (q_idx // 128 - n0 * b <= kv_idx // 64)"
    )
    assert shown(split.rows) == {"c0[q_idx]", "q_idx // 128 - n0 * b"}
    assert shown(split.columns) == {"c0[kv_idx]", "kv_idx // 64"}
    assert shown(split.items) == {"n0 * b"}


def test_heads_may_vary_from_row_to_row():
    text = "score(c0: f32[1]) -> f32\nscore + c0[h] * f32(q_idx - kv_idx)"
    assert shown(split_of(text).items) == {"c0[h]"}
    assert shown(split_of(text).rows) == {"q_idx"}
    rows = split_of(text, row_variables=("h", "q_idx"))
    assert shown(rows.items) == set()
    assert shown(rows.rows) == {"c0[h]", "q_idx"}


def test_a_ramp_needs_no_table_of_keys():
    text = "score(c0: f32[3]) -> f32\nscore + c0[b, h, q_idx - kv_idx + 9]"
    assert shown(split_of(text).columns) == set()
    assert shown(split_of(text, dense=False).columns) == {"kv_idx"}


def test_a_program_of_one_level_is_kept_whole():
    for text, level in (
        ("mask() -> bool\nq_idx % 2 == 0", Level.ROW),
        ("mask() -> bool\nkv_idx % 2 == 0", Level.COLUMN),
        ("mask() -> bool\nb == h", Level.ITEM),
    ):
        split = split_of(text)
        kept = {Level.ITEM: split.items, Level.ROW: split.rows, Level.COLUMN: split.columns}
        assert kept[level] == (split.root,)


def test_inside_a_reduction_the_frontier_is_what_no_axis_reaches():
    split = split_of(
        "score(c0: f32[2]) -> f32\nsum(axis0 < 4, c0[q_idx // 2, axis0] * c0[axis0, kv_idx // 2])"
    )
    assert shown(split.rows) == {"q_idx // 2"}
    assert shown(split.columns) == {"kv_idx // 2"}


@pytest.mark.parametrize(
    ("index", "step"),
    [
        ("kv_idx", 1),
        ("kv_idx + q_idx * 3 - b", 1),
        ("q_idx - kv_idx + 7", -1),
        ("-(kv_idx - q_idx)", -1),
        ("kv_idx + kv_idx - kv_idx", 1),
        ("kv_idx + kv_idx", None),
        ("kv_idx - kv_idx + q_idx", None),
        ("kv_idx * 1 // 1 % 8", None),
        ("where(q_idx < 3, kv_idx, 0)", None),
        ("abs(kv_idx)", None),
        ("q_idx", None),
    ],
)
def test_ramps(index: str, step: int | None):
    root = parse_structure(f"mask() -> bool\n{index} == 99").root.args[0]
    found = ramp(root)
    assert (None if found is None else found.step) == step


@pytest.mark.parametrize("isa", host_isas())
@pytest.mark.parametrize("body", ["True", "False", "b == h", "q_idx < 3", "kv_idx < 3"])
def test_programs_that_read_little(body: str, isa: str):
    assert_equal(Grid(parse_structure(f"mask() -> bool\n{body}")), isa)


def test_depth_is_no_limit():
    root = var("score", DType.FLOAT32)
    for step in range(3000):
        root = make((Op.ADD, Op.MUL)[step % 2], (root, const((0.5, 0.75)[step % 2], DType.FLOAT32)))
    grid = Grid(Structure(ModKind.SCORE, root), batch=1, heads=1, q_len=1, kv_len=3)
    values, poison = evaluate_grid(grid, host_isas()[0])
    assert not poison.any()
    assert (abs(values - 1.5) < 1e-6).all()  # the fixed point of 0.75 * (x + 0.5)
