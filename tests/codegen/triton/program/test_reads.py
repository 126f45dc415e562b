"""Reads of captured tensors: right for every stride and type, masked or kept inside, named as promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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
from saccade.codegen.program.facts import ProgramFacts
from saccade.codegen.program.which import Which
from saccade.codegen.triton.parameters import Parameter
from saccade.codegen.triton.program.text import ProgramText
from saccade.ir.dtype import DType
from saccade.ir.elementwise import NUMPY_TYPE
from saccade.ir.text import parse_structure

LAYOUTS = {
    "dense": lambda values: values,
    "transposed": lambda values: values.T,
    "every second": lambda values: values[::2, ::2],
    "broadcast": lambda values: np.broadcast_to(values[0, :1], (9, 9)),
}


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout: str, wide: bool, proven: bool, interpreter: KernelServer, compiler: KernelServer):
    array = LAYOUTS[layout](np.arange(18 * 14, dtype=np.float32).reshape(18, 14))
    body = "c0[q_idx, kv_idx] + c0[kv_idx, q_idx] * c0[kv_idx - 7, -1 - q_idx]"
    structure = parse_structure(f"score(c0: f32[2]) -> f32\n{body} + score")
    grid = Grid(structure, (array,), batch=1, proven=proven, wide=wide)
    assert_equal(grid, interpreter)
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.BFLOAT16])
def test_stored_types(dtype: DType, interpreter: KernelServer, compiler: KernelServer):
    with np.errstate(over="ignore"):
        values = np.array([0, 1, 100, 255, 2**31 - 1, -1, -(2**31)], np.int64).astype(NUMPY_TYPE[dtype])
    # Of 53 bits a sum of both kinds of reads is exact.
    structure = parse_structure(
        f"score(c0: {dtype.value}[1]) -> f64\nf64(c0[kv_idx]) + f64(c0[b]) + f64(c0[q_idx + kv_idx])"
    )
    grid = Grid(structure, (values,), batch=1)
    assert_equal(grid, interpreter)
    assert compiled_grid(grid, compiler)


@pytest.mark.parametrize("body", ["c0[kv_idx]", "c0[q_idx]", "c0[b]", "c0[kv_idx * q_idx]", "c0[6 - kv_idx]"])
def test_bfloat16(body: str, interpreter: KernelServer):
    values = np.array([0.0, -1.5, 3.0e38, np.inf, np.nan, 2e-38, 0.1, *range(21)], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    grid = Grid(parse_structure(f"score(c0: bf16[1]) -> f32\n{body}"), (bits,), batch=1)
    stored = (bits.astype(np.uint32) << 16).view(np.float32)
    wanted = reference(grid, [stored]).value
    given, poison = evaluate_grid(grid, interpreter)
    assert not poison.any()
    np.testing.assert_array_equal(given, np.broadcast_to(wanted, given.shape))


@pytest.mark.parametrize("body", ["i64(c0[()])", "where(kv_idx < q_idx, c0[()], 3)"])
def test_tensors_without_dimensions(body: str, interpreter: KernelServer):
    structure = parse_structure(f"mask(c0: i16[0]) -> bool\nkv_idx < {body}")
    assert_equal(Grid(structure, (np.array(4, np.int16),), batch=1), interpreter)


@pytest.mark.parametrize(
    "body", ["c0[kv_idx]", "c0[q_idx]", "c0[h]", "c0[-1]", "(kv_idx < 0) & c0[q_idx + kv_idx]"]
)
def test_an_empty_tensor_has_no_element(body: str, interpreter: KernelServer):
    structure = parse_structure(f"mask(c0: bool[1]) -> bool\n{body}")
    assert_equal(Grid(structure, (np.zeros(0, bool),), batch=1), interpreter)


def test_an_index_that_may_be_poison_is_kept_inside():
    """A proof speaks of values: what stands where a division has none may be beyond it."""
    structure = parse_structure("score(c0: f32[1], n0: i64) -> f32\nscore + c0[q_idx // n0]")
    grid = Grid(structure, (np.zeros(2, np.float32),), (0,))
    assert grid.facts.bounded
    assert "ir_index(" in "\n".join(program_text(grid, checks=False).before)


def inside_of(body: str, shape: tuple[int, ...], **changes: object) -> str:
    structure = parse_structure(f"score(c0: f32[{len(shape)}]) -> f32\nscore + {body}")
    grid = replace(Grid(structure, (np.zeros(shape, np.float32),)), **changes)  # type: ignore[arg-type]
    return "\n".join(program_text(grid, checks=False).inside)


def test_consecutive_keys_are_consecutive_elements():
    """The last index stands in the address as it is: nothing about it hides that it goes up by one."""
    assert "score_c0 + (q_idx * score_c0_s0 + kv_idx)" in inside_of("c0[q_idx, kv_idx]", (5, 7))
    assert "score_c0 + (kv_idx + 3)" in inside_of("c0[kv_idx + 3]", (10,))
    structure = parse_structure("score(c0: f32[1]) -> f32\nscore + c0[kv_idx + 3]")
    strided = program_text(Grid(structure, (np.zeros(20, np.float32)[::2],)), checks=False)
    assert "score_c0 + (kv_idx + 3) * score_c0_s0" in "\n".join(strided.inside)


def test_a_proven_read_is_masked_and_any_other_kept_inside():
    assert "mask=q_inside & kv_inside" in inside_of("c0[q_idx, kv_idx]", (5, 7))
    assert "mask=kv_inside" in inside_of("c0[h, kv_idx]", (2, 7))
    assert "mask" not in inside_of("c0[kv_idx]", (6,))
    assert "ir_index(kv_idx, score_c0_n0)" in inside_of("c0[kv_idx]", (6,))
    # One dimension proven, the other not.
    mixed = inside_of("c0[q_idx, kv_idx]", (5, 6))
    assert "mask=q_inside" in mixed
    assert "ir_index(kv_idx, score_c0_n1)" in mixed


@pytest.mark.parametrize("way", Way)
def test_where_positions_cannot_pass_their_length_nothing_is_masked(way: Way):
    structure = parse_structure("score(c0: f32[2]) -> f32\nscore + c0[q_idx, kv_idx]")
    grid = Grid(structure, (np.zeros((5, 7), np.float32),), way=way)
    text = ProgramText(structure, grid.facts, Which.SCORE, replace(grid.place, limits={}))
    assert "mask" not in "\n".join((*text.before, *text.inside))


def parameters_of(**more: frozenset[int]) -> tuple[Parameter, ...]:
    structure = parse_structure(
        "score(c0: bf16[2], c1: bool[1], c2: f32[1], n0: i64, n1: f64) -> f32\n"
        "where(c1[kv_idx], score + c0[q_idx, kv_idx] * f32(n1), f32(n0))"
    )
    facts = ProgramFacts(dense=(True, False, True))
    return ProgramText(structure, facts, Which.SCORE, Grid(structure).place, **more).parameters  # type: ignore[arg-type]


def test_parameters_are_those_that_are_read():
    assert [(parameter.name, parameter.type) for parameter in parameters_of()] == [
        ("score_c0", "*bf16"),
        ("score_c0_s0", "i32"),
        ("score_c0_n0", "i32"),
        ("score_c0_n1", "i32"),
        ("score_c1", "*i1"),
        ("score_c1_s0", "i32"),
        ("score_c1_n0", "i32"),
        ("score_n0", "i64"),
        ("score_n1", "fp64"),
    ]
    wide = {parameter.name: parameter.type for parameter in parameters_of(wide_captures=frozenset({0}))}
    assert wide["score_c0_s0"] == wide["score_c0_n1"] == "i64"
    assert wide["score_c1_n0"] == "i32"
    aligned = parameters_of(aligned_captures=frozenset({0}))
    assert {parameter.name: parameter.divisible for parameter in aligned if parameter.divisible > 1} == {
        "score_c0": 16,
        "score_c0_s0": 8,
    }
