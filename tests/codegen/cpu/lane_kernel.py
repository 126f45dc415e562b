"""Small kernels that run a piece of the emitter over arrays, vector by vector, on each instruction set."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from saccade.codegen.cpu.emitter import I64, Emitter, Value
from saccade.codegen.cpu.isa import ISAS
from saccade.ir.dtype import DType
from saccade.runtime.elf import undefined_symbols
from saccade.runtime.host import this_host
from saccade.runtime.llvm import Target, compile_kernel, emit_object, host_triple

Array = npt.NDArray[np.generic]
Body = Callable[[Emitter, Sequence[Value], Value], None]
"""What is done for one vector: the emitter, the arrays' addresses, the number of its first element."""

HOST_ISAS = list(this_host().isas)
"""The instruction sets that run here."""

PRECISE = (DType.FLOAT32, DType.FLOAT64)
NUMPY = {DType.FLOAT32: np.float32, DType.FLOAT64: np.float64}

_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def kernel_text(isa: str, precise: DType, arrays: int, body: Body) -> str:
    """A kernel of the arguments [elements, address, address, ...]."""
    module = ir.Module("lanes")
    e = Emitter(ISAS[isa], precise, module, "entry")
    arguments = e.function.args[0]
    addresses = [
        e.builder.inttoptr(e.load(e.at(arguments, 8 * slot), I64), ir.PointerType())
        for slot in range(1, arrays + 1)
    ]
    with e.loop(0, e.load(arguments, I64), e.lanes) as loop:
        body(e, addresses, loop.index)
    e.finish()
    return str(module)


def library_calls(isa: str, precise: DType, arrays: int, body: Body) -> set[str]:
    """What the kernel would call, compiled for any instruction set."""
    target = Target(_TRIPLES[ISAS[isa].arch], ISAS[isa].cpu, ISAS[isa].features)
    return undefined_symbols(emit_object(kernel_text(isa, precise, arrays, body), target))


def run_kernel(isa: str, precise: DType, body: Body, elements: int, *arrays: Array) -> None:
    """Run the kernel over `elements`, a multiple of the lanes, of contiguous arrays."""
    target = Target(host_triple(), ISAS[isa].cpu, ISAS[isa].features)
    kernel = compile_kernel("lanes", kernel_text(isa, precise, len(arrays), body), ["entry"], target)
    arguments = np.array([elements, *(array.ctypes.data for array in arrays)], np.int64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address("entry"))(arguments.ctypes.data)


def elementwise(function: Callable[..., Value]) -> Body:
    """The body that stores a function of the elements of all arrays but the first into that one."""

    def body(e: Emitter, addresses: Sequence[Value], first: Value) -> None:
        offset = e.binary("mul", first, e.whole(e.precise.itemsize))
        out, *operands = (e.at(address, offset) for address in addresses)
        e.store(function(e, *(e.load_vector(operand) for operand in operands)), out)

    return body


def mapped(function: Callable[..., Value], isa: str, precise: DType, *operands: Array) -> Array:
    """A function of the precise type, applied to arrays of any one length."""
    size = operands[0].size
    padded = [np.append(operand, np.ones(-size % 16, operand.dtype)) for operand in operands]
    out = np.empty_like(padded[0])
    run_kernel(isa, precise, elementwise(function), out.size, out, *padded)
    return out[:size]
