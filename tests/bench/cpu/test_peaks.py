"""The loops at the processor's limits: what their text counts, and that it computes what it counts."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from saccade.bench.cpu import peaks
from saccade.bench.cpu.peak_kernels import ENTRY, PeakKernel, bfloat16_dot, multiply_add, read_memory
from saccade.bench.cpu.peaks import Peaks, beyond_caches, measure_peaks
from saccade.codegen.cpu.isa import ISAS
from saccade.runtime.host import this_host
from saccade.runtime.llvm import Target, compile_kernel, emit_assembly, emit_object, host_triple

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}
HERE = ISAS[this_host().isa()]


@pytest.mark.parametrize("name", ISAS)
def test_the_text_does_the_work_it_counts(name: str) -> None:
    lanes = ISAS[name].vector_bits // 32
    target = Target(TRIPLES[ISAS[name].arch], ISAS[name].cpu, ISAS[name].features)
    add, read, dot = multiply_add(ISAS[name]), read_memory(ISAS[name]), bfloat16_dot(ISAS[name])
    assert add.work == 2 * lanes * len(re.findall(r"call <\d+ x float> @llvm.fmuladd", add.text))
    assert read.work == 4 * lanes * len(re.findall(r"load <\d+ x i32>", read.text))
    assert (dot is not None) == ISAS[name].bf16_dot
    if dot is not None:
        assert dot.work == 4 * lanes * dot.text.count("call <16 x float> @llvm.x86")
    for kernel in filter(None, (add, read, dot)):
        assert emit_object(kernel.text, target)


def test_sums_stay_in_registers() -> None:
    isa = ISAS["avx512"]
    target = Target(TRIPLES["x86_64"], isa.cpu, isa.features)
    assembly = emit_assembly(multiply_add(isa).text, target)
    products = [line for line in assembly.splitlines() if "vfmadd" in line]
    assert len(products) == 16
    assert all("(%r" not in line for line in products)


def run(kernel: PeakKernel, arguments: np.ndarray) -> np.ndarray:
    """What the loop wrote behind its data."""
    compiled = compile_kernel(ENTRY, kernel.text, [ENTRY], Target(host_triple(), HERE.cpu, HERE.features))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address(ENTRY))(arguments.ctypes.data)
    return arguments[9:].view(np.float32)[: HERE.vector_bits // 32]


def test_multiply_adds_are_made() -> None:
    arguments = np.zeros(32, np.int64)
    arguments.view(np.float32)[:] = 0.5
    arguments[0] = 10
    sums = multiply_add(HERE).work // 2 // (HERE.vector_bits // 32)
    # x·s + x with x = 1/2, ten times from 0: 1 - 2⁻¹⁰, in every sum and lane.
    assert (run(multiply_add(HERE), arguments) == sums * (1 - 2**-10)).all()


def test_memory_is_read_to_its_end() -> None:
    kernel = read_memory(HERE)
    memory = np.zeros(3 * kernel.work, np.uint8)
    memory[-1] = 64  # the last byte of the last vector: 2.0 as a float
    arguments = np.zeros(32, np.int64)
    arguments[:2] = 3, memory.ctypes.data
    found = run(kernel, arguments)
    assert (found[:-1] == 0).all()
    assert found[-1] == 2.0


def test_the_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "beyond_caches", lambda: 1 << 20)
    found = measure_peaks(steps=100, runs=1)
    assert found.float32_flops is not None
    assert found.read_bytes is not None
    assert min(found.float32_flops, found.read_bytes) > 0
    assert (found.bfloat16_flops is not None) == HERE.bf16_dot


def test_of_two_measurements_the_larger_counts() -> None:
    found = Peaks(3.0, None, 5.0).larger(Peaks(4.0, None, 1.0))
    assert found == Peaks(4.0, None, 5.0)
    assert (found.flops("float32"), found.flops("bfloat16")) == (4.0, 4.0)
    assert Peaks(3.0, 7.0).flops("bfloat16") == 7.0
    assert beyond_caches() == 4 * this_host().l3_bytes
