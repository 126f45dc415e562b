"""The argument block as a kernel reads it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from saccade.codegen.cpu.argument_reader import Arguments
from saccade.codegen.cpu.arguments import ArgumentLayout
from saccade.codegen.cpu.emitter import Emitter
from saccade.codegen.cpu.isa import ISAS
from saccade.ir.dtype import DType
from saccade.problem import AttentionProblem
from saccade.runtime.host import this_host
from saccade.runtime.llvm import Target, compile_kernel, host_triple

PROBLEM = AttentionProblem("cpu", DType.FLOAT32, 1, 1, 1, 1, 1, 1, 1, 1, 1.0)


@pytest.mark.parametrize("precise", [DType.FLOAT32, DType.FLOAT64], ids=["f32", "f64"])
def test_slots_are_read_once_and_serve_every_place(precise: DType):
    isa = this_host().isa()
    layout = ArgumentLayout.of(PROBLEM.kernel_key(isa, small_indices=False))
    e = Emitter(ISAS[isa], precise, ir.Module("reader"), "entry")
    arguments = Arguments(e, e.function.args[0], layout)
    with e.loop(0, 3) as loop:
        # First met inside a loop, and used after it.
        out = e.at(arguments.pointer("out"), e.builder.mul(loop.index, e.whole(precise.itemsize)))
        e.store(arguments.real("scale"), out)
        loop.hand_over([])
    e.store(arguments.get("kv_len"), arguments.pointer("lse"))
    e.finish()
    text = str(e.module)
    assert text.count("load ptr") == 2
    assert text.count("!invariant.load") == 4

    scales = np.zeros(3, np.float32 if precise is DType.FLOAT32 else np.float64)
    length = np.zeros(1, np.int64)
    block = np.zeros(layout.size, np.int64)
    block[layout.slot("out")] = scales.ctypes.data
    block[layout.slot("lse")] = length.ctypes.data
    block[layout.slot("kv_len")] = 2**40 + 1
    block[layout.slot("scale")] = np.float64(0.1).view(np.int64)
    target = Target(host_triple(), ISAS[isa].cpu, ISAS[isa].features)
    kernel = compile_kernel("reader", text, ["entry"], target)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address("entry"))(block.ctypes.data)
    assert (scales == scales.dtype.type(0.1)).all()
    assert length[0] == 2**40 + 1
