"""The processor's limits, measured: multiply-adds and bytes read a second, on as many threads as torch has.

Owns the running of the loops of `peak_kernels`. The best of several runs counts, since whatever disturbs a
run only slows it. Memory is read from a buffer several times the size of the last cache.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from saccade.bench.cpu.peak_kernels import ENTRY, PeakKernel, bfloat16_dot, multiply_add, read_memory
from saccade.codegen.cpu.isa import ISAS
from saccade.runtime.host import this_host
from saccade.runtime.llvm import Target, compile_kernel, host_triple

__all__ = ["CACHES_READ", "Peaks", "beyond_caches", "measure_peaks"]

CACHES_READ = 4
"""How many times the last cache is read through, so that nothing of it is found there again."""

_STEPS = 2_000_000  # some 10 to 30 ms
_RUNS = 15
_SLOTS = 32  # int64s of arguments: the steps, 8 of data, the result
# Sums and products stay finite: x·x + ... of the float32 loop is a fixed point, 2⁻⁸ · 2⁻⁸ adds up slowly.
_FLOAT32_DATA = np.float32(0.5)
_BFLOAT16_DATA = np.uint16(0x3B80)


@final
@dataclass(frozen=True)
class Peaks:
    """The limits of the processor; None for one that was not measured.

    Attributes:
        float32_flops: Floating-point operations a second by float32 multiply-adds.
        bfloat16_flops: The same by dot products of bfloat16 pairs; None where there is no such instruction.
        read_bytes: Bytes a second from memory.
    """

    float32_flops: float | None = None
    bfloat16_flops: float | None = None
    read_bytes: float | None = None

    def flops(self, dtype: str) -> float | None:
        """The limit for a type of inputs: of bfloat16 that of float32, where it has none of its own.

        Example:
            >>> Peaks(float32_flops=5e11).flops("bfloat16")
            500000000000.0
        """
        if dtype == "bfloat16" and self.bfloat16_flops is not None:
            return self.bfloat16_flops
        return self.float32_flops

    def larger(self, other: Peaks) -> Peaks:
        """The larger of two measurements of each limit."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Peaks(*(max(filter(None, pair), default=None) for pair in pairs))

    def as_json(self) -> dict[str, float | int | None]:
        """The limits by name with unit, as a report holds them."""
        return {
            "float32_multiply_add_flop_s": self.float32_flops,
            "bfloat16_dot_flop_s": self.bfloat16_flops,
            "read_bytes_s": self.read_bytes,
        }


def beyond_caches() -> int:
    """Return how many bytes are too many for any cache to keep a part of them between two readings."""
    return CACHES_READ * this_host().l3_bytes


def measure_peaks(*, steps: int = _STEPS, runs: int = _RUNS) -> Peaks:
    """Measure the limits, with the best instructions of this processor whatever `SACCADE_CPU_ISA` says.

    Args:
        steps: Steps of a run of the arithmetic loops.
        runs: Runs of each loop; the best one counts.

    Example:
        >>> measure_peaks(steps=1000, runs=1).float32_flops > 0
        True
    """
    isa = ISAS[this_host().isa()]
    dot = bfloat16_dot(isa)
    return Peaks(
        float32_flops=_best_rate(multiply_add(isa), _filled(steps, _FLOAT32_DATA), runs),
        bfloat16_flops=None if dot is None else _best_rate(dot, _filled(steps, _BFLOAT16_DATA), runs),
        read_bytes=_read_rate(read_memory(isa), runs),
    )


def _filled(steps: int, number: np.generic) -> list[np.ndarray]:
    """Arguments of an arithmetic loop for every thread: the steps, and a vector of one number."""
    arguments = np.zeros(_SLOTS, np.int64)
    arguments.view(number.dtype)[:] = number
    arguments[0] = steps
    return [arguments.copy() for _ in range(torch.get_num_threads())]


def _read_rate(kernel: PeakKernel, runs: int) -> float:
    """Bytes a second, each thread reading its part of one buffer."""
    threads = torch.get_num_threads()
    steps = beyond_caches() // threads // kernel.work
    part = steps * kernel.work
    # Memory of torch's, as keys and values are: numpy asks the system for larger pages, which read faster.
    # Ones, not zeros: untouched zero pages would all be the same one.
    memory = torch.ones(threads * part, dtype=torch.uint8)
    arguments = [np.zeros(_SLOTS, np.int64) for _ in range(threads)]
    for number, one in enumerate(arguments):
        one[:2] = steps, memory.data_ptr() + number * part
    return _best_rate(kernel, arguments, runs)


def _best_rate(kernel: PeakKernel, arguments: Sequence[np.ndarray], runs: int) -> float:
    """Work a second of the fastest run, a thread for each block of arguments."""
    isa = ISAS[this_host().isa()]
    compiled = compile_kernel(ENTRY, kernel.text, [ENTRY], Target(host_triple(), isa.cpu, isa.features))
    # ctypes lets other Python threads run meanwhile.
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address(ENTRY))
    steps = sum(int(one[0]) for one in arguments)
    return kernel.work * steps / min(_together(run, arguments) for _ in range(runs))


def _together(run: Callable[[int], object], arguments: Sequence[np.ndarray]) -> float:
    """Seconds from the first thread's start to the last one's end; all start at once."""
    gate = threading.Barrier(len(arguments))
    spans: list[tuple[float, float]] = []

    def work(address: int) -> None:
        gate.wait()
        start = time.perf_counter()
        run(address)
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=work, args=(one.ctypes.data,)) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(stop for _, stop in spans) - min(start for start, _ in spans)
