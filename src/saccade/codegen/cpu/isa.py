"""The instruction sets that kernels are written for, as data.

One emitter serves them all: an `Isa` says how wide its vectors are, how many it has, and which instructions
it offers. Which of them a processor can run is `runtime.host`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from saccade.ir.dtype import DType

__all__ = ["ISAS", "Isa"]


@final
@dataclass(frozen=True)
class Isa:
    """An instruction set, as far as kernels depend on it.

    Attributes:
        name: What `SACCADE_CPU_ISA` and `KernelKey.target` call it.
        arch: LLVM's name of the architecture.
        cpu: The processor LLVM compiles for; it brings its own features.
        features: What is offered beyond, in LLVM's spelling.
        vector_bits: Width of a vector register.
        registers: How many there are.
        fma: Whether a fused multiply-add is one instruction.
        bf16_dot: Whether pairs of bfloat16 are multiplied and summed by one instruction.
        gathers: Whether a vector is loaded from scattered addresses by one instruction.
        half: Whether float16 is converted by an instruction.
        rounds: Whether a number is rounded to an integer, to any side, by one instruction.

    Example:
        >>> ISAS["avx2"].lanes(DType.FLOAT32), ISAS["avx512"].lanes(DType.FLOAT64)
        (8, 8)
    """

    name: str
    arch: str
    cpu: str
    features: str
    vector_bits: int
    registers: int
    fma: bool
    bf16_dot: bool = False
    gathers: bool = False
    half: bool = True
    rounds: bool = True

    def lanes(self, dtype: DType) -> int:
        """Return how many values of a type a vector register holds."""
        return self.vector_bits // (8 * dtype.itemsize)

    def masks_loads(self, dtype: DType) -> bool:
        """Return whether a vector load can leave lanes out; where not, each lane takes a branch."""
        return self.vector_bits == 512 or (self.vector_bits == 256 and dtype.itemsize >= 4)


# prefer-256-bit would split our 512-bit vectors in two.
_AVX512 = "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,-prefer-256-bit"

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("avx512_bf16", "x86_64", "x86-64-v4", f"{_AVX512},+avx512bf16", 512, 32, True, True, True),
        Isa("avx512", "x86_64", "x86-64-v4", _AVX512, 512, 32, True, False, True),
        Isa("avx2", "x86_64", "x86-64-v3", "", 256, 16, True, False, True),
        Isa("baseline", "x86_64", "x86-64", "", 128, 16, False, half=False, rounds=False),
        Isa("neon", "aarch64", "generic", "+neon", 128, 32, True),
    )
}
"""Every instruction set by name. On AArch64 `neon` is the baseline."""
