"""Three loops that do nothing but reach a limit of the processor, as LLVM IR text.

Owns the text and the count of its work; compiling and running it is `peaks`'. Nothing here is shared with the
engine that is measured against these limits. Every loop is `void peak(ptr arguments)`, with int64 arguments:
its steps, then its data. It writes its result behind them, so that nothing of it can be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from saccade.codegen.cpu.isa import Isa

__all__ = ["ENTRY", "PeakKernel", "bfloat16_dot", "multiply_add", "read_memory"]

ENTRY = "peak"
"""The name of the function in every text."""

# Sums in flight: more than the latency of an addition times the units that do them, on every processor known
# (4 cycles × 2 units; 4 × 4 of 128 bits), and few enough to stay in registers.
_IN_FLIGHT = {16: 12, 32: 16}
_LINE = 64  # bytes; a step of the reading loop takes four of them from each stream


@final
@dataclass(frozen=True)
class PeakKernel:
    """A loop.

    Attributes:
        text: Its LLVM IR.
        work: What one step does: floating-point operations, or bytes read.
    """

    text: str
    work: int


def multiply_add(isa: Isa) -> PeakKernel:
    """Return a loop of float32 multiply-adds on registers, a product and a sum each.

    Example:
        >>> from saccade.codegen.cpu.isa import ISAS
        >>> kernel = multiply_add(ISAS["avx2"])
        >>> kernel.text.count("call <8 x float> @llvm.fmuladd"), kernel.work == 12 * 8 * 2
        (12, True)
    """
    lanes, sums = isa.vector_bits // 32, _IN_FLIGHT[isa.registers]
    vector = f"<{lanes} x float>"
    function = f"@llvm.fmuladd.v{lanes}f32"
    text = _loop(
        vector,
        sums,
        f"  %x = load {vector}, ptr %data, align 8",
        lambda n: f"  %next{n} = call {vector} {function}({vector} %sum{n}, {vector} %x, {vector} %x)",
        "fadd",
        f"declare {vector} {function}({vector}, {vector}, {vector})",
    )
    return PeakKernel(text, sums * lanes * 2)


def bfloat16_dot(isa: Isa) -> PeakKernel | None:
    """Return a loop of dot products of bfloat16 pairs; None where the processor has no such instruction.

    Example:
        >>> from saccade.codegen.cpu.isa import ISAS
        >>> bfloat16_dot(ISAS["avx2"]) is None, bfloat16_dot(ISAS["avx512_bf16"]).work == 16 * 16 * 4
        (True, True)
    """
    if not isa.bf16_dot:
        return None
    lanes, sums = isa.vector_bits // 32, _IN_FLIGHT[isa.registers]
    vector, pairs = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
    function = f"@llvm.x86.avx512bf16.dpbf16ps.{isa.vector_bits}"
    text = _loop(
        vector,
        sums,
        f"  %x = load {pairs}, ptr %data, align 8",
        lambda n: f"  %next{n} = call {vector} {function}({vector} %sum{n}, {pairs} %x, {pairs} %x)",
        "fadd",
        f"declare {vector} {function}({vector}, {pairs}, {pairs})",
    )
    return PeakKernel(text, sums * lanes * 4)


def read_memory(isa: Isa) -> PeakKernel:
    """Return a loop that loads consecutive vectors and keeps only their union, bit by bit.

    Example:
        >>> from saccade.codegen.cpu.isa import ISAS
        >>> read_memory(ISAS["avx512"]).work, read_memory(ISAS["neon"]).work
        (256, 256)
    """
    lanes = isa.vector_bits // 32
    loads = 4 * _LINE // (4 * lanes)
    vector = f"<{lanes} x i32>"

    def load(n: int) -> str:
        return "\n".join(
            (
                f"  %at{n} = add i64 %first, {n}",
                f"  %from{n} = getelementptr {vector}, ptr %start, i64 %at{n}",
                f"  %x{n} = load {vector}, ptr %from{n}, align 4",
                f"  %next{n} = or {vector} %sum{n}, %x{n}",
            )
        )

    text = _loop(vector, loads, "  %start = load ptr, ptr %data", load, "or")
    return PeakKernel(text, loads * 4 * lanes)


def _loop(
    vector: str, sums: int, before: str, step: Callable[[int], str], join: str, declaration: str = ""
) -> str:
    """A loop over %step with accumulators %sum0, %sum1, ...; `step` makes %next{n} of %sum{n}.

    %first is the step times the number of accumulators. What they join to is stored 64 bytes behind %data.
    """
    numbers = range(sums)
    lines = [
        declaration,
        f"define void @{ENTRY}(ptr %arguments) {{",
        "entry:",
        "  %steps = load i64, ptr %arguments",
        "  %data = getelementptr i64, ptr %arguments, i64 1",
        before,
        "  br label %loop",
        "loop:",
        "  %step = phi i64 [0, %entry], [%following, %loop]",
        *(f"  %sum{n} = phi {vector} [zeroinitializer, %entry], [%next{n}, %loop]" for n in numbers),
        f"  %first = mul i64 %step, {sums}",
        *map(step, numbers),
        "  %following = add i64 %step, 1",
        "  %more = icmp slt i64 %following, %steps",
        "  br i1 %more, label %loop, label %done",
        "done:",
        f"  %all0 = {join} {vector} %next0, zeroinitializer",
        *(f"  %all{n} = {join} {vector} %all{n - 1}, %next{n}" for n in numbers[1:]),
        "  %result = getelementptr i64, ptr %data, i64 8",
        f"  store {vector} %all{sums - 1}, ptr %result, align 8",
        "  ret void",
        "}",
    ]
    return "\n".join(lines) + "\n"
