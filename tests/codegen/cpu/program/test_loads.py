"""Reads of captured tensors: right for every stride and type, and never outside a tensor."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codegen.cpu.program import guarded_reads
from codegen.cpu.program.grid_kernel import Grid, evaluate_grid, host_isas, kernel_text, reference
from codegen.cpu.program.test_code import assert_equal
from saccade.ir.dtype import DType
from saccade.ir.interpret import evaluate
from saccade.ir.text import parse_structure

ISAS = host_isas()
SCRIPT = Path(guarded_reads.__file__)


def run_guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(SCRIPT.parents[3]), str(SCRIPT.parents[4] / "src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("isa", ISAS)
def test_no_byte_outside_a_tensor_is_read(isa: str):
    done = run_guarded(isa)
    assert done.returncode == 0, done.stderr


def test_the_pages_guard():
    assert run_guarded(ISAS[0], "lie").returncode < 0  # killed by a signal


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("body", ["c0[q_idx, kv_idx]", "c0[kv_idx, q_idx]", "c0[kv_idx - 7, -1 - q_idx]"])
@pytest.mark.parametrize("layout", ["dense", "transposed", "every second", "backwards", "broadcast"])
def test_strides(layout: str, body: str, proven: bool, isa: str):
    values = np.arange(18 * 14, dtype=np.float32).reshape(18, 14)
    array = {
        "dense": values,
        "transposed": values.T,
        "every second": values[::2, ::2],
        "backwards": values[::-1, ::-1],
        "broadcast": np.broadcast_to(values[0, :1], (9, 9)),
    }[layout]
    structure = parse_structure(f"score(c0: f32[2]) -> f32\n{body} + score")
    assert_equal(Grid(structure, (array,), proven=proven), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("body", ["c0[kv_idx]", "c0[q_idx]", "c0[b]", "c0[kv_idx * q_idx]", "c0[6 - kv_idx]"])
def test_bfloat16(body: str, isa: str):
    values = np.array([0.0, -1.5, 3.0e38, np.inf, np.nan, 1e-40, 0.1, *range(21)], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    structure = parse_structure(f"score(c0: bf16[1]) -> f32\n{body}")
    grid = Grid(structure, (bits,))
    stored = (bits.astype(np.uint32) << 16).view(np.float32)
    wanted = reference(grid, [stored]).value
    given, poison = evaluate_grid(grid, isa)
    assert not poison.any()
    np.testing.assert_array_equal(given, np.broadcast_to(wanted, given.shape))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("body", ["i64(c0[()])", "where(kv_idx < q_idx, c0[()], 3)"])
def test_tensors_without_dimensions(body: str, isa: str):
    structure = parse_structure(f"mask(c0: i16[0]) -> bool\nkv_idx < {body}")
    assert_equal(Grid(structure, (np.array(4, np.int16),)), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "body", ["c0[kv_idx]", "c0[q_idx]", "c0[h]", "c0[-1]", "(kv_idx < 0) & c0[q_idx + kv_idx]"]
)
def test_an_empty_tensor_has_no_element(body: str, isa: str):
    structure = parse_structure(f"mask(c0: bool[1]) -> bool\n{body}")
    assert_equal(Grid(structure, (np.zeros(0, bool),)), isa)


def test_consecutive_keys_are_one_load():
    """Up, down, from the end and through a transposition that keeps the last stride."""
    for body, shape in (
        ("c0[q_idx, kv_idx]", (5, 7)),
        ("c0[h, q_idx - kv_idx + 6]", (2, 11)),
        ("c0[b, kv_idx + q_idx]", (2, 11)),
        ("c0[b, kv_idx + q_idx - h - 1]", (2, 11)),
    ):
        structure = parse_structure(f"score(c0: f32[2]) -> f32\nscore + {body}")
        grid = Grid(structure, (np.zeros(shape, np.float32),))
        assert "gather" not in _pair_part(kernel_text(grid, "avx512")), body
        strided = replace(grid, captures=(np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2],))
        assert "gather" in _pair_part(kernel_text(strided, "avx512")), body


def _pair_part(text: str) -> str:
    """What follows the last table of columns: the calls that pairs make."""
    return "\n".join(line for line in text.splitlines() if "call" in line and "declare" not in line)


def test_poison_names_no_element():
    """Kleene: a read out of range behind a test that hides it gives no poison, as in the interpreter."""
    structure = parse_structure("mask(c0: bool[1]) -> bool\n(kv_idx < 4) & c0[kv_idx]")
    grid = Grid(structure, (np.ones(4, bool),))
    for isa in ISAS:
        values, poison = evaluate_grid(grid, isa)
        assert not poison.any()
        np.testing.assert_array_equal(values[0, 0, 0], np.arange(7) < 4)
    assert evaluate(structure.root, {"kv_idx": np.arange(7)}, grid.captures).poison is not None
    assert structure.captures[0].dtype is DType.BOOL
