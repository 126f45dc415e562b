"""Poison: Kleene's rule in lanes, and the record that a kernel leaves of it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from codegen.cpu.program.grid_kernel import Grid, host_isas, target_of
from codegen.cpu.program.test_code import assert_equal
from saccade.codegen.cpu.arguments import State
from saccade.codegen.cpu.emitter import I64, Emitter
from saccade.codegen.cpu.isa import ISAS as EVERY_ISA
from saccade.codegen.cpu.program.poison import report_poison
from saccade.codegen.program.which import Which
from saccade.ir.dtype import DType
from saccade.ir.text import parse_structure
from saccade.runtime.llvm import CompiledKernel, compile_kernel

ISAS = host_isas()

# Each of c0 and c1 is False, True or out of range, by q_idx and kv_idx.
SIDES = {
    "q, k": ("c0[q_idx]", "c1[kv_idx]"),
    "k, q": ("c0[kv_idx]", "c1[q_idx]"),
    "b, k": ("c0[b]", "c1[kv_idx]"),
    "pair, k": ("c0[minimum(q_idx, kv_idx)]", "c1[kv_idx]"),
}
FORMS = ["{} & {}", "{} | {}", "{} ^ {}", "~{} & ~{}", "{} == {}", "{} < {}"]
FORMS += ["where({}, {}, q_idx < kv_idx)", "where({}, q_idx < kv_idx, {})", "where(q_idx < kv_idx, {}, {})"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sides", SIDES)
def test_kleene(form: str, sides: str, isa: str):
    structure = parse_structure(f"mask(c0: bool[1], c1: bool[1]) -> bool\n{form.format(*SIDES[sides])}")
    truths = np.array([False, True])
    assert_equal(Grid(structure, (truths, truths), q_len=3, kv_len=3, batch=3), isa)


@pytest.mark.parametrize("isa", ISAS)
def test_division_by_zero_is_poison(isa: str):
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
            assert_equal(Grid(structure, (), (number,)), isa)


def reporting_kernel(isa: str, which: Which) -> CompiledKernel:
    """`entry(ptr block)`: [state, b, h, q, k, lanes as bits], then reports."""
    e = Emitter(EVERY_ISA[isa], DType.FLOAT32, ir.Module("report"), "entry")
    block = e.function.args[0]
    state = e.builder.inttoptr(e.load(block, I64), ir.PointerType())
    b, h, q, k, lanes = (e.load(e.at(block, 8 * slot), I64) for slot in range(1, 6))
    bits = e.builder.trunc(lanes, ir.IntType(e.lanes))
    poison = e.builder.bitcast(bits, ir.VectorType(ir.IntType(1), e.lanes))
    report_poison(e, state, which, poison, b, h, q, k)
    report_poison(e, state, Which.SCORE, None, b, h, q, k)
    e.finish()
    return compile_kernel("report", str(e.module), ["entry"], target_of(isa))


@pytest.mark.parametrize("isa", ISAS)
def test_the_first_report_is_kept(isa: str):
    kernel = reporting_kernel(isa, Which.MASK_MOD)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address("entry"))
    state = np.zeros(8, np.int64)

    def report(*values: int) -> list[int]:
        block = np.array([state.ctypes.data, *values], np.int64)
        entry(block.ctypes.data)
        return state[State.ERROR :].tolist()

    assert report(1, 2, 3, 4, 0) == [0, 0, 0, 0, 0]
    assert report(1, 2, 3, 4, 0b1000) == [Which.MASK_MOD.value, 1, 2, 3, 4]
    assert report(5, 6, 7, 8, 1) == [Which.MASK_MOD.value, 1, 2, 3, 4]
    assert state[: State.ERROR].tolist() == [0, 0, 0]
